"""Where the last ``warmroute serve`` of this user is, so that other commands find it by themselves."""

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import msgspec

DEFAULT_ROUTER_URL = "http://127.0.0.1:8000"


class Serving(msgspec.Struct, frozen=True):
    """A running ``warmroute serve``."""

    pid: int = 0
    router_url: str = DEFAULT_ROUTER_URL
    redis_url: str | None = None
    admin_token: str | None = None


def state_file() -> Path:
    """The file, readable by its user only."""
    folder = os.environ.get("XDG_STATE_HOME") or "~/.local/state"
    return Path(folder).expanduser() / "warmroute" / "serve.json"


@contextmanager
def announced(serving: Serving) -> Iterator[None]:
    """Let other commands find it for as long as the context is open. It is no harm if they cannot."""
    path = state_file()
    with suppress(OSError):
        path.parent.mkdir(parents=True, exist_ok=True)
        fresh = path.with_suffix(f".{serving.pid}")
        fresh.touch(mode=0o600)
        fresh.write_bytes(msgspec.json.encode(serving))
        fresh.replace(path)
    try:
        yield
    finally:
        if find_serving().pid == serving.pid:
            path.unlink(missing_ok=True)


def find_serving() -> Serving:
    """What runs, or the defaults."""
    with suppress(OSError, msgspec.MsgspecError):
        serving = msgspec.json.decode(state_file().read_bytes(), type=Serving)
        os.kill(serving.pid, 0)
        return serving
    return Serving()
