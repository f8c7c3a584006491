"""What is tested: a fleet that is started here, a router that runs already, or two URLs.

Policies are compared on one fleet and at one router, which is switched from policy to policy between rounds:
so arms differ in nothing but the policy. Two fleets side by side would share this machine's cores, and would
need twice the engines.
"""

import asyncio
import os
import shutil
import signal
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import aiohttp

from cluster.errors import ClusterError, StartUpError
from cluster.process.progress import Step
from cluster.serve.model_files import default_cache_directory, ensure_demo_model
from loadtest.harness.chat_answers import RequestFailedError
from loadtest.harness.chat_client import ChatClient
from loadtest.harness.processes import WARMROUTE, Processes, free_ports, get_json, start_system
from loadtest.trial.settings import Arm, TrialSettings


class TrialError(ClusterError):
    """The trial cannot go on: nothing answers, or what it needs has ended."""


POLL_SECONDS = 0.5
SWITCH_SECONDS = 1.0
"""The time until a router's other processes follow a switch: they look twice a second."""
START_SECONDS = 900.0
STOP_SECONDS = 120.0


@dataclass(slots=True)
class Fleet:
    """Contestants that are ready, and what happens between their rounds."""

    session: aiohttp.ClientSession
    settings: TrialSettings
    arms: Sequence[Arm]
    model: str
    router: str = ""
    """The router of fleets whose policies are compared."""
    engines: Sequence[str] = ()
    """URLs of engines whose caches can be emptied."""
    processes: Processes | None = None
    clients: Mapping[str, ChatClient] = field(default_factory=dict)

    async def prepare(self, arm: Arm) -> None:
        """Before a round: the arm's policy decides, and where that is possible caches are empty."""
        if self.router:
            await self._admin("PUT", "/admin/policy", {"policy": arm.policy})
            await asyncio.sleep(SWITCH_SECONDS)
        for url in self.engines:
            try:
                async with self.session.post(f"{url}/reset_prefix_cache") as response:
                    response.raise_for_status()
            except (aiohttp.ClientError, TimeoutError) as error:
                raise TrialError(f"the engine at {url} does not answer: {error}") from error

    def watch(self) -> None:
        """Raises `TrialError` when something that was started here has ended."""
        if self.processes is not None:
            try:
                self.processes.check()
            except SystemExit as error:
                raise TrialError(str(error)) from error

    async def policy(self) -> Mapping[str, Any]:
        """What decides at the router now. Raises `TrialError` or `StartUpError`."""
        return await self._admin("GET", "/admin/policy")

    async def restore(self, before: Mapping[str, Any]) -> None:
        """Let decide what decided before."""
        with suppress(TrialError, StartUpError):
            if before["set_by"] == "admin":
                await self._admin("PUT", "/admin/policy", {"policy": before["policy"]})
            else:
                await self._admin("DELETE", "/admin/policy")

    async def _admin(
        self, method: str, path: str, body: Mapping[str, str] | None = None
    ) -> Mapping[str, Any]:
        token = self.settings.admin_token
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        try:
            async with self.session.request(
                method,
                self.router + path,
                json=body,
                headers=headers,
                timeout=aiohttp.ClientTimeout(total=10),
            ) as response:
                answer: Mapping[str, Any] = await response.json()
        except (aiohttp.ClientError, TimeoutError, ValueError) as error:
            raise TrialError(f"no Warmroute router answers at {self.router}: {error}") from error
        if response.status in (401, 403):
            raise StartUpError(f"the router at {self.router} wants --admin-token (or WARMROUTE_ADMIN_TOKEN)")
        if response.status != 200:
            raise TrialError(f"{self.router}{path} answers {response.status}: {answer}")
        return answer


@asynccontextmanager
async def open_fleet(
    settings: TrialSettings, session: aiohttp.ClientSession, processes: Processes, step: Step
) -> AsyncIterator[Fleet]:
    """A fleet that answers. Its router decides as before when the context ends."""
    arms = settings.arms()
    fleet = Fleet(session, settings, arms, settings.model_name)
    if not settings.a:
        fleet.router = settings.router_url.rstrip("/").removesuffix("/v1")
        if not fleet.router:
            fleet.processes = processes
            await _start(fleet, step)
    fleet.clients = {
        arm.name: ChatClient(session, arm.url or fleet.router, settings.api_key, settings.timeout)
        for arm in arms
    }
    for client in fleet.clients.values():
        try:
            served = await client.models()
        except RequestFailedError as error:
            raise TrialError(str(error)) from error
        if not served:
            raise TrialError(f"{client.url} serves no model")
        fleet.model = fleet.model or served[0]
        if fleet.model not in served:
            raise TrialError(f"{client.url} serves no model {fleet.model}, but {', '.join(served)}")
    if not fleet.router:
        yield fleet
        return
    before = await fleet.policy()
    try:
        yield fleet
    finally:
        await fleet.restore(before)


async def _start(fleet: Fleet, step: Step) -> None:
    settings, processes = fleet.settings, fleet.processes
    assert processes is not None, "given by open_fleet"
    if settings.engine == "vllm":
        fleet.router = await _serve_vllm(settings, processes, fleet.session, step)
        return
    if shutil.which("redis-server") is None:
        raise StartUpError(
            "a simulated fleet needs redis-server on the PATH; or test a running one with --router-url"
        )
    model = settings.model
    if model is None:
        model = await asyncio.to_thread(
            ensure_demo_model, default_cache_directory(), step.update, weights=False
        )
    options = ["--prefill-rate", str(settings.prefill_rate)] if settings.prefill_rate else []
    options += ["--num-blocks", str(settings.blocks)] if settings.blocks else []
    step.update(f"{settings.replicas} engines, their agent, Redis and a router")
    router_options = ["--admin-token", settings.admin_token] if settings.admin_token else []
    try:
        system = await start_system(
            processes, fleet.session, model, settings.replicas, 1, options, router_options
        )
    except SystemExit as error:
        raise TrialError(str(error)) from error
    fleet.router, fleet.engines = system.router_urls[0], system.engine_urls


async def _serve_vllm(
    settings: TrialSettings, processes: Processes, session: aiohttp.ClientSession, step: Step
) -> str:
    """``warmroute serve`` with real engines; returns the router's URL."""
    [port] = free_ports(1)
    command = [*WARMROUTE, "serve", "--engine", "vllm", "--replicas", str(settings.replicas)]
    command += ["--port", str(port), "--log-level", "warning"]
    if settings.model:
        command += ["--model", str(settings.model.absolute())]
    if settings.blocks:
        command += ["--blocks", str(settings.blocks)]
    cache = os.environ.get("WARMROUTE_CACHE_DIR") or str(default_cache_directory())
    environment = {"WARMROUTE_CACHE_DIR": cache, "WARMROUTE_ADMIN_TOKEN": settings.admin_token}
    processes.start("serve", command, **environment)
    url, deadline = f"http://127.0.0.1:{port}", time.monotonic() + START_SECONDS
    headers = {"Authorization": f"Bearer {settings.admin_token}"} if settings.admin_token else {}
    while time.monotonic() < deadline:
        try:
            processes.check()
        except SystemExit as error:
            raise TrialError(str(error)) from error
        ready = await get_json(session, f"{url}/readyz")
        if ready and ready["ready"]:
            async with session.get(f"{url}/admin/replicas", headers=headers) as response:
                num_ready = (await response.json())["ready"]
            step.update(f"{num_ready} of {settings.replicas} vLLM replicas ready")
            if num_ready >= settings.replicas:
                return url
        else:
            step.update("warmroute serve is starting")
        await asyncio.sleep(POLL_SECONDS)
    raise TrialError(f"vLLM was not ready after {START_SECONDS:.0f} s")


def stop_gently(processes: Processes) -> None:
    """Give ``warmroute serve`` the time that Ray and vLLM need to end; everything else ends at once."""
    for name, number in processes.ids().items():
        if name == "serve":
            with suppress(ProcessLookupError):
                os.kill(number, signal.SIGTERM)
            _wait(number)


def _wait(number: int) -> None:
    deadline = time.monotonic() + STOP_SECONDS
    with suppress(ChildProcessError):
        while (
            time.monotonic() < deadline
            and os.waitid(os.P_PID, number, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None
        ):
            time.sleep(0.1)
