"""A running router is switched from arm to arm, and decides as before when the trial is over."""

import io

import aiohttp
import pytest
from aiohttp import web
from rich.console import Console

from cluster.errors import StartUpError
from cluster.process.progress import Step
from cluster.settings import load_settings
from loadtest.harness.processes import Processes
from loadtest.trial import fleet as fleets
from loadtest.trial.fleet import TrialError, open_fleet
from loadtest.trial.settings import TrialSettings

TOKEN = "a-token-of-an-operator"


class Router:
    """The admin API as far as a trial uses it."""

    def __init__(self, set_by="setting", token=""):
        self.wishes, self._set_by, self._token = [], set_by, token

    async def __aenter__(self):
        application = web.Application(middlewares=[self._guard])
        application.router.add_route("*", "/admin/policy", self._policy)
        application.router.add_get("/v1/models", self._models)
        self._runner = web.AppRunner(application)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        self.url = f"http://127.0.0.1:{self._runner.addresses[0][1]}"
        return self

    async def __aexit__(self, *_):
        await self._runner.cleanup()

    @web.middleware
    async def _guard(self, request, handler):
        closed = request.path.startswith("/admin") and self._token
        if closed and request.headers.get("Authorization") != f"Bearer {self._token}":
            return web.json_response({"error": {"message": "no"}}, status=401)
        return await handler(request)

    async def _models(self, _request):
        return web.json_response({"data": [{"id": "tiny"}]})

    async def _policy(self, request):
        if request.method != "GET":
            self.wishes.append((await request.json())["policy"] if request.method == "PUT" else "")
        return web.json_response({"policy": "least-load", "set_by": self._set_by})


async def run(router, monkeypatch, **options):
    """Open the fleet, prepare every arm once, close it."""
    monkeypatch.setattr(fleets, "SWITCH_SECONDS", 0.0)
    settings = load_settings(TrialSettings, router_url=router.url + "/v1", **options)
    step = Step(Console(file=io.StringIO()), "Fleet", None)
    with Processes() as processes:
        async with (
            aiohttp.ClientSession() as session,
            open_fleet(settings, session, processes, step) as fleet,
        ):
            for arm in fleet.arms:
                await fleet.prepare(arm)
            return fleet


@pytest.mark.parametrize(("set_by", "last"), [("setting", ""), ("admin", "least-load")])
async def test_the_router_decides_as_before_at_the_end(monkeypatch, set_by, last):
    """Its setting is in force again, or what an operator had decided."""
    async with Router(set_by) as router:
        await run(router, monkeypatch)
    assert router.wishes == ["round-robin", "warm", last]


async def test_the_first_model_is_asked(monkeypatch):
    """Unless another is named, which must be served."""
    async with Router() as router:
        assert (await run(router, monkeypatch)).model == "tiny"
        with pytest.raises(TrialError, match="serves no model other, but tiny"):
            await run(router, monkeypatch, model_name="other")


async def test_a_closed_router_wants_a_token(monkeypatch):
    """The message names the flag; with the token it goes on."""
    async with Router(token=TOKEN) as router:
        with pytest.raises(StartUpError, match="--admin-token"):
            await run(router, monkeypatch)
        await run(router, monkeypatch, admin_token=TOKEN)
    assert router.wishes == ["round-robin", "warm", ""]


async def test_urls_are_compared_without_switching(monkeypatch):
    """Any two endpoints: nothing is asked of an admin API."""
    async with Router() as one, Router() as other:
        settings = load_settings(TrialSettings, a=f"theirs={one.url}", b=other.url)
        step = Step(Console(file=io.StringIO()), "Fleet", None)
        with Processes() as processes:
            async with (
                aiohttp.ClientSession() as session,
                open_fleet(settings, session, processes, step) as fleet,
            ):
                for arm in fleet.arms:
                    await fleet.prepare(arm)
        assert [client.url for client in fleet.clients.values()] == [one.url, other.url]
    assert one.wishes == other.wishes == []
