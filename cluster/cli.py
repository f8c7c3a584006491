"""The command line: ``warmroute serve | router | agent | status | check | top``, and `loadtest.cli`.

Part of the composition root: `router`, `workers` and `loadtest` are imported where a command needs them,
since each may be installed without the others.
"""

import asyncio
import os
from importlib.metadata import version
from pathlib import Path
from typing import Annotated, Any, NoReturn
from urllib.parse import urlencode

import structlog
import typer
from rich.console import Console
from rich.markup import escape

from cluster.configuration import apply_file, settings_in_force
from cluster.errors import ClusterError, StartUpError
from cluster.flags import HELP_NAMES, UNREAD, run_late, with_settings
from cluster.log import configure_logging
from cluster.settings import PREFIX, ClusterSettings, checked_url, load_settings, masked
from loadtest import cli as cli_loadtest
from policies.installed import InstalledPolicyError

app = typer.Typer(
    name="warmroute",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings=HELP_NAMES,
)

RouterUrl = Annotated[
    str | None,
    typer.Option(
        envvar="WARMROUTE_ROUTER_URL",
        help="A router. Default: that of `warmroute serve`, or port 8000.",
    ),
]
UsageError: Any = typer.BadParameter.__base__


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"warmroute {version('warmroute')}")
        raise typer.Exit


@app.callback()
def options(
    config: Annotated[
        Path | None,
        typer.Option(envvar="WARMROUTE_CONFIG", help="TOML file of settings; `warmroute config` prints one."),
    ] = None,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version, and end.")
    ] = False,
) -> None:
    """A cache-aware router for LLM inference. Every option can also be set as WARMROUTE_<OPTION>."""
    if config is not None:
        apply_file(config)


@app.command()
def config() -> None:
    """Print all settings of serve and router, as a file for --config."""
    for line in settings_in_force():
        typer.echo(line)


@app.command(**UNREAD)
def serve(context: typer.Context) -> None:
    """Start Redis, Ray, engines and a router; stop all of them with Ctrl-C."""
    from cluster.serve.serve_settings import ServeSettings

    @with_settings(
        ServeSettings,
        "model model_name replicas host port blocks max_model_len gpus engine engine_arguments redis_url "
        "policy ray_address engine_api_key admin_token deployment log_level",
    )
    def run(
        quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Say nothing but errors.")] = False,
        **given: Any,
    ) -> None:
        from cluster.serve.launcher import serve as launch

        launch(load_settings(ServeSettings, **given), Console(highlight=False, quiet=quiet))

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
        address = f"{settings.host}:{listener.getsockname()[1]}"
        structlog.get_logger().info("router_listens", address=address, redis=masked(settings.redis_url))
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
def status(router_url: RouterUrl = None, **given: Any) -> None:
    """Show every replica: state, load, blocks, hit rate."""
    from cluster.operate.status import fetch_replicas, replica_table

    url, settings = _found(router_url, given)
    Console().print(replica_table(asyncio.run(fetch_replicas(url, settings.admin_headers))))


@app.command()
@with_settings(ClusterSettings, "redis_url deployment admin_token")
def check(
    router_url: Annotated[list[str] | None, typer.Option(help="A router to check; repeatable.")] = None,
    **given: Any,
) -> None:
    """Compare what agents, Redis and routers say of every replica's blocks; print the difference."""
    from cluster.operate.check import find_differences

    urls = [checked_url("--router-url", url) for url in router_url or ()]
    url, settings = _found(urls[0] if urls else None, given)
    report = asyncio.run(find_differences(settings, urls or [url]))
    console = Console(highlight=False)
    for line in report.lines:
        console.print(line, soft_wrap=True)
    raise typer.Exit(0 if report.agree else 1)


@app.command()
@with_settings(ClusterSettings, "admin_token")
def top(
    router_url: RouterUrl = None,
    once: Annotated[bool, typer.Option("--once", help="Print it once, and end.")] = False,
    **given: Any,
) -> None:
    """Show the fleet live in the terminal; q ends it."""
    from cluster.operate.top import show, show_once

    url, settings = _found(router_url, given)
    console = Console(highlight=False)
    if once:
        raise typer.Exit(0 if asyncio.run(show_once(url, settings.admin_headers, console)) else 1)
    asyncio.run(show(url, settings.admin_headers, console))


@app.command()
@with_settings(ClusterSettings, "admin_token")
def reset(
    router_url: RouterUrl = None,
    tenant: Annotated[str | None, typer.Option(help="Only what was computed for this tenant.")] = None,
    model: Annotated[str | None, typer.Option(help="Only what this model has computed.")] = None,
    **given: Any,
) -> None:
    """Let no request use what was computed before, on any replica, within a second."""
    from cluster.operate.status import ask_admin

    url, settings = _found(router_url, given)
    whose = urlencode({name: one for name, one in (("tenant", tenant), ("model", model)) if one is not None})
    asyncio.run(ask_admin(url, settings.admin_headers, "POST", f"/admin/caches/reset?{whose}"))


@app.command(**UNREAD)
def prompts(context: typer.Context) -> None:
    """Push, compare, activate and retire prompts that requests name instead of sending them."""
    from cluster.operate.prompts import prompts_app

    prompts_app(context.args, prog_name=context.command_path, standalone_mode=False, obj=_found)


@app.command(**UNREAD)
def keys(context: typer.Context) -> None:
    """Add, list and revoke API keys of a file that routers read (WARMROUTE_API_KEYS_FILE)."""
    from router.tenants.keys_cli import keys_app

    keys_app(context.args, prog_name=context.command_path, standalone_mode=False)


def _found(router_url: str | None, given: dict[str, Any]) -> tuple[str, ClusterSettings]:
    """The router that is meant, and the settings with which it is asked: those of a `serve` that runs here,
    where neither flags nor the environment say others.
    """
    from cluster.operate.state_file import find_serving

    serving = find_serving()
    if router_url is None or router_url.rstrip("/") == serving.router_url:
        for name, value in (("redis_url", serving.redis_url), ("admin_token", serving.admin_token)):
            if given.get(name) is None and not os.environ.get(f"{PREFIX}{name.upper()}"):
                given = {**given, name: value}
    url = serving.router_url if router_url is None else checked_url("--router-url", router_url)
    return url, load_settings(ClusterSettings, **given)


cli_loadtest.register(app)


def main(arguments: list[str] | None = None) -> NoReturn:
    """Entry point of the ``warmroute`` command: errors are one clear message, not a traceback."""
    try:
        raise SystemExit(app(arguments, standalone_mode=False) or 0)
    except typer.Abort:  # Ctrl-C
        raise SystemExit(130) from None
    except UsageError as error:
        message = error.format_message()
        if "Usage:" in message:  # the help: no command was given
            typer.echo(message)
        else:
            _complain(f"{message} (see `{error.ctx.command_path if error.ctx else 'warmroute'} --help`)")
        raise SystemExit(2) from None
    except (ClusterError, InstalledPolicyError) as error:
        _complain(str(error))
        raise SystemExit(2 if isinstance(error, StartUpError | InstalledPolicyError) else 1) from None


def _complain(message: str) -> None:
    Console(stderr=True, highlight=False).print(f"[red]warmroute:[/red] {escape(message)}", soft_wrap=True)


if __name__ == "__main__":
    main()
