"""The command line: ``warmroute serve | router | agent | status | check | top | replay``.

Part of the composition root: `router`, `workers` and `loadtest` are imported where a command needs them,
since each may be installed without the others.
"""

import asyncio
import shlex
import sys
from pathlib import Path
from typing import Annotated, NoReturn

import typer
from rich.console import Console
from rich.markup import escape

from cluster.errors import ClusterError, StartUpError
from cluster.log import configure_logging
from cluster.settings import ClusterSettings, load_settings

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
    from cluster.launcher import serve as launch
    from cluster.serve_settings import ServeSettings

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
    if settings.workers > 1:
        from router.workers import run_workers

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

    from workers.agent_main import engine_addresses, run_agents
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
    from cluster.status import fetch_replicas, replica_table

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
    from cluster.check import find_differences

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
    from cluster.top import show, show_once

    token = load_settings(ClusterSettings, admin_token=admin_token).admin_token
    console = Console(highlight=False)
    if once:
        raise typer.Exit(0 if asyncio.run(show_once(url, token, console)) else 1)
    asyncio.run(show(url, token, console))


@app.command()
def replay(
    trace: Annotated[
        Path | None, typer.Option(help="Recorded requests, JSON lines in Mooncake's format.")
    ] = None,
    workload: Annotated[
        str | None,
        typer.Option(
            help="Instead of a trace, generated requests: chat, agents, rag, ... (a wrong name lists all)."
        ),
    ] = None,
    policies: Annotated[
        str | None, typer.Option(help="Names separated by commas, or all. Default: ours and five others.")
    ] = None,
    replicas: Annotated[int | None, typer.Option(help="Number of engines. Default: 8.")] = None,
    routers: Annotated[int | None, typer.Option(help="Number of routers. Default: 1.")] = None,
    load: Annotated[
        str | None,
        typer.Option(
            help="Times the workload's own rate, such as 1,1.5,2. Default: from light to near saturation."
        ),
    ] = None,
    length_scale: Annotated[
        float | None, typer.Option(help="Shorten a trace's prompts and answers, such as 0.125.")
    ] = None,
    first: Annotated[int | None, typer.Option(help="Of a trace: the first request, from 0.")] = None,
    last: Annotated[int | None, typer.Option(help="Of a trace: the request to stop before.")] = None,
    block_size: Annotated[
        int | None, typer.Option(help="Of a trace: tokens per KV block. Default: 16.")
    ] = None,
    profile: Annotated[str | None, typer.Option(help="How fast engines are. Default: sim.")] = None,
    blocks: Annotated[int | None, typer.Option(help="KV blocks per replica. Default: the profile's.")] = None,
    event_lag: Annotated[
        float | None, typer.Option(help="Milliseconds until routers know of cache events. Default: 3.")
    ] = None,
    gossip_lag: Annotated[
        float | None,
        typer.Option(help="Milliseconds until routers know of each other's bookings. Default: 5."),
    ] = None,
    slow: Annotated[
        str | None, typer.Option(help="Slow replicas, such as 0:2 if number 0 needs twice as long.")
    ] = None,
    changes: Annotated[
        bool | None, typer.Option(help="Replay with a join and a death, too, at one load. Default: yes.")
    ] = None,
    join_at: Annotated[
        float | None, typer.Option(help="When a replica joins, in seconds. Default: after a third.")
    ] = None,
    death_at: Annotated[
        float | None, typer.Option(help="When a replica dies, in seconds. Default: after two thirds.")
    ] = None,
    capacity: Annotated[
        bool | None, typer.Option("--capacity", help="Compare hit rates with smaller and larger caches, too.")
    ] = None,
    seeds: Annotated[
        int | None, typer.Option(help="Repeat everything with so many seeds; show medians. Default: 1.")
    ] = None,
    output: Annotated[
        Path | None, typer.Option(help="Directory of the report. Default: replay-NAME.")
    ] = None,
    jobs: Annotated[int | None, typer.Option(help="Processes. Default: one per CPU core.")] = None,
) -> None:
    """Replay traffic through policies on a simulated fleet, and report which serves it best."""
    try:
        from loadtest.replay.command import replay as run_replay
        from loadtest.replay.settings import ReplaySettings
    except ModuleNotFoundError as error:
        raise StartUpError(f"replay needs {error.name}: pip install 'warmroute[loadtest]'") from error

    settings = load_settings(
        ReplaySettings,
        trace=trace,
        workload=workload,
        policies=policies,
        replicas=replicas,
        routers=routers,
        load=load,
        length_scale=length_scale,
        first=first,
        last=last,
        block_size=block_size,
        profile=profile,
        blocks=blocks,
        event_lag=event_lag,
        gossip_lag=gossip_lag,
        slow=slow,
        changes=changes,
        join_at=join_at,
        death_at=death_at,
        capacity=capacity,
        seeds=seeds,
        output=output,
        jobs=jobs,
    )
    command = shlex.join(["warmroute", *sys.argv[1:]])
    run_replay(settings, command, Console(highlight=False), Console(stderr=True, highlight=False))


def main(arguments: list[str] | None = None) -> NoReturn:
    """Entry point of the ``warmroute`` command: errors are one clear message, not a traceback."""
    try:
        app(arguments)
    except ClusterError as error:
        Console(stderr=True, highlight=False).print(f"[red]warmroute:[/red] {escape(str(error))}")
        raise SystemExit(2 if isinstance(error, StartUpError) else 1) from None
    raise SystemExit(0)


if __name__ == "__main__":
    main()
