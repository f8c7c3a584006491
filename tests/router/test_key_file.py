"""A file of API keys: what each may use, and how routers notice that it has changed."""

import asyncio
import itertools
import json
import stat

import pytest

from cluster.cli import main
from cluster.errors import StartUpError
from cluster.settings import load_settings
from router.settings import RouterSettings
from router.tenants import key_file
from router.tenants.cache_scopes import CacheScopes
from router.tenants.key_file import add_key, read_keys, revoke_key
from tests.router.fake_engine import counted
from tests.router.test_requests import CHAT, assert_error
from tests.router.test_tenants import LONG, by, expected
from tests.waiting import eventually

KINDS = {
    "a": {"tenant": "a"},
    "a again": {"tenant": "a"},
    "a, agent": {"tenant": "a", "role": "agent"},
    "a, test": {"tenant": "a", "environment": "test"},
    "a, eu": {"tenant": "a", "replicas": {"region": "eu"}},
    "b": {"tenant": "b"},
    "a in x": {"tenant": "a", "cache": "group:x"},
    "b in x": {"tenant": "b", "cache": "group:x"},
    "b in y": {"tenant": "b", "cache": "group:y"},
    "a, public": {"tenant": "a", "cache": "public"},
    "b, public": {"tenant": "b", "cache": "public"},
    "a, private": {"tenant": "a", "cache": "private"},
    "a, none": {"tenant": "a", "cache": "none"},
    "named like a group": {"tenant": "group.x"},
}
SHARE = {("a", "a again"), ("a in x", "b in x"), ("a, public", "b, public"), ("a, private", "a, private"),
         *((name, name) for name in KINDS if name != "a, none")}  # fmt: skip


@pytest.fixture
def file(tmp_path):
    """Where keys are to be written."""
    return tmp_path / "keys.json"


def test_secrets_are_not_in_the_file(file):
    """It holds their hashes, and only its owner may read it."""
    added, secret = add_key(file, tenant="acme", role="support")
    assert secret not in file.read_text()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert read_keys(file) == [added]
    other, _ = add_key(file, tenant="acme")
    assert revoke_key(file, added.id) == added
    assert read_keys(file) == [other]
    assert [path.name for path in file.parent.iterdir()] == ["keys.json"]


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"tenant": ""}, "tenant"),
        ({"tenant": "a b"}, "tenant"),
        ({"tenant": "a\0b"}, "tenant"),
        ({"tenant": "a", "cache": "everybody"}, "cache"),
        ({"tenant": "a", "cache": "group:"}, "cache"),
        ({"tenant": "a", "cache_seconds": -1}, "cache_seconds"),
        ({"tenant": "a", "role": "x" * 65}, "role"),
    ],
)
def test_wrong_fields_are_named(file, fields, said):
    """Nothing is written then."""
    with pytest.raises(StartUpError, match=said):
        add_key(file, **fields)
    assert not file.exists()


@pytest.mark.parametrize("content", ["", "{}", "[{}]", '[{"id": "x"}]', "\xff", '[{"tenat": "a"}]'])
def test_router_does_not_start_with_a_wrong_file(file, content):
    """The setting and the file are named."""
    file.write_text(content)
    with pytest.raises(StartUpError, match=r"WARMROUTE_API_KEYS_FILE.*keys\.json"):
        load_settings(RouterSettings, api_keys_file=file)
    with pytest.raises(StartUpError, match="No such file"):
        load_settings(RouterSettings, api_keys_file=file.parent / "nowhere.json")


def test_keys_from_the_command_line(file, capsys, monkeypatch):
    """Add prints the secret alone, list shows rights and no secret, revoke removes."""
    monkeypatch.setenv("WARMROUTE_API_KEYS_FILE", str(file))

    def run(*arguments):
        with pytest.raises(SystemExit) as ended:
            main(["keys", *arguments])
        return ended.value.code, capsys.readouterr()

    code, said = run("add", "acme", "--role", "support", "--replicas", "region=eu", "--model", "m")
    assert code == 0
    [key] = read_keys(file)
    assert (key.role, key.replicas, key.models) == ("support", {"region": "eu"}, ("m",))
    secret = said.out.strip()
    assert secret.startswith("wr-")
    code, said = run("list")
    assert code == 0
    assert all(text in said.out for text in (key.id, "acme", "support", "region=eu"))
    assert secret not in said.out
    assert run("revoke", key.id)[0] == 0
    code, said = run("revoke", key.id)
    assert code == 2
    assert key.id in said.err
    assert run("add", "acme", "--replicas", "eu")[0] == 2
    assert read_keys(file) == []


@pytest.mark.parametrize(("one", "other"), list(itertools.combinations_with_replacement(KINDS, 2)))
def test_who_shares_caches(file, one, other, tmp_path):
    """Two keys have one cache exactly where tenant, role, environment and replicas are the same, or where
    they say so; nobody has the cache of a request without one."""
    keys = [add_key(file, **KINDS[name])[0].rights() for name in (one, other)]
    scopes = [key_file_scope(rights) for rights in keys]
    assert (scopes[0] == scopes[1]) == ((one, other) in SHARE)


def key_file_scope(rights):
    """The salt's texts of a key's request, of the same conversation."""
    return CacheScopes().of(rights).of("m", b"conversation")


@pytest.fixture
async def router(start_router, engines, file, monkeypatch):
    """A router with a key of each kind, and their secrets by name."""
    monkeypatch.setattr(key_file, "LOOK_SECONDS", 0.02)
    secrets = {
        "all": add_key(file, tenant="acme")[1],
        "m": add_key(file, tenant="acme", models=["m"])[1],
        "other": add_key(file, tenant="acme", models=["other"])[1],
        "eu": add_key(file, tenant="acme", replicas={"region": "eu"})[1],
        "mars": add_key(file, tenant="acme", replicas={"region": "mars"})[1],
    }
    router = await start_router(api_keys_file=file)
    router.admit(engines[0].url, "us", labels={"region": "us"})
    router.admit(engines[1].url, "eu", labels={"region": "eu"})
    return router, secrets


async def answered(router, secret, body=CHAT):
    """Status of a request, and which replica answered."""
    async with router.post(body, headers=by(secret)) as response:
        await response.read()
        return response.status, response.headers.get("x-warmroute-replica")


async def test_models_that_a_key_may_use(router):
    """Others are 403, and are not listed."""
    router, secrets = router
    assert (await answered(router, secrets["m"]))[0] == 200
    async with router.post(CHAT, headers=by(secrets["other"])) as response:
        assert response.status == 403
        assert_error(await response.json(), "model_forbidden", "model")
    for name, models in (("all", ["m"]), ("m", ["m"]), ("other", [])):
        assert [
            one["id"] for one in (await router.get("/v1/models", **by(secrets[name])))[1]["data"]
        ] == models
    assert (await router.get("/v1/models/m", **by(secrets["other"])))[0] == 403


async def test_replicas_that_a_key_wants(router):
    """Only those with its labels serve it, whatever fails; without one it is 503 and says what is wanted."""
    router, secrets = router
    assert {await answered(router, secrets["eu"]) for _ in range(8)} == {(200, "eu")}
    assert {place for _, place in [await answered(router, secrets["all"]) for _ in range(8)]} == {"us", "eu"}
    async with router.post(CHAT, headers=by(secrets["mars"])) as response:
        assert response.status == 503
        assert_error(body := await response.json(), "no_replica_ready", kind="service_unavailable")
    assert "region=mars" in body["error"]["message"]
    router.fleet.drain({"eu"})
    assert (await answered(router, secrets["eu"]))[0] == 503


async def test_keys_come_and_go_without_a_restart(router, file):
    """A revoked one is refused, a new one let in, and a file that is broken changes nothing."""
    router, secrets = router
    key = read_keys(file)[0]
    revoke_key(file, key.id)
    _, new = add_key(file, tenant="late")
    await eventually(lambda: refused(router, secrets["all"]))
    assert (await answered(router, new))[0] == 200
    file.write_text("[{")
    await asyncio.sleep(0.1)
    assert (await answered(router, new))[0] == 200
    file.unlink()
    await asyncio.sleep(0.1)
    assert (await answered(router, new))[0] == 200
    assert (await answered(router, "unknown"))[0] == 401


def refused(router, secret):
    """Whether the router does not know a key any more."""
    endpoint = router.app.endpoints["/v1/chat/completions"]
    try:
        endpoint.authenticate(f"Bearer {secret}".encode())
    except Exception:
        return True
    return False


async def test_a_file_without_keys_lets_nobody_in(start_router, engines, file):
    """It does not mean that keys are not needed."""
    file.write_text(json.dumps([]))
    router = await start_router(engines[0], api_keys_file=file)
    assert (await answered(router, "anything"))[0] == 401


async def test_private_and_no_caches_at_the_router(start_router, engines, file, tiny_model):
    """With ``private`` a conversation finds its own blocks; with ``none`` it does not either."""
    from cluster.prompts.tokenizer import PromptTokenizer

    engines[0].otherwise = counted(len(PromptTokenizer(tiny_model).chat(LONG).token_ids))
    private, none = (add_key(file, tenant="a", cache=cache)[1] for cache in ("private", "none"))
    router = await start_router(engines[0], api_keys_file=file)
    await router.settled()
    replica = router.fleet.replicas["a"]
    for secret, is_found in ((private, True), (none, False)):
        await expected(router, LONG, secret)
        router.fleet.apply(replica, list(router.fleet.index.expected(replica.slot)), (), cleared=False)
        assert ((await expected(router, LONG, secret))[0] > 0) == is_found
