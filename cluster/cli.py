"""The command line: ``warmroute serve | router | agent | status | check | top``, and `loadtest.cli`.

Part of the composition root: `router`, `workers` and `loadtest` are imported where a command needs them,
since each may be installed without the others.
"""

import asyncio
from typing import Annotated, Any, NoReturn

import typer
from rich.console import Console
from rich.markup import escape

from cluster.errors import ClusterError, StartUpError
from cluster.flags import UNREAD, run_late, with_settings
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

RouterUrl = Annotated[str, typer.Option(envvar="WARMROUTE_ROUTER_URL", help="A router to ask.")]

DEFAULT_ROUTER_URL = "http://127.0.0.1:8000"


@app.command(**UNREAD)
def serve(context: typer.Context) -> None:
    """Start Redis, Ray, engines and a router; stop all of them with Ctrl-C."""
    from cluster.serve.serve_settings import ServeSettings

    @with_settings(
        ServeSettings,
        "model model_name replicas host port blocks max_model_len engine redis_url policy ray_address "
        "engine_api_key admin_token deployment log_level",
    )
    def run(**given: Any) -> None:
        from cluster.serve.launcher import serve as launch

        launch(load_settings(ServeSettings, **given), Console(highlight=False))

    run_late(context, run)


@app.command(**UNREAD)
def router(context: typer.Context) -> None:
    """Run a router next to engines that agents watch over."""
    from router.settings import RouterSettings

    @with_settings(
        RouterSettings,
        "redis_url host port workers policy engine_api_key admin_token deployment log_level",
    )
    def run(
        tokenizer: Annotated[
            list[str] | None,
            typer.Option(help="MODEL=DIRECTORY; repeatable. Otherwise the engine's own directory is read."),
        ] = None,
        **given: Any,
    ) -> None:
        from cluster.prompts.tokenizer import forgo_torch
        from router.server import bind, create_server

        tokenizers = ",".join(tokenizer) if tokenizer else None
        settings = load_settings(RouterSettings, tokenizers=tokenizers, **given)
        configure_logging(settings.log_level)
        listener = bind(settings.host, settings.port)
        forgo_torch()
        if settings.workers > 1:
            from router.processes import run_workers

            raise typer.Exit(run_workers(settings, listener))
        create_server(settings).run(sockets=[listener])

    run_late(context, run)


@app.command(**UNREAD)
def agent(context: typer.Context) -> None:
    """Watch over engines that somebody else started, and publish what their caches hold."""
    from workers.settings import WorkerSettings

    @with_settings(WorkerSettings, "redis_url engine_api_key deployment log_level")
    def run(
        engine_url: Annotated[list[str], typer.Option(help="Base URL of an engine; repeatable.")],
        advertise_url: Annotated[
            list[str] | None,
            typer.Option(
                help="Base URL at which routers reach that engine; repeatable, in the order of --engine-url. "
                "Default: the engine URL."
            ),
        ] = None,
        replica_id: Annotated[
            list[str] | None,
            typer.Option(
                help="Name of that replica; repeatable, in the same order. Default: its host and port."
            ),
        ] = None,
        **given: Any,
    ) -> None:
        import uvloop

        from cluster.store.store import is_local
        from workers.agent.main import engine_addresses, run_agents

        settings = load_settings(WorkerSettings, **given)
        engines = engine_addresses(
            engine_url, advertise_url or (), replica_id or (), redis_is_local=is_local(settings.redis_url)
        )
        configure_logging(settings.log_level)
        uvloop.run(run_agents(engines, settings))

    run_late(context, run)


@app.command()
@with_settings(ClusterSettings, "admin_token")
def status(router_url: RouterUrl = DEFAULT_ROUTER_URL, **given: Any) -> None:
    """Show every replica: state, load, blocks, hit rate."""
    from cluster.operate.status import fetch_replicas, replica_table

    settings = load_settings(ClusterSettings, **given)
    Console().print(replica_table(asyncio.run(fetch_replicas(router_url, settings.admin_headers))))


@app.command()
@with_settings(ClusterSettings, "redis_url deployment admin_token")
def check(
    router_url: Annotated[list[str] | None, typer.Option(help="A router to check; repeatable.")] = None,
    **given: Any,
) -> None:
    """Compare what agents, Redis and routers say of every replica's blocks; print the difference."""
    from cluster.operate.check import find_differences

    settings = load_settings(ClusterSettings, **given)
    report = asyncio.run(find_differences(settings, router_url or [DEFAULT_ROUTER_URL]))
    console = Console(highlight=False)
    for line in report.lines:
        console.print(line, soft_wrap=True)
    raise typer.Exit(0 if report.agree else 1)


@app.command()
@with_settings(ClusterSettings, "admin_token")
def top(
    url: RouterUrl = DEFAULT_ROUTER_URL,
    once: Annotated[bool, typer.Option("--once", help="Print it once, and end.")] = False,
    **given: Any,
) -> None:
    """Show the fleet live in the terminal; q ends it."""
    from cluster.operate.top import show, show_once

    token = load_settings(ClusterSettings, **given).admin_token
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
        Console(stderr=True, highlight=False).print(
            f"[red]warmroute:[/red] {escape(str(error))}", soft_wrap=True
        )
        raise SystemExit(2 if isinstance(error, StartUpError | InstalledPolicyError) else 1) from None
    raise SystemExit(0)


if __name__ == "__main__":
    main()
