"""Anthropic's ``cache_control``: where a request says that a beginning of its prompt will come again.

Engines drop it, and cache every prefix. Here it means what Anthropic documents, as far as an engine's own
counts tell: which tokens that were added to a cache stand before such a breakpoint, and how often it is read.
"""

from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from heapq import nlargest
from typing import Any, NamedTuple

import msgspec

from cluster.apis.answer_blocks import Json

SECONDS = {"1h": 3600.0, "5m": 300.0}
"""Lifetimes, in the order that they must have in a prompt."""
MAX_BREAKPOINTS = 4
"""Of one request."""
MIN_TOKENS = 1024
"""Anthropic's minimum for most models: a shorter beginning is processed as if it were not marked."""
MAX_KNOWN = 10_000
MIN_TEXT, MAX_TEXT = 16, 256
"""Characters at the end of a text by which it is found in a prompt; fewer may also stand in the template."""
ORDER = (
    "a ttl='1h' cache_control block must not come after a ttl='5m' cache_control block. Note that blocks are "
    "processed in the following order: `tools`, `system`, `messages`."
)


class Breakpoint(NamedTuple):
    """One of a request's."""

    ttl: str
    end: bytes
    """How the text before it ends; nothing for one behind all that stands before the first user message:
    templates have tools and system prompts in an order of their own."""
    tokens: int = 0
    """Before it, where that is known."""


def breakpoints_of(body: Mapping[str, Any]) -> list[Breakpoint]:
    """Those of a body that has the shape of a Messages request, in the prompt's order. Raises `ValueError`
    with what Anthropic says where they are not allowed.
    """
    found: list[Breakpoint] = []
    end = b""
    for path, block, at_opening in _blocks(body):
        end = _end_of(block) or end
        if isinstance(block, str) or (control := block.get("cache_control")) is None:
            continue
        ttl = (control.get("ttl") or "5m") if isinstance(control, dict) else ""
        if ttl not in list(SECONDS) or control.get("type") != "ephemeral":
            raise ValueError(f"{path}cache_control: must be of type 'ephemeral', with a ttl of '5m' or '1h'.")
        if ttl == "1h" and any(before.ttl == "5m" for before in found):
            raise ValueError(f"{path}cache_control.ttl: {ORDER}")
        found.append(Breakpoint(ttl, b"" if at_opening else end))
    if len(found) > MAX_BREAKPOINTS:
        raise ValueError(
            f"A maximum of {MAX_BREAKPOINTS} blocks with cache_control may be provided. Found {len(found)}."
        )
    return found


def places_in(prompt: bytes, breakpoints: Sequence[Breakpoint], opening: int) -> list[int]:
    """Where they stand in the rendered prompt, in bytes, given where the first user message begins; 0 where
    one is not found. A text counts where it stands last.
    """
    backwards, start, places = prompt[::-1], 0, []
    for each in reversed(breakpoints):  # `find`, since `rfind` may need the square of the time
        found = backwards.find(each.end[::-1], start) if each.end else len(prompt) - opening
        places.append(len(prompt) - found if found >= 0 else 0)
        start = max(start, found)
    return places[::-1]


def _blocks(body: Mapping[str, Any]) -> Iterator[tuple[str, Any, bool]]:
    """Where each stands in the body, and whether a breakpoint there stands at the opening's end."""
    for number, tool in enumerate(body.get("tools") or ()):
        yield f"tools.{number}.", tool, True
    system = body.get("system") or ()
    for number, block in enumerate([system] if isinstance(system, str) else system, 1):
        yield f"system.{number - 1}.", block, number == len(system)
    for number, message in enumerate(body["messages"]):
        content = message["content"]
        for inner, block in enumerate([content] if isinstance(content, str) else content):
            yield f"messages.{number}.content.{inner}.", block, False
    yield "", body, False


def _end_of(block: Any) -> bytes:
    """How the text of a block ends in a prompt; nothing where it could not be found by that."""
    text = block if isinstance(block, str) else block.get("text") or block.get("content") or ""
    if isinstance(text, list):  # a tool's result
        text = text[-1].get("text")
    text = text[-MAX_TEXT:].strip() if isinstance(text, str) else ""
    return text.encode(errors="replace") if len(text) >= MIN_TEXT else b""


def split_usage(usage: Json, breakpoints: Sequence[Breakpoint]) -> Json:
    """An engine's counts for a message: of what it added to its cache the tokens before breakpoints, by
    lifetime, the rest as input. Unchanged where it does not say both what it found and what it added.
    """
    found, added = usage.get("cache_read_input_tokens"), usage.get("cache_creation_input_tokens")
    if found is None or added is None:
        return usage
    counted, created = found, {}
    for ttl in SECONDS:
        last = max([each.tokens for each in breakpoints if each.ttl == ttl], default=0)
        end = max(counted, min(last, found + added))
        created[f"ephemeral_{ttl}_input_tokens"] = end - counted
        counted = end
    more = {"cache_creation_input_tokens": counted - found, "cache_creation": created}
    return {**usage, "input_tokens": usage["input_tokens"] + found + added - counted, **more}


class CacheBreakpoint(msgspec.Struct):
    """A breakpoint that requests have had, by the key of the last whole block before it; it expires in
    seconds since 1970. Read by requests that have it again until then, whose engine held all those blocks.
    """

    key: str
    model: str
    tokens: int
    ttl: str
    expires: float
    reads: int = 0


class KnownBreakpoints:
    """Those of the last requests; beyond the bound the ones not met for longest are forgotten."""

    def __init__(self) -> None:
        self._known: OrderedDict[tuple[str, str], CacheBreakpoint] = OrderedDict()

    def add(self, model: str, key: str, breakpoint: Breakpoint, was_held: bool, now: float) -> None:
        """A request had this breakpoint: its lifetime begins again."""
        known = self._known.pop((model, key), None)
        if known is None or known.expires <= now:
            known = CacheBreakpoint(key, model, breakpoint.tokens, breakpoint.ttl, now)
        else:
            known.reads += was_held
        known.ttl, known.expires = breakpoint.ttl, now + SECONDS[breakpoint.ttl]
        self._known[model, key] = known
        if len(self._known) > MAX_KNOWN:
            self._known.popitem(last=False)

    def most_read(self, limit: int, now: float) -> list[CacheBreakpoint]:
        """Those in their lifetime."""
        alive = [known for known in self._known.values() if known.expires > now]
        return nlargest(limit, alive, key=lambda known: known.reads)
