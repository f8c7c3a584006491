"""``warmroute prompts``: versions of prompts, from files that live in a team's repository."""

import asyncio
import difflib
import json
from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer
from rich.console import Console
from rich.table import Table

from cluster.errors import StartUpError
from cluster.flags import HELP_NAMES
from cluster.operate.status import ask_admin

prompts_app = typer.Typer(add_completion=False, no_args_is_help=True, context_settings=HELP_NAMES)

RouterUrl = Annotated[str | None, typer.Option(envvar="WARMROUTE_ROUTER_URL", help="A router.")]
AdminToken = Annotated[str | None, typer.Option(envvar="WARMROUTE_ADMIN_TOKEN", help="Opens its admin API.")]
PromptId = Annotated[str, typer.Argument(metavar="ID", help="The prompt's name.")]
Context = typer.Context


@prompts_app.command()
def push(
    context: Context,
    file: Annotated[Path, typer.Argument(help="TOML: messages, tools, variable_messages, segments …")],
    prompt_id: Annotated[str | None, typer.Option("--id", help="Default: the file's name.")] = None,
    router_url: RouterUrl = None,
    admin_token: AdminToken = None,
) -> None:
    """Add a version. The first one of a prompt is active at once."""
    try:
        body = msgspec.toml.decode(file.read_bytes())
    except (OSError, msgspec.DecodeError, UnicodeDecodeError) as error:
        raise StartUpError(f"{file}: {error}") from error
    path = f"/admin/prompts/{prompt_id or file.stem}"
    _show(_ask(context, router_url, admin_token, "PUT", path, body))


@prompts_app.command("list")
def list_prompts(context: Context, router_url: RouterUrl = None, admin_token: AdminToken = None) -> None:
    """Show all prompts, their versions, and which is active."""
    _show(*_ask(context, router_url, admin_token, "GET", "/admin/prompts")["prompts"])


@prompts_app.command()
def diff(
    context: Context,
    prompt_id: PromptId,
    old: int,
    new: int,
    model: Annotated[str, typer.Option(help="Whose tokens. Default: the only model.")] = "",
    router_url: RouterUrl = None,
    admin_token: AdminToken = None,
) -> None:
    """Show what a version changes, in lines and in tokens."""
    path = f"/admin/prompts/{prompt_id}/difference?old={old}&new={new}&model={model}"
    tokens = _ask(context, router_url, admin_token, "GET", path)
    listed = _ask(context, router_url, admin_token, "GET", "/admin/prompts")["prompts"]
    versions = next(one["versions"] for one in listed if one["id"] == prompt_id)
    before, now = (
        json.dumps(versions[str(one)], indent=1, ensure_ascii=False).splitlines() for one in (old, new)
    )
    for line in difflib.unified_diff(before, now, f"{prompt_id}@{old}", f"{prompt_id}@{new}", lineterm=""):
        typer.echo(line)
    typer.echo(
        f"{tokens['old_tokens']} tokens before, {tokens['new_tokens']} now; "
        f"the first {tokens['shared_tokens']} are shared"
    )


@prompts_app.command()
def activate(
    context: Context,
    prompt_id: PromptId,
    version: int,
    share: Annotated[float, typer.Option(min=0.0, max=1.0, help="Of new conversations.")] = 1.0,
    router_url: RouterUrl = None,
    admin_token: AdminToken = None,
) -> None:
    """Give a version to new conversations, once replicas have computed it."""
    path = f"/admin/prompts/{prompt_id}/activate"
    answer = _ask(context, router_url, admin_token, "POST", path, {"version": version, "share": share})
    typer.echo(f"{prompt_id}@{version} is active; {answer['warmed']} copies were computed before")


@prompts_app.command()
def retire(
    context: Context,
    prompt_id: PromptId,
    version: int,
    router_url: RouterUrl = None,
    admin_token: AdminToken = None,
) -> None:
    """Remove a version that is not active."""
    _ask(context, router_url, admin_token, "DELETE", f"/admin/prompts/{prompt_id}/{version}")


def _ask(
    context: Context, router_url: str | None, token: str | None, method: str, path: str, body: Any = None
) -> dict[str, Any]:
    url, settings = context.obj(router_url, {"admin_token": token})
    return asyncio.run(ask_admin(url, settings.admin_headers, method, path, body))


def _show(*prompts: dict[str, Any]) -> None:
    table = Table("prompt", "versions", "active", "share", box=None)
    for prompt in prompts:
        active = prompt["active"] or {}
        share = f"{active.get('share', 0):.0%}" if active.get("previous") else ""
        table.add_row(prompt["id"], ", ".join(prompt["versions"]), str(active.get("version", "")), share)
    Console(highlight=False, markup=False).print(table)
