"""``warmroute keys``: a file of API keys from the command line."""

import time
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from cluster.errors import StartUpError
from cluster.flags import HELP_NAMES
from cluster.settings import name_pairs
from router.tenants.key_file import SHARING, add_key, read_keys, revoke_key

keys_app = typer.Typer(add_completion=False, no_args_is_help=True, context_settings=HELP_NAMES)

File = Annotated[Path, typer.Option(envvar="WARMROUTE_API_KEYS_FILE", help="The file of keys.")]


@keys_app.command()
def add(
    tenant: Annotated[str, typer.Argument(help="Whose key it is.")],
    file: File,
    role: Annotated[str, typer.Option(help="Keys of other roles share no caches with it.")] = "",
    environment: Annotated[
        str, typer.Option(help="Keys of other environments share no caches with it.")
    ] = "",
    replicas: Annotated[
        str, typer.Option(help="Labels that replicas must have to serve it: region=eu,class=large.")
    ] = "",
    model: Annotated[
        list[str] | None, typer.Option(help="A model it may use; repeatable. Default: all.")
    ] = None,
    cache: Annotated[
        str, typer.Option(help=f"Whose caches it uses: {', '.join(SHARING)} or group:NAME.")
    ] = "tenant",
    cache_seconds: Annotated[
        int, typer.Option(min=0, help="How long what was computed is used; 0 is no limit.")
    ] = 0,
    cache_headers: Annotated[bool, typer.Option(help="Whether answers carry headers about caches.")] = True,
) -> None:
    """Make a key, and print it: it is shown this once, the file holds its hash."""
    try:
        labels = dict(name_pairs(replicas))
    except ValueError as error:
        raise StartUpError(f"--replicas: {error}") from error
    added, secret = add_key(
        file,
        tenant=tenant,
        role=role,
        environment=environment,
        replicas=labels,
        models=model or [],
        cache=cache,
        cache_seconds=cache_seconds,
        cache_headers=cache_headers,
    )
    Console(stderr=True, highlight=False).print(
        f"key {added.id} of {added.tenant}, in {file}:", soft_wrap=True
    )
    typer.echo(secret)


@keys_app.command("list")
def list_keys(file: File) -> None:
    """Show what each key may use."""
    table = Table("id", "tenant", "role", "environment", "replicas", "models", "cache", "created", box=None)
    for key in read_keys(file):
        lifetime = f", {key.cache_seconds} s" if key.cache_seconds else ""
        labels = ", ".join(f"{name}={label}" for name, label in key.replicas.items())
        created = time.strftime("%Y-%m-%d", time.gmtime(key.created))
        row = (key.id, key.tenant, key.role, key.environment, labels, ", ".join(key.models) or "all")
        table.add_row(*row, key.cache + lifetime, created)
    Console(highlight=False, markup=False).print(table)


@keys_app.command()
def revoke(key_id: Annotated[str, typer.Argument(metavar="ID", help="The key's id.")], file: File) -> None:
    """Remove a key: routers refuse it within a second."""
    revoked = revoke_key(file, key_id)
    Console(stderr=True, highlight=False).print(
        f"key {revoked.id} of {revoked.tenant} is gone", soft_wrap=True
    )
