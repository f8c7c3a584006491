"""``warmroute serve``: Redis, Ray, engines and a router with one command, and all of them gone at its end.

Part of the composition root: it imports `router` and `workers` where it needs them.
"""

import asyncio
import logging
import os
import secrets
import shutil
import signal
import sys
import threading
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from rich.console import Console

from cluster.errors import StartUpError
from cluster.operate.state_file import Serving, announced
from cluster.operate.status import fetch_missing, fetch_replicas, replica_table
from cluster.process.progress import Step, step
from cluster.serve.model_files import ensure_demo_model
from cluster.serve.redis_server import RedisChoice, redis_for
from cluster.serve.serve_app import (
    REPLICAS_APP,
    ROUTER_APP,
    gpus_of,
    replica_options,
    replicas_app,
    router_app,
)
from cluster.serve.serve_settings import ServeSettings
from cluster.settings import is_loopback, load_settings, masked

POLL_SECONDS = 0.5
RAY_PATIENCE = "RAY_raylet_start_wait_time_s"
"""The environment variable of Ray's own limit for a start."""
OBJECT_STORE_BYTES = 128 * 1024 * 1024
"""Nothing of ours goes through Ray's object store."""


def serve(settings: ServeSettings, console: Console) -> None:
    """Start everything, say where it is, and wait for Ctrl-C. Raises `StartUpError` when it cannot start."""
    stop, hurry = threading.Event(), threading.Event()
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _interrupt)
    try:
        with ExitStack() as stack:
            _start(settings, console, stack, hurry)
            for number in (signal.SIGINT, signal.SIGTERM):
                signal.signal(number, lambda *_: (hurry if stop.is_set() else stop).set())
            stop.wait()
            console.print(
                "\nStopping: open streams finish, then engines, Ray and Redis end. Ctrl-C cuts streams short."
            )
    except KeyboardInterrupt:
        console.print("\nStopped before everything was up.")
        raise SystemExit(130) from None
    console.print("Everything that was started here has ended.")


def _start(settings: ServeSettings, console: Console, stack: ExitStack, hurry: threading.Event) -> None:
    if settings.ray_address and not settings.redis_url:
        raise StartUpError(
            "on a Ray cluster every node must reach Redis: name one with REDIS_URL or --redis-url"
        )
    _check_router_settings()
    _require_free_port(settings)
    made_token = "" if settings.admin_token or is_loopback(settings.host) else secrets.token_urlsafe(24)
    if made_token:
        settings = settings.model_copy(update={"admin_token": made_token})
    model = _find_model(settings, console)
    with step(console, "Redis") as current:
        redis = stack.enter_context(redis_for(settings.redis_url or None, settings.cache_directory))
        current.done(f"{redis.origin}, {masked(redis.url)}")
    secret = settings.engine_api_key or secrets.token_urlsafe(24)
    with step(console, "Ray") as current:
        stack.callback(_stop_ray, hurry)
        _start_ray(settings, current)
        current.done("connected" if settings.ray_address else "started on this machine")
    with step(console, "Router") as current:
        _deploy_router(settings, redis, secret)
        current.done(f"listens on {_router_url(settings)}")
    with step(console, f"{settings.replicas} {settings.engine} replicas of {model.name}") as current:
        _deploy_replicas(settings, redis, secret, model)
        _wait_until_ready(settings, current)
    serving = Serving(os.getpid(), _router_url(settings), redis.url, settings.admin_token or None)
    stack.enter_context(announced(serving))
    _welcome(settings, redis, settings.model_name or model.name, console)
    if made_token:
        console.print(f"WARMROUTE_ADMIN_TOKEN={made_token} opens the admin API.", highlight=False)


def _check_router_settings() -> None:
    """Before anything has been started. Raises `StartUpError` for what the router would not take."""
    from router.settings import RouterSettings

    workers = load_settings(RouterSettings, host="127.0.0.1").workers
    if workers > 1:
        raise StartUpError(
            f"WARMROUTE_WORKERS={workers}: `warmroute serve` runs one router process. Unset it; "
            f"`warmroute router --workers {workers}` beside it runs more."
        )


def _find_model(settings: ServeSettings, console: Console) -> Path:
    if settings.model:
        directory = Path(settings.model).expanduser().absolute()
        if not (directory / "config.json").is_file():
            raise StartUpError(
                f"{directory} holds no model: there is no config.json (WARMROUTE_MODEL, --model)"
            )
        return directory
    with step(console, "Model") as current:
        weights = settings.engine != "sim"
        directory = ensure_demo_model(settings.cache_directory, current.update, weights=weights)
        current.done(str(directory))
    return directory


def _start_ray(settings: ServeSettings, current: Step) -> None:
    import ray
    from ray import serve

    logging.getLogger("ray.serve").setLevel(logging.WARNING)  # its progress would run into ours
    if settings.ray_address:
        try:
            ray.init(address=settings.ray_address, log_to_driver=False, logging_level="error")
        except (ConnectionError, RuntimeError, ValueError) as error:
            raise StartUpError(
                f"no Ray cluster at {settings.ray_address} (--ray-address): {error}"
            ) from error
    else:
        # Ray runs its workers, and so router and engines, at niceness 15: they are the service here.
        os.environ.setdefault("RAY_worker_niceness", "0")
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        for last in (False, True):
            try:
                ray.init(
                    address="local",
                    # One logical CPU per actor; engines use as many threads as they are told.
                    num_cpus=settings.replicas + 1,
                    object_store_memory=OBJECT_STORE_BYTES,
                    include_dashboard=False,
                    log_to_driver=False,
                    logging_level="error",
                )
                break
            except Exception as error:  # Ray's own kind, where a node does not start in time
                ray.shutdown()
                reason = str(error).partition("\n")[0]
                if last:
                    raise StartUpError(
                        f"Ray did not start on this machine, tried twice: {reason} A busy machine needs "
                        f"longer: {RAY_PATIENCE}=120, or name a running cluster with --ray-address."
                    ) from error
                current.update(f"did not start, trying once more: {reason}")
    serve.start(proxy_location="Disabled", logging_config={"log_level": "WARNING"})


def _stop_ray(hurry: threading.Event) -> None:
    """Serve itself bounds how long its applications take to end; a blocking delete would give up first."""
    import ray
    from ray import serve

    if ray.is_initialized():
        for app in (ROUTER_APP, REPLICAS_APP):
            serve.delete(app, _blocking=False)
            while app in serve.status().applications and not hurry.is_set():
                hurry.wait(POLL_SECONDS)
        ray.shutdown()


def _deploy_router(settings: ServeSettings, redis: RedisChoice, secret: str) -> None:
    from ray import serve

    from router.settings import RouterSettings

    router_settings = load_settings(
        RouterSettings,
        redis_url=redis.url,
        host=settings.host,
        port=settings.port,
        policy=settings.policy or None,
        engine_api_key=secret,
        admin_token=settings.admin_token,
        deployment=settings.deployment,
        log_level=settings.log_level,
    )
    serve.run(router_app(router_settings), name=ROUTER_APP, route_prefix=None)


def _deploy_replicas(settings: ServeSettings, redis: RedisChoice, secret: str, model: Path) -> None:
    from ray import serve

    options = replica_options(settings, redis.url, model, secret)
    target = serve.RunTarget(
        replicas_app(options, settings.replicas, gpus_of(settings)), name=REPLICAS_APP, route_prefix=None
    )
    serve.run_many([target], wait_for_applications_running=False)


def _wait_until_ready(settings: ServeSettings, current: Step) -> None:
    from ray import serve

    deadline = time.monotonic() + settings.start_seconds
    url = _router_url(settings)
    while time.monotonic() < deadline:
        answer = asyncio.run(fetch_replicas(url, settings.admin_headers))
        missing = asyncio.run(fetch_missing(url))
        if answer["ready"] >= settings.replicas and not missing:
            current.done(f"{answer['ready']} ready")
            return
        application = serve.status().applications.get(REPLICAS_APP)
        if application is not None and application.status == "DEPLOY_FAILED":
            raise StartUpError(f"the replicas cannot be started: {application.message}")
        current.update(f"{answer['ready']} ready, {len(answer['replicas']) - answer['ready']} starting")
        time.sleep(POLL_SECONDS)
    raise StartUpError(
        f"not ready after {settings.start_seconds:.0f} s: {_failures(serve.status())}. "
        "WARMROUTE_START_SECONDS sets the limit."
    )


def _failures(status: Any) -> str:
    return "; ".join(
        f"{name}: {deployment.message or deployment.status}"
        for application in status.applications.values()
        for name, deployment in application.deployments.items()
    )


def _welcome(settings: ServeSettings, redis: RedisChoice, model: str, console: Console) -> None:
    url = _router_url(settings)
    console.print()
    console.print(replica_table(asyncio.run(fetch_replicas(url, settings.admin_headers))))
    console.print(
        f"\nAPI        {url}/v1\n"
        f"Dashboard  {url}/admin   (or: {_typed_command()} status, {_typed_command()} top)\n"
        f"Metrics    {url}/metrics\n"
        f"Redis      {masked(redis.url)}   (or: {_typed_command()} check)\n\n"
        "Try it:\n\n"
        f"  curl {url}/v1/chat/completions -H 'Content-Type: application/json' -d '"
        f'{{"model": "{model}", "max_tokens": 60, '
        '"messages": [{"role": "user", "content": "What is a KV cache?"}]}\'\n\n'
        "Ctrl-C stops everything.",
        highlight=False,
        markup=False,
        soft_wrap=True,
    )


def _typed_command() -> str:
    """This program as it is typed: its path where it is not on the PATH."""
    return "warmroute" if shutil.which("warmroute") else sys.argv[0]


def _router_url(settings: ServeSettings) -> str:
    host = "127.0.0.1" if settings.host in ("0.0.0.0", "") else settings.host
    return f"http://{f'[{host}]' if ':' in host else host}:{settings.port}"


def _require_free_port(settings: ServeSettings) -> None:
    from router.server import bind

    bind(settings.host, settings.port).close()


def _interrupt(number: int, _frame: object) -> None:
    raise KeyboardInterrupt(signal.Signals(number).name)
