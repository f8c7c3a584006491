"""The Ray Serve applications: replicas of an engine, and the router in front of them.

Part of the composition root: it may import `router` and `workers`. The two are applications of their own,
so that one can be scaled, replaced or restarted without the other.
"""

import os
import shlex
import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cluster.errors import StartUpError
from cluster.serve.serve_settings import ServeSettings
from cluster.settings import load_settings

if TYPE_CHECKING:
    from router.settings import RouterSettings
    from workers.replica import ReplicaOptions

REPLICAS_APP = "warmroute-replicas"
ROUTER_APP = "warmroute-router"

HEALTH_CHECK_SECONDS = 2.0


def replicas(args: dict[str, Any]) -> Any:
    """The engines' application for Serve's configuration files, with settings of `warmroute serve`."""
    settings = load_settings(ServeSettings, **args)
    if not settings.redis_url or not settings.model or not settings.engine_api_key:
        raise StartUpError("engines on a cluster need model, redis_url and engine_api_key")
    options = replica_options(settings, settings.redis_url, Path(settings.model), settings.engine_api_key)
    return replicas_app(options, settings.replicas, gpus_of(settings))


def routers(args: dict[str, Any]) -> Any:
    """The routers' application for Serve's configuration files, with settings of `warmroute router`; so many
    ``routers``, at most one on each node.
    """
    from router.settings import RouterSettings

    num_routers = int(args.pop("routers", 1))
    return router_app(load_settings(RouterSettings, **args), num_routers)


def gpus_of(settings: ServeSettings) -> float:
    """GPUs that each engine gets: one where this machine has any, unless the settings say so."""
    if settings.gpus is not None:
        return settings.gpus
    return 1.0 if settings.engine != "sim" and has_gpu() else 0.0


def has_gpu() -> bool:
    """Whether this machine has an NVIDIA GPU that answers."""
    forced = os.environ.get("WARMROUTE_ACCELERATOR")
    if forced:
        return forced == "gpu"
    command = shutil.which("nvidia-smi")
    return (
        command is not None
        and subprocess.run([command, "-L"], capture_output=True, check=False).returncode == 0
    )


def replica_options(settings: ServeSettings, redis_url: str, model: Path, secret: str) -> "ReplicaOptions":
    """What each replica is, by the settings of `warmroute serve`."""
    from workers.engines.commands import EngineOptions
    from workers.replica import ReplicaOptions
    from workers.settings import WorkerSettings

    worker_settings = load_settings(
        WorkerSettings,
        redis_url=redis_url,
        engine_api_key=secret,
        deployment=settings.deployment,
        log_level=settings.log_level,
    )
    options = EngineOptions(
        model=str(model),
        served_model_name=settings.model_name or model.name,
        max_model_len=settings.max_model_len,
        num_blocks=settings.blocks,
        extra_arguments=tuple(shlex.split(settings.engine_arguments)),
    )
    return ReplicaOptions(settings.engine, options, worker_settings)


def replicas_app(options: "ReplicaOptions", num_replicas: int, num_gpus: float) -> Any:
    """The application that runs engines, one per Serve replica."""
    from ray import serve

    from workers.replica import Replica

    deployment = serve.deployment(
        Replica,
        name="Replica",
        num_replicas=num_replicas,
        ray_actor_options={"num_cpus": 1, "num_gpus": num_gpus},
        max_ongoing_requests=16,  # requests bypass Serve; these are health checks and admin calls
        health_check_period_s=HEALTH_CHECK_SECONDS,
        health_check_timeout_s=30.0,
        graceful_shutdown_wait_loop_s=0.1,
        graceful_shutdown_timeout_s=options.shutdown_seconds,
    )
    return deployment.bind(options)


def router_app(settings: "RouterSettings", num_routers: int = 1) -> Any:
    """The application that runs routers, each on a node of its own, on the port of its settings."""
    from ray import serve

    from router.server import Router

    deployment = serve.deployment(
        Router,
        name="Router",
        num_replicas=num_routers,
        max_replicas_per_node=1,  # they have the same port
        ray_actor_options={"num_cpus": 1},
        health_check_period_s=HEALTH_CHECK_SECONDS,
        graceful_shutdown_wait_loop_s=0.1,
        graceful_shutdown_timeout_s=settings.stop_seconds,
    )
    return deployment.bind(settings)
