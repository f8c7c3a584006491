"""A Redis user with the rights that users are told to give, and nothing else: all works. Any right that is
missing is named.

The router is real, and so are agent and Redis.
"""

import asyncio
import re
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from urllib.parse import quote

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID

from cluster.process.tasks import cancel_and_wait
from cluster.store import rights
from cluster.store.store import connect
from tests.redis_process import free_port, running_redis
from tests.waiting import eventually
from tests.workers.fake_engine import FakeEngine as EngineOfAgent
from workers.agent.agent import Agent
from workers.settings import WorkerSettings

pytestmark = pytest.mark.integration

ROOT = Path(__file__).parents[2]
RULES = (ROOT / "infra" / "redis" / "users.acl").read_text().split()[2:]
PASSWORD = "p@ss:w/rd#?% &"
COMMANDS = [rule[1:] for rule in RULES if rule.startswith("+")]
FOR_OTHERS = {"command", "cluster|slots", "ping", "select", "unsubscribe"}
"""Of a cluster, of databases other than 0, and of what redis-py does at its end."""
CHAT = {"model": "tiny", "messages": [{"role": "user", "content": "hello 1 2"}]}


class Party:
    """One router, one agent and one engine, with a Redis user of few rights."""

    def __init__(self, router, agent, events, redis):
        self.router, self.agent, self.events, self.redis = router, agent, events, redis

    def allow(self, *rules):
        """Change what the user may do."""
        self.redis.client("ACL", "SETUSER", "warmroute", *rules)

    async def degraded(self):
        """What `/healthz` says."""
        return " | ".join((await self.router.get("/healthz"))[1]["degraded"])

    async def names(self, pattern):
        """Wait until `/healthz` says so."""
        for _ in range(500):
            if re.search(pattern, said := await self.degraded()):
                return
            await asyncio.sleep(0.01)
        raise AssertionError(f"{pattern} is not in {said!r}")

    async def work(self):
        """Everything that makes routers and agents use Redis."""
        for number in range(3):
            tokens = list(range(number * 4, number * 4 + 4))
            await self.events.publisher.publish(self.events.stored([number], None, tokens))
        await eventually(lambda: len(self.agent.owned_keys()) == 3)
        await self.events.publisher.publish(self.events.removed(1))
        await eventually(lambda: len(self.agent.owned_keys()) == 2)
        assert not await self.agent.verify()
        replica = self.agent.replica
        for method, path, body in (
            ("PUT", "/admin/policy", {"policy": "least-load"}),
            ("PUT", "/admin/experiment", {"control": "round-robin", "share": 0.5}),
            ("PUT", f"/admin/replicas/{replica}/drain", None),
            ("DELETE", f"/admin/replicas/{replica}/drain", None),
            ("POST", f"/admin/replicas/{replica}/reset", None),
            ("POST", f"/admin/prefixes/{min(self.agent.owned_keys()):016x}/reset", None),
            ("GET", "/admin/experiment", None),
            ("GET", "/admin/trends", None),
            ("GET", "/admin/savings", None),
            ("GET", "/admin/audit", None),
            ("DELETE", "/admin/experiment", None),
            ("DELETE", "/admin/policy", None),
        ):
            async with self.router.client.request(method, self.router.url + path, json=body) as response:
                assert response.status == 200, (path, await response.text())
        for _ in range(5):
            async with self.router.post(CHAT) as response:
                assert response.status == 200, await response.text()
            await asyncio.sleep(0.2)


def tls_options(folder):
    """Options of a Redis that also listens with TLS, with a certificate of its own."""
    key, certificate = folder / "key.pem", folder / "certificate.pem"
    private, now = ec.generate_private_key(ec.SECP256R1()), datetime.now(UTC)
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "redis")])
    signed = (
        x509.CertificateBuilder(name, name, private.public_key(), x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(private, hashes.SHA256())
    )
    certificate.write_bytes(signed.public_bytes(Encoding.PEM))
    key.write_bytes(private.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    return {
        "tls_port": free_port(),
        "tls_cert_file": certificate,
        "tls_key_file": key,
        "tls_ca_cert_file": certificate,
        "tls_auth_clients": "no",
    }


@pytest.fixture
async def redis_server(request, tmp_path):
    """A Redis of this test's own, with TLS where the test asks for it."""
    options = tls_options(tmp_path) if getattr(request, "param", False) else {}
    with running_redis(tmp_path, **options) as server:
        yield server


def url_of(server):
    """Where the user of few rights reaches it; the password holds what means something in URLs."""
    options = server._options
    scheme, port = ("rediss", options["tls-port"]) if "tls-port" in options else ("redis", server.port)
    query = f"?ssl_ca_certs={options['tls-ca-cert-file']}" if scheme == "rediss" else ""
    return f"{scheme}://warmroute:{quote(PASSWORD, safe='')}@127.0.0.1:{port}/0{query}"


@pytest.fixture
async def party(start_router, engines, redis_server, tiny_model):
    """All of them up."""
    redis_server.client("ACL", "SETUSER", "warmroute", *RULES[:1], f">{PASSWORD}", *RULES[2:])
    redis_server.client("ACL", "LOG", "RESET")
    url = url_of(redis_server)
    events = EngineOfAgent(tiny_model)
    await events.start()
    redis = connect(url)
    settings = WorkerSettings(redis_url=url)
    agent = Agent(events.url, redis, settings, "r", advertise_url=engines[0].url)
    following = asyncio.create_task(agent.run())
    router = await start_router(redis_url=url, tokenizers={}, policy="warm")
    try:
        await router.ready()
        yield Party(router, agent, events, redis_server)
    finally:
        redis_server.client("ACL", "SETUSER", "warmroute", *RULES[2:])
        await cancel_and_wait(following)
        await agent.close()
        await redis.aclose()
        await events.close()


def test_every_command_in_the_source_is_allowed_and_tried():
    """A command that is used from now on is told to users, and missed when it is not allowed."""
    sources = [path for folder in ("cluster", "router", "workers") for path in (ROOT / folder).rglob("*.*")]
    texts = [path.read_text() for path in sources if path.suffix in (".py", ".lua")]
    used = {
        name.lower() for text in texts for name in re.findall(r"""(?:execute|call)\(\s*["']([A-Z]+)""", text)
    }
    used |= {name for text in texts for name in re.findall(r"(?:_redis|pipeline)\.([a-z]+)\(", text)}
    used -= {"pipeline", "execute", "aclose", "pop", "popleft"} | {"delete"}  # which is DEL
    script = (ROOT / "cluster" / "store" / "redis_scripts" / "rights.lua").read_text()
    tried = {name.lower() for name in re.findall(r"\{'([A-Z]+)'", script)}
    assert len(used) > 25
    assert used <= tried <= set(COMMANDS)
    assert set(COMMANDS) - tried == FOR_OTHERS | {"eval", "evalsha", "subscribe"}


@pytest.mark.parametrize("redis_server", [False, True], ids=["plain", "tls"], indirect=True)
async def test_rights_suffice(party):
    """With and without TLS: nothing is refused, from start to end, and nothing is said to be missing."""
    await party.work()
    await asyncio.sleep(2.5)
    assert await party.degraded() == ""
    assert party.redis.client("ACL", "LOG") == []


async def test_every_right_that_is_missing_is_named(party, monkeypatch):
    """As it would have to be written, or in Redis' own words; and no longer once it is given."""
    monkeypatch.setattr(rights, "CHECK_SECONDS", 0.02)
    for command in COMMANDS:
        if command not in FOR_OTHERS:
            party.allow(f"-{command}")
            party.redis.client("SCRIPT", "FLUSH")
            if command == "subscribe":
                party.redis.client("CLIENT", "KILL", "TYPE", "pubsub")
            await party.names(rf"[+']{command}\b")
            party.allow(f"+{command}")
    party.allow("resetkeys", "~other:*")
    await party.names("NOPERM.* keys")
    party.allow("~warmroute:*", "resetchannels")
    await party.names("&warmroute:")
    party.allow("&warmroute:*")
    await party.names("^$")


@pytest.mark.parametrize("redis_server", [True], indirect=True)
async def test_certificate_that_is_not_trusted_is_named(start_router, engines, redis_server):
    """A router that does not know who has signed it says so."""
    router = await start_router(*engines, redis_url=url_of(redis_server).partition("?")[0])
    await eventually(lambda: router.fleet.store.tls_problem)
    assert "CERTIFICATE_VERIFY_FAILED" in (await router.get("/healthz"))[1]["degraded"][0]


async def test_wrong_password_is_named(start_router, engines, redis_server):
    """In Redis' own words, and without the password."""
    router = await start_router(*engines, redis_url=url_of(redis_server))
    await eventually(lambda: router.fleet.store.unreadable)
    [said, *_] = (await router.get("/healthz"))[1]["degraded"]
    assert "invalid username-password pair" in said
    assert "p@ss" not in said
