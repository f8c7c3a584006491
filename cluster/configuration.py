"""A file of settings: ``--config warmroute.toml``, with the settings' own names.

What it says stands in for environment variables that are not set, so that child processes know it, too:
flags win over the environment, the environment over the file, the file over defaults. The names of settings
are those of `PARTS`, which this room knows by name only, since each may be missing.
"""

import json
import os
import tomllib
from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from importlib import import_module
from pathlib import Path
from typing import Any

from pydantic_settings import BaseSettings

from cluster.errors import StartUpError
from cluster.settings import PREFIX

PARTS = ("cluster.serve.serve_settings.ServeSettings", "router.settings.RouterSettings")
"""Settings of these may stand in the file, as far as they are installed here."""


def apply_file(path: Path) -> None:
    """Make a file's settings this process's own. Raises `StartUpError` that names the line or the setting."""
    try:
        content = tomllib.loads(path.read_text())
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise StartUpError(f"--config {path}: {reason}") from error
    known = {name for settings in _settings() for name in settings.model_fields}
    for name, value in content.items():
        if name not in known:
            near = "".join(f" Did you mean {one}?" for one in get_close_matches(name, known, 1))
            raise StartUpError(f"--config {path}: no setting {name}.{near} `warmroute config` prints all.")
        os.environ.setdefault(f"{PREFIX}{name.upper()}", _as_text(value))


def settings_in_force() -> Iterator[str]:
    """All settings as lines of such a file; those that are not set are comments with their defaults."""
    said: set[str] = set()
    for settings in _settings():
        for name, field in settings.model_fields.items():
            if name in said:
                continue
            said.add(name)
            meaning = (field.description or "").replace("\n", " ")
            yield f"# {meaning}" if meaning else ""
            given = os.environ.get(f"{PREFIX}{name.upper()}")
            if given is None:
                default = field.get_default(call_default_factory=True)
                yield f"# {name} = {json.dumps(_plain(default), default=str)}"
            else:
                yield f"{name} = {json.dumps(given if field.repr else '***')}"


def _settings() -> Iterator[type[BaseSettings]]:
    for part in PARTS:
        module, _, name = part.rpartition(".")
        try:
            yield getattr(import_module(module), name)
        except ModuleNotFoundError:
            continue


def _as_text(value: Any) -> str:
    if isinstance(value, list):
        return ",".join(map(_as_text, value))
    if isinstance(value, Mapping):
        if any(isinstance(one, Mapping) for one in value.values()):
            return json.dumps(value)
        return ",".join(f"{name}={_as_text(one)}" for name, one in value.items())
    return json.dumps(value) if isinstance(value, bool) else str(value)


def _plain(value: Any) -> Any:
    """As it is typed: collections as texts, as the environment has them."""
    if isinstance(value, Mapping):
        return _as_text(value)
    return ",".join(value) if isinstance(value, tuple | frozenset) else value
