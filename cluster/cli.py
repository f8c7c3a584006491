"""The command line: ``warmroute serve | router | agent | status | check | top``, and `loadtest.cli`.

Part of the composition root: `router`, `workers` and `loadtest` are imported where a command needs them,
since each may be installed without the others.
"""

import asyncio
from typing import Annotated, NoReturn

import typer
from rich.console import Console
from rich.markup import escape

from cluster.errors import ClusterError, StartUpError
from cluster.log import configure_logging
from cluster.settings import ClusterSettings, load_settings
from loadtest import cli as cli_loadtest
from policies.installed import InstalledPolicyError

app = typer.Typer(
    name="warmroute",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="A cache-aware router for LLM inference. Every option can also be set as WARMROUTE_<OPTION>.",
)

RedisUrl = Annotated[str | None, typer.Option(help="Redis that routers and agents share.")]
Deployment = Annotated[
    str | None, typer.Option(help="First part of every key in Redis: several deployments can share one.")
]
EngineApiKey = Annotated[str | None, typer.Option(help="Secret with which engines are reached.")]
AdminToken = Annotated[
    str | None,
    typer.Option(help="Opens the admin API of routers; without one it is open on loopback addresses only."),
]
LogLevel = Annotated[str | None, typer.Option(help="debug, info, warning or error.")]
RouterUrl = Annotated[str, typer.Option(envvar="WARMROUTE_ROUTER_URL", help="A router to ask.")]

DEFAULT_ROUTER_URL = "http://127.0.0.1:8000"


@app.command()
def serve(
    model: Annotated[
        str | None, typer.Option(help="Directory of a Hugging Face model. Default: a small one on CPU.")
    ] = None,
    model_name: Annotated[str | None, typer.Option(help="The name clients use.")] = None,
    replicas: Annotated[int | None, typer.Option(help="Number of engines. Default: 2.")] = None,
    host: Annotated[str | None, typer.Option(help="Address of the router.")] = None,
    port: Annotated[int | None, typer.Option(help="Port of the router. Default: 8000.")] = None,
    blocks: Annotated[int | None, typer.Option(help="KV blocks per replica.")] = None,
    max_model_len: Annotated[int | None, typer.Option(help="Tokens of prompt and answer.")] = None,
    engine: Annotated[str | None, typer.Option(help="vllm, or sim for a simulated engine.")] = None,
    redis_url: Annotated[
        str | None, typer.Option(help="A Redis to use (also REDIS_URL). Default: one is started.")
    ] = None,
    policy: Annotated[str | None, typer.Option(help="How replicas are chosen.")] = None,
    ray_address: Annotated[
        str | None, typer.Option(help="A Ray cluster to use. Default: one is started.")
    ] = None,
    engine_api_key: EngineApiKey = None,
    admin_token: AdminToken = None,
    deployment: Deployment = None,
    log_level: LogLevel = None,
) -> None:
    """Start Redis, Ray, engines and a router; stop all of them with Ctrl-C."""
    from cluster.serve.launcher import serve as launch
    from cluster.serve.serve_settings import ServeSettings

    settings = load_settings(
        ServeSettings,
        model=model,
        model_name=model_name,
        replicas=replicas,
        host=host,
        port=port,
        blocks=blocks,
        max_model_len=max_model_len,
        engine=engine,
        redis_url=redis_url,
        policy=policy,
        ray_address=ray_address,
        engine_api_key=engine_api_key,
        admin_token=admin_token,
        deployment=deployment,
        log_level=log_level,
    )
    launch(settings, Console(highlight=False))


@app.command()
def router(
    redis_url: RedisUrl = None,
    host: Annotated[str | None, typer.Option(help="Address to listen on.")] = None,
    port: Annotated[int | None, typer.Option(help="Port to listen on.")] = None,
    workers: Annotated[
        int | None,
        typer.Option(
            help="Processes that share the port, each a router of its own: about one per CPU core that is "
            "free for them. Default: 1."
        ),
    ] = None,
    tokenizer: Annotated[
        list[str] | None,
        typer.Option(help="MODEL=DIRECTORY; repeatable. Otherwise the engine's own directory is read."),
    ] = None,
    policy: Annotated[str | None, typer.Option(help="How replicas are chosen.")] = None,
    engine_api_key: EngineApiKey = None,
    admin_token: AdminToken = None,
    deployment: Deployment = None,
    log_level: LogLevel = None,
) -> None:
    """Run a router next to engines that agents watch over."""
    from cluster.prompts.tokenizer import forgo_torch
    from router.server import bind, create_server
    from router.settings import RouterSettings

    settings = load_settings(
        RouterSettings,
        redis_url=redis_url,
        host=host,
        port=port,
        workers=workers,
        tokenizers=",".join(tokenizer) if tokenizer else None,
        policy=policy,
        engine_api_key=engine_api_key,
        admin_token=admin_token,
        deployment=deployment,
        log_level=log_level,
    )
    configure_logging(settings.log_level)
    listener = bind(settings.host, settings.port)
    forgo_torch()
    if settings.workers > 1:
        from router.processes import run_workers

        raise typer.Exit(run_workers(settings, listener))
    create_server(settings).run(sockets=[listener])


@app.command()
def agent(
    engine_url: Annotated[list[str], typer.Option(help="Base URL of an engine; repeatable.")],
    advertise_url: Annotated[
        list[str] | None,
        typer.Option(
            help="Base URL at which routers reach that engine; repeatable, in the order of --engine-url. "
            "Default: the engine URL."
        ),
    ] = None,
    redis_url: RedisUrl = None,
    engine_api_key: EngineApiKey = None,
    deployment: Deployment = None,
    log_level: LogLevel = None,
) -> None:
    """Watch over engines that somebody else started, and publish what their caches hold."""
    import uvloop

    from workers.agent.main import engine_addresses, run_agents
    from workers.settings import WorkerSettings

    engines = engine_addresses(engine_url, advertise_url or [])
    settings = load_settings(
        WorkerSettings,
        redis_url=redis_url,
        engine_api_key=engine_api_key,
        deployment=deployment,
        log_level=log_level,
    )
    configure_logging(settings.log_level)
    uvloop.run(run_agents(engines, settings))


@app.command()
def status(router_url: RouterUrl = DEFAULT_ROUTER_URL, admin_token: AdminToken = None) -> None:
    """Show every replica: state, load, blocks, hit rate."""
    from cluster.operate.status import fetch_replicas, replica_table

    settings = load_settings(ClusterSettings, admin_token=admin_token)
    Console().print(replica_table(asyncio.run(fetch_replicas(router_url, settings.admin_headers))))


@app.command()
def check(
    redis_url: RedisUrl = None,
    router_url: Annotated[list[str] | None, typer.Option(help="A router to check; repeatable.")] = None,
    deployment: Deployment = None,
    admin_token: AdminToken = None,
) -> None:
    """Compare what agents, Redis and routers say of every replica's blocks; print the difference."""
    from cluster.operate.check import find_differences

    settings = load_settings(
        ClusterSettings, redis_url=redis_url, deployment=deployment, admin_token=admin_token
    )
    report = asyncio.run(find_differences(settings, router_url or [DEFAULT_ROUTER_URL]))
    console = Console(highlight=False)
    for line in report.lines:
        console.print(line, soft_wrap=True)
    raise typer.Exit(0 if report.agree else 1)


@app.command()
def top(
    url: RouterUrl = DEFAULT_ROUTER_URL,
    admin_token: AdminToken = None,
    once: Annotated[bool, typer.Option("--once", help="Print it once, and end.")] = False,
) -> None:
    """Show the fleet live in the terminal; q ends it."""
    from cluster.operate.top import show, show_once

    token = load_settings(ClusterSettings, admin_token=admin_token).admin_token
    console = Console(highlight=False)
    if once:
        raise typer.Exit(0 if asyncio.run(show_once(url, token, console)) else 1)
    asyncio.run(show(url, token, console))


cli_loadtest.register(app)


def main(arguments: list[str] | None = None) -> NoReturn:
    """Entry point of the ``warmroute`` command: errors are one clear message, not a traceback."""
    try:
        app(arguments)
    except (ClusterError, InstalledPolicyError) as error:
        Console(stderr=True, highlight=False).print(f"[red]warmroute:[/red] {escape(str(error))}")
        raise SystemExit(2 if isinstance(error, StartUpError | InstalledPolicyError) else 1) from None
    raise SystemExit(0)


if __name__ == "__main__":
    main()
