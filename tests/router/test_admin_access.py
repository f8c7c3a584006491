"""Who may use the admin API."""

import re

import aiohttp
import pytest
from starlette.datastructures import Headers

from cluster.errors import StartUpError
from cluster.settings import load_settings
from router.admin.access import Access
from router.errors import AdminForbiddenError, AdminTokenError
from router.settings import RouterSettings

TOKEN = "correct horse battery staple"
OPEN = Access("", on_loopback=True)
CLOSED = Access("", on_loopback=False)
GUARDED = Access(TOKEN, on_loopback=False)


def ask(access, client="127.0.0.1", **headers):
    """By what right a request with these headers comes in; a Host of this machine unless another is given."""
    given = {"host": "127.0.0.1:8000", **{name.replace("_", "-"): value for name, value in headers.items()}}
    return access.check(Headers({name: value for name, value in given.items() if value is not None}), client)


def bearer(token=TOKEN):
    """The header that carries a token."""
    return {"authorization": f"Bearer {token}"}


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.8.8:80", "localhost:8000", "LOCALHOST", "[::1]:8000"])
@pytest.mark.parametrize("client", ["127.0.0.1", "::1", "::ffff:127.0.0.1"])
def test_open_to_the_same_machine(host, client):
    """Without a token whoever is on this machine, and says so, may come in."""
    assert ask(OPEN, client, host=host) == "loopback"


@pytest.mark.parametrize(
    ("client", "headers"),
    [
        ("10.0.0.7", {}),
        ("", {}),
        ("127.0.0.1", {"x_forwarded_for": "127.0.0.1"}),
        ("127.0.0.1", {"forwarded": "for=127.0.0.1"}),
        ("127.0.0.1", {"x_real_ip": "127.0.0.1"}),
        ("127.0.0.1", {"host": "router.example"}),
        ("127.0.0.1", {"host": "127.0.0.1.example:8000"}),
        ("127.0.0.1", {"host": "localhost@router.example"}),
        ("127.0.0.1", {"host": "127.0.0.1:not-a-port"}),
        ("127.0.0.1", {"host": "[::1"}),
        ("127.0.0.1", {"host": ""}),
        ("127.0.0.1", {"host": None}),
    ],
)
def test_closed_to_others_without_a_token(client, headers):
    """Others, proxies, and names that merely point at this machine (DNS rebinding) are told how to get in."""
    with pytest.raises(AdminForbiddenError, match="WARMROUTE_ADMIN_TOKEN"):
        ask(OPEN, client, **headers)


def test_a_second_host_header_counts_too():
    """Whichever of the two a server believes."""
    headers = Headers(raw=[(b"host", b"127.0.0.1"), (b"host", b"router.example")])
    with pytest.raises(AdminForbiddenError):
        OPEN.check(headers, "127.0.0.1")


@pytest.mark.parametrize("client", ["127.0.0.1", "10.0.0.7"])
def test_closed_to_everybody_elsewhere(client):
    """A router that others can reach needs a token, also from its own machine; a header does not help."""
    with pytest.raises(AdminForbiddenError, match="WARMROUTE_ADMIN_TOKEN"):
        ask(CLOSED, client, **bearer())


@pytest.mark.parametrize(
    "authorization",
    [
        None,
        "",
        "Bearer",
        "Bearer ",
        "Bearer wrong",
        f"Basic {TOKEN}",
        TOKEN,
        f"Bearer {TOKEN}x",
        "Bearer \xe4",
    ],
)
@pytest.mark.parametrize("access", [GUARDED, Access(TOKEN, on_loopback=True)])
def test_a_token_that_is_set_is_asked_for(access, authorization):
    """On loopback, too; whatever is no bearer token or another one is refused."""
    with pytest.raises(AdminTokenError):
        ask(access, authorization=authorization)


@pytest.mark.parametrize("client", ["127.0.0.1", "10.0.0.7", ""])
def test_the_token_opens(client):
    """From anywhere, through proxies, under any name."""
    assert ask(GUARDED, client, host="router.example", x_forwarded_for="1.2.3.4", **bearer()) == "token"
    assert ask(GUARDED, client, authorization=f"bearer {TOKEN}") == "token"


@pytest.mark.parametrize(
    ("host", "origin"),
    [
        ("127.0.0.1:8000", "http://evil.example"),
        ("127.0.0.1:8000", "http://127.0.0.1:9000"),
        ("127.0.0.1:8000", "http://localhost:8000"),
        ("127.0.0.1:8000", "null"),
        ("127.0.0.1:8000", ""),
        ("127.0.0.1:8000", "file://127.0.0.1:8000"),
        ("127.0.0.1:8000", "http://127.0.0.1:8000@evil.example"),
        ("router.example", "http://router.example:8443"),
        ("", "http://"),
    ],
)
@pytest.mark.parametrize("access", [OPEN, GUARDED])
def test_other_pages_are_refused(access, host, origin):
    """A browser says which page asks; only the router's own may, whatever it knows."""
    with pytest.raises(AdminForbiddenError, match="other pages"):
        ask(access, host=host, origin=origin, **bearer())


@pytest.mark.parametrize(
    ("host", "origin"),
    [
        ("127.0.0.1:8000", "http://127.0.0.1:8000"),
        ("localhost:8000", "http://LOCALHOST:8000"),
        ("[::1]:8000", "http://[::1]:8000"),
        ("localhost", "http://localhost:80"),
        ("localhost", "https://localhost"),
        ("localhost:443", "https://localhost"),
    ],
)
def test_its_own_page_may_ask(host, origin):
    """Also where one of both leaves out the scheme's own port."""
    assert ask(OPEN, host=host, origin=origin) == "loopback"


@pytest.mark.parametrize(
    "token", ["short", "fifteen letters", "umlauts are \xe4\xf6\xfc no ASCII", "line\nbreak" * 4]
)
def test_weak_tokens_stop_the_start(token):
    """With the setting's name, and without the token itself."""
    with pytest.raises(StartUpError, match="WARMROUTE_ADMIN_TOKEN") as error:
        load_settings(RouterSettings, admin_token=token)
    assert token not in str(error.value)


def test_the_token_is_not_shown():
    """Settings are logged and printed."""
    settings = load_settings(RouterSettings, admin_token=TOKEN)
    assert TOKEN not in repr(settings)
    assert Access.of(settings) == Access(TOKEN, on_loopback=True)
    assert not Access.of(load_settings(RouterSettings, host="0.0.0.0")).on_loopback


async def every_admin_path(router):
    """Method and path of all that the OpenAPI document knows under /admin."""
    _, document = await router.get("/openapi.json")
    return [
        (method.upper(), re.sub(r"\{\w+\}", "a", path.replace("{key}", "0" * 16)))
        for path, methods in document["paths"].items()
        for method in methods
        if path.startswith("/admin")
    ]


async def test_every_path_is_guarded(start_router):
    """All of them, in the API's error format, and also without the document's knowledge: redirects, typos."""
    router = await start_router(admin_token=TOKEN)
    paths = await every_admin_path(router)
    assert len(paths) > 15
    extra = [("GET", "/admin/overview/"), ("GET", "/admin/nothing"), ("OPTIONS", "/admin/overview")]
    for method, path in [*paths, *extra]:
        async with router.client.request(method, router.url + path, allow_redirects=False) as response:
            assert response.status == 401, (method, path)
            assert response.headers["www-authenticate"].startswith("Bearer")
            assert (await response.json())["error"]["code"] == "invalid_admin_token"
    assert (await router.get("/admin/overview", Authorization=f"Bearer {TOKEN}"))[0] == 200
    assert (await router.get("/healthz"))[0] == 200


async def test_page_without_data_needs_no_token(start_router):
    """The page has to be there before anybody can give it the token."""
    router = await start_router(admin_token=TOKEN)
    for path in ("/admin", "/admin/static/nothing-of-this-name"):
        async with router.client.get(router.url + path) as response:
            assert response.status != 401, path
    async with router.client.post(router.url + "/admin") as response:
        assert response.status == 401


async def test_a_router_for_others_is_closed_without_a_token(start_router):
    """It says how to open it, and its API works all the same."""
    router = await start_router(host="0.0.0.0")
    status, answer = await router.get("/admin/overview")
    assert (status, answer["error"]["code"]) == (403, "admin_forbidden")
    assert "WARMROUTE_ADMIN_TOKEN" in answer["error"]["message"]
    assert (await router.get("/v1/models"))[0] == 200


DOCUMENTATION = ("/openapi.json",)


@pytest.mark.parametrize("token", ["", TOKEN])
@pytest.mark.parametrize("open_metrics", [False, True])
async def test_documentation_and_metrics_are_for_operators(start_router, token, open_metrics):
    """Where others reach the router they need the token; metrics can be opened to all."""
    router = await start_router(host="0.0.0.0", admin_token=token, open_metrics=open_metrics)
    guarded = [*DOCUMENTATION, *(["/metrics", "/metrics/"] if not open_metrics else [])]
    for path in guarded:
        for headers in ({}, bearer("wrong")):
            async with router.client.get(router.url + path, headers=headers) as response:
                assert response.status == (401 if token else 403), path
                said = (await response.json())["error"]["message"]
                assert token or "WARMROUTE_OPEN_METRICS" in said
    open_to_me = [*DOCUMENTATION, "/metrics"] if token else []
    for path, headers in [(path, bearer()) for path in open_to_me] + [("/metrics", {})] * open_metrics:
        async with router.client.get(router.url + path, headers=headers) as response:
            assert response.status == 200, path
    for path in ("/healthz", "/v1/models", "/docs"):
        async with router.client.get(router.url + path) as response:
            assert response.status == 200, path


@pytest.mark.parametrize("token", ["", TOKEN])
async def test_documentation_and_metrics_on_loopback(start_router, token):
    """Nobody else can ask there."""
    router = await start_router(admin_token=token)
    for path in (*DOCUMENTATION, "/metrics"):
        async with router.client.get(router.url + path) as response:
            assert response.status == 200, path


async def test_browsers_cannot_be_abused(router):
    """Neither a foreign page nor a name that was made to point at this machine gets through."""
    async with router.client.put(
        router.url + "/admin/policy", data=b"{}", headers={"Origin": "http://evil.example"}
    ) as response:
        assert response.status == 403
    async with (
        aiohttp.ClientSession() as client,
        client.get(
            router.url + "/admin/overview", headers={"Host": f"evil.example:{router.port}"}
        ) as response,
    ):
        assert response.status == 403
