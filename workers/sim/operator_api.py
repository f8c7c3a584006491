"""What changes a simulated engine while it runs: sleeping, and LoRA adapters, as vLLM 0.32 answers it.

vLLM offers these only where ``VLLM_SERVER_DEV_MODE`` or ``VLLM_ALLOW_RUNTIME_LORA_UPDATING`` is set.
"""

from collections.abc import Iterator

import msgspec
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from workers.sim.block_manager import Lora
from workers.sim.core import EngineCore
from workers.sim.schema import ApiError

MODES = ("abort", "keep")


class _Adapter(msgspec.Struct):
    lora_name: str
    lora_path: str = ""
    load_inplace: bool = False


def operator_routes(core: EngineCore) -> Iterator[Route]:
    """The routes that the engine's settings ask for."""
    api = OperatorApi(core)
    if core.settings.dev_mode:
        yield Route("/sleep", api.sleep, methods=["POST"])
        yield Route("/wake_up", api.wake_up, methods=["POST"])
        yield Route("/is_sleeping", api.is_sleeping)
    if core.settings.lora_updating:
        yield Route("/v1/load_lora_adapter", api.load_adapter, methods=["POST"])
        yield Route("/v1/unload_lora_adapter", api.unload_adapter, methods=["POST"])


def sleep_metric(core: EngineCore) -> str:
    """How deeply it sleeps, in Prometheus' format. At level 0 none of the states holds."""
    levels = {"awake": None, "weights_offloaded": 1, "discard_all": 2}
    labels = f'engine="0",model_name="{core.settings.model_name}"'
    return "# TYPE vllm:engine_sleep_state gauge\n" + "".join(
        f'vllm:engine_sleep_state{{{labels},sleep_state="{state}"}} {float(level == core.sleep_level)}\n'
        for state, level in levels.items()
    )


class OperatorApi:
    """These routes for one engine."""

    def __init__(self, core: EngineCore) -> None:
        self._core = core

    async def sleep(self, request: Request) -> Response:
        """Do nothing from now on but take requests; without cached blocks from level 1 on."""
        level, mode = request.query_params.get("level", "1"), request.query_params.get("mode", "abort")
        if level not in ("0", "1", "2") or mode not in MODES:
            raise ApiError(f"levels 0 to 2 and the modes {', '.join(MODES)} are simulated", "level")
        self._core.sleep(int(level), abort=mode == "abort")
        return JSONResponse({"status": "sleeping", "level": int(level)})

    async def wake_up(self, request: Request) -> Response:
        """Go on, with the requests that have come meanwhile first."""
        self._core.wake_up()
        return JSONResponse({"status": "awake", "tags": None})

    async def is_sleeping(self, request: Request) -> Response:
        """Whether it sleeps, at any level."""
        return JSONResponse({"is_sleeping": self._core.sleep_level is not None})

    async def load_adapter(self, request: Request) -> Response:
        """Serve an adapter more."""
        loras, adapter = self._core.loras, await _adapter(request)
        name = adapter.lora_name
        if not name or not adapter.lora_path:
            raise ApiError("Both 'lora_name' and 'lora_path' must be provided.", kind="InvalidUserInput")
        if name in loras and not adapter.load_inplace:
            message = (
                f"The lora adapter '{name}' has already been loaded. "
                "If you want to load the adapter in place, set 'load_inplace' to True."
            )
            raise ApiError(message, kind="InvalidUserInput")
        loras.setdefault(name, Lora(1 + max((one.id for one in loras.values()), default=0), name))
        return PlainTextResponse(f"Success: LoRA adapter '{name}' added successfully.")

    async def unload_adapter(self, request: Request) -> Response:
        """Serve it no longer."""
        name = (await _adapter(request)).lora_name
        if self._core.loras.pop(name, None) is None:
            message = f"The lora adapter '{name}' cannot be found."
            raise ApiError(message, status=404, kind="NotFoundError")
        return PlainTextResponse(f"Success: LoRA adapter '{name}' removed successfully.")


async def _adapter(request: Request) -> _Adapter:
    try:
        return msgspec.json.decode(await request.body(), type=_Adapter)
    except msgspec.DecodeError as error:
        raise ApiError(f"JSON decode error: {error}", kind="Bad Request") from error
