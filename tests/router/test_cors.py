"""Pages of other origins use the API where operators have named these origins, and nowhere else."""

import pytest

from cluster.errors import StartUpError
from cluster.settings import load_settings
from router.settings import RouterSettings
from tests.router.fake_engine import DONE, event, stream

PAGE = "https://chat.example.com"
CHAT = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}
ORIGIN = "access-control-allow-origin"
QUESTION = {
    "origin": PAGE,
    "access-control-request-method": "POST",
    "access-control-request-headers": "authorization,content-type,x-stainless-os",
}
PUBLIC = ["/v1/chat/completions", "/v1/completions", "/v1/models", "/v1/models/m", "/tokenize", "/health"]
ANSWERS = {
    "answer": ("POST", "/v1/chat/completions", CHAT, 200),
    "stream": ("POST", "/v1/chat/completions", {**CHAT, "stream": True}, 200),
    "bad request": ("POST", "/v1/chat/completions", {"model": 5}, 400),
    "unknown model": ("POST", "/v1/completions", {"model": "x", "prompt": "hi"}, 404),
    "models": ("GET", "/v1/models", None, 200),
    "nothing there": ("GET", "/v1/nothing", None, 404),
    "health": ("GET", "/health", None, 200),
}
"""Some pass the framework, some do not."""


@pytest.fixture
async def open_router(start_router, engines):
    """A router for the pages of one origin."""
    router = await start_router(*engines, cors_origins=(PAGE,))
    await router.settled()
    return router


async def ask(router, method, path, body=None, **headers):
    """Status and headers of an answer."""
    async with router.client.request(method, router.url + path, json=body, headers=headers) as response:
        await response.read()
        return response.status, response.headers


@pytest.mark.parametrize("path", PUBLIC)
async def test_question_of_a_browser(open_router, path):
    """What it may send, for how long that holds; no key is asked for."""
    status, headers = await ask(open_router, "OPTIONS", path, **QUESTION)
    assert (status, headers[ORIGIN]) == (200, PAGE)
    assert "POST" in headers["access-control-allow-methods"]
    assert headers["access-control-allow-headers"] == QUESTION["access-control-request-headers"]
    assert int(headers["access-control-max-age"]) > 0
    status, headers = await ask(
        open_router, "OPTIONS", path, **{**QUESTION, "origin": "https://evil.example"}
    )
    assert (status, ORIGIN in headers) == (400, False)


@pytest.mark.parametrize("name", ANSWERS)
async def test_answer_for_a_page(open_router, engines, name):
    """Whatever it is, the page may read it with our headers; a page of another origin may not."""
    method, path, body, expected = ANSWERS[name]
    status, headers = await ask(open_router, method, path, body, origin=PAGE)
    assert (status, headers.getall(ORIGIN)) == (expected, [PAGE])
    assert "X-Request-Id" in headers["access-control-expose-headers"]
    assert "Origin" in headers["vary"]
    status, headers = await ask(open_router, method, path, body, origin="https://evil.example")
    assert (status, ORIGIN in headers) == (expected, False)
    status, headers = await ask(open_router, method, path, body)
    assert (status, ORIGIN in headers) == (expected, False)


async def test_stream_has_its_own_headers_too(open_router, engines):
    """They come in addition."""
    engines[0].script.append(stream(event("a"), DONE))
    status, headers = await ask(
        open_router, "POST", "/v1/chat/completions", {**CHAT, "stream": True}, origin=PAGE
    )
    assert (status, headers[ORIGIN], headers["x-accel-buffering"]) == (200, PAGE, "no")


@pytest.mark.parametrize("path", ["/admin/replicas", "/admin", "/metrics", "/openapi.json"])
async def test_what_is_not_the_api_stays_closed(start_router, engines, path):
    """Operators' pages are no business of other origins, not even where all are let in."""
    router = await start_router(*engines, cors_origins=("*",))
    assert ORIGIN not in (await ask(router, "GET", path, origin=PAGE))[1]
    assert ORIGIN not in (await ask(router, "OPTIONS", path, **QUESTION))[1]


@pytest.mark.parametrize(("origins", "said"), [((), None), (("*",), "*")])
async def test_nobody_and_everybody(start_router, engines, origins, said):
    """Without the setting nothing is said of origins."""
    router = await start_router(*engines, cors_origins=origins)
    await router.settled()
    _, headers = await ask(router, "POST", "/v1/chat/completions", CHAT, origin=PAGE)
    assert headers.get(ORIGIN) == said
    status, headers = await ask(router, "OPTIONS", "/v1/chat/completions", **QUESTION)
    assert (status, headers.get(ORIGIN)) == (200 if said else 405, said)


def test_origins_are_read_from_the_environment(monkeypatch):
    """What no browser sends as an origin stops the start."""
    monkeypatch.setenv("WARMROUTE_CORS_ORIGINS", "https://a.example, http://localhost:3000,app://obsidian.md")
    found = load_settings(RouterSettings).cors_origins
    assert found == ("https://a.example", "http://localhost:3000", "app://obsidian.md")
    for wrong in ("https://a.example/", "a.example", "https://A.example", "https://u@a.example"):
        monkeypatch.setenv("WARMROUTE_CORS_ORIGINS", wrong)
        with pytest.raises(StartUpError, match=r"WARMROUTE_CORS_ORIGINS.*is no origin"):
            load_settings(RouterSettings)
