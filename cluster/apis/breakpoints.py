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
MIN_TEXT = 16
"""Characters by which a text is found in a prompt; what is shorter may also stand in the template."""
MAX_TEXT = 256
"""Bytes at the end of a text that are looked for."""
MAX_TEXTS = 16
"""Texts behind a breakpoint; one with more of them is not found."""
OPENING = -1
ORDER = (
    "a ttl='1h' cache_control block must not come after a ttl='5m' cache_control block. Note that blocks are "
    "processed in the following order: `tools`, `system`, `messages`."
)


class Mark(NamedTuple):
    """A breakpoint by the number of tokens before it."""

    tokens: int
    ttl: str


class Breakpoints(NamedTuple):
    """Those of one request, in the prompt's order."""

    ttls: Sequence[str]
    places: Sequence[int | bytes]
    """How many of the `texts` stand behind each; or the text at whose end it stands; or `OPENING`, behind all
    before the first user message: templates have tools and system prompts in an order of their own.
    """
    texts: Sequence[bytes]
    """How the prompt's last texts end, the last one first."""

    def positions(self, prompt: bytes) -> Iterator[int]:
        """Where they stand in the rendered prompt, in bytes: `OPENING`, or 0 where that is not found."""
        reverse, start, ends = prompt[::-1] if self.texts else b"", 0, []
        for text in self.texts:  # `find`, since `rfind` may need the square of the time
            found = reverse.find(text[::-1], start)
            ends.append(len(prompt) - found if found >= 0 else 0)
            start = found + len(text) if found >= 0 else start
        for place in self.places:
            if isinstance(place, bytes):
                yield prompt.find(place) + len(place) if place and place in prompt else 0
            else:
                yield place if place == OPENING else next(filter(None, ends[place:]), 0)


def breakpoints_of(body: Mapping[str, Any]) -> Breakpoints | None:
    """Those of a body that has the shape of a Messages request; None where it has none. Raises `ValueError`
    with what Anthropic says where they are not allowed.
    """
    texts: list[bytes] = []
    marked: list[tuple[str, Any, int | bytes]] = []  # the last one first

    def look(path: str, block: Any, place: int | bytes) -> None:
        if not isinstance(block, str) and (control := block.get("cache_control")) is not None:
            marked.append((path, control, place))

    look("", body, 0)
    for number, message in _reversed(body["messages"]):
        for inner, block in _reversed(message["content"]):
            look(f"messages.{number}.content.{inner}.", block, len(texts))
            if len(texts) < MAX_TEXTS and (text := _text_of(block)[-MAX_TEXT:]):
                texts.append(text)
    system = body.get("system") or ""
    for number, block in _reversed(system):
        look(f"system.{number}.", block, OPENING if number + 1 == len(system) else _text_of(block))
    for number, tool in _reversed(body.get("tools") or ()):
        look(f"tools.{number}.", tool, OPENING)
    ttls: list[str] = []
    for path, control, _ in reversed(marked):
        ttl = (control.get("ttl") or "5m") if isinstance(control, dict) else ""
        if ttl not in list(SECONDS) or control.get("type") != "ephemeral":
            raise ValueError(f"{path}cache_control: must be of type 'ephemeral', with a ttl of '5m' or '1h'.")
        if ttl == "1h" and "5m" in ttls:
            raise ValueError(f"{path}cache_control.ttl: {ORDER}")
        ttls.append(ttl)
    if len(ttls) > MAX_BREAKPOINTS:
        raise ValueError(
            f"A maximum of {MAX_BREAKPOINTS} blocks with cache_control may be provided. Found {len(ttls)}."
        )
    places = [place for _, _, place in reversed(marked)]
    first = max([place for place in places if isinstance(place, int)], default=OPENING)
    return Breakpoints(ttls, places, texts[: first + 2] if first >= 0 else ()) if ttls else None


def _reversed(blocks: str | Sequence[Any]) -> Iterator[tuple[int, Any]]:
    """What a content consists of, from the end, and its numbers from the beginning."""
    blocks = [blocks] if isinstance(blocks, str) else blocks
    return zip(reversed(range(len(blocks))), reversed(blocks), strict=True)


def _text_of(block: Any) -> bytes:
    """The text of a block as prompts have it; nothing where it could not be found by that."""
    text = block if isinstance(block, str) else block.get("text") or block.get("content") or ""
    if isinstance(text, list):  # a tool's result
        text = text[-1].get("text")
    text = text.strip() if isinstance(text, str) else ""
    return text.encode(errors="replace") if len(text) >= MIN_TEXT else b""


def split_usage(usage: Json, marks: Sequence[Mark]) -> Json:
    """An engine's counts for a message: of what it added to its cache the tokens before breakpoints, by
    lifetime, the rest as input. Unchanged where it does not say both what it found and what it added.
    """
    found, added = usage.get("cache_read_input_tokens"), usage.get("cache_creation_input_tokens")
    if found is None or added is None:
        return usage
    counted, created = found, {}
    for ttl in SECONDS:
        last = max([mark.tokens for mark in marks if mark.ttl == ttl], default=0)
        end = max(counted, min(last, found + added))
        created[f"ephemeral_{ttl}_input_tokens"] = end - counted
        counted = end
    more = {"cache_creation_input_tokens": counted - found, "cache_creation": created}
    return {**usage, "input_tokens": usage["input_tokens"] + found + added - counted, **more}


class CacheBreakpoint(msgspec.Struct):
    """A breakpoint that requests have had."""

    key: str
    """Of the last whole block before it."""
    model: str
    tokens: int
    ttl: str
    expires: float
    """Seconds since 1970."""
    reads: int = 0
    """Requests that had it again in its lifetime, and whose engines held all blocks before it."""


class KnownBreakpoints:
    """Those of the last requests; beyond the bound the ones not met for longest are forgotten."""

    def __init__(self) -> None:
        self._known: OrderedDict[tuple[str, str], CacheBreakpoint] = OrderedDict()

    def add(self, model: str, key: str, mark: Mark, was_held: bool, now: float) -> None:
        """A request had this breakpoint: its lifetime begins again."""
        known = self._known.pop((model, key), None)
        if known is None or known.expires <= now:
            known = CacheBreakpoint(key, model, mark.tokens, mark.ttl, now)
        else:
            known.reads += was_held
        known.ttl, known.expires = mark.ttl, now + SECONDS[mark.ttl]
        self._known[model, key] = known
        if len(self._known) > MAX_KNOWN:
            self._known.popitem(last=False)

    def most_read(self, limit: int, now: float) -> list[CacheBreakpoint]:
        """Those in their lifetime."""
        alive = [known for known in self._known.values() if known.expires > now]
        return nlargest(limit, alive, key=lambda known: known.reads)
