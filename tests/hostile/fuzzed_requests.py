"""Requests that nobody expects, to all endpoints: the same ones for the same seed."""

from collections.abc import Iterator, Sequence
from typing import Any
from urllib.parse import quote

from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

from tests.hostile.bodies import CHAT as CHAT_PATH
from tests.hostile.bodies import COMPLETION as COMPLETION_PATH
from tests.hostile.fuzzed_json import CHAT, COMPLETION, HOSTILE, bodies, written
from tests.hostile.raw_request import RawRequest

PER_PART = 1000
"""Requests drawn in one go, to have them not all in memory."""
NUM_REPEATED = 100
"""Drawn in addition: the first ones of each attempt are the simplest ones, which are there already."""
TOKEN_CHARACTERS = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789!#$%&'*+-.^_`|~"
VALUE_BYTES = bytes([*range(0x21, 0x7F), *range(0x80, 0x100)])
METHODS = (
    "GET",
    "PUT",
    "DELETE",
    "HEAD",
    "OPTIONS",
    "PATCH",
    "TRACE",
    "PROPFIND",
    "get",
    "M-SEARCH",
    "QUERY",
)
TYPES = (
    b"application/json; charset=utf-16",
    *(
        b"text/plain",
        b"application/x-www-form-urlencoded",
        b"multipart/form-data; boundary=x",
        b"",
        b"/",
        b"\xff",
    ),
)
HEADERS: tuple[tuple[str, bytes], ...] = (
    *(
        ("Authorization", value)
        for value in (b"", b"Bearer", b"Bearer \xff\xfe", b"Basic YTpi", b"Bearer " + b"k" * 9000)
    ),
    *(("Upgrade", value) for value in (b"h2c", b"websocket", b"h2c, websocket", b"TLS/1.0")),
    *(
        ("Connection", value)
        for value in (b"close", b"keep-alive, Upgrade, HTTP2-Settings", b"x", b"Upgrade")
    ),
    *(("Expect", value) for value in (b"100-continue", b"200-ok", b"")),
    *(("Content-Encoding", value) for value in (b"gzip", b"br", b"identity", b"x")),
    *(("Accept", value) for value in (b"text/event-stream", b"*/*;q=x", b"")),
    *(("Accept-Encoding", value) for value in (b"gzip", b"identity;q=0", b"*;q=0")),
    *(("Origin", value) for value in (b"null", b"http://evil", b"http://127.0.0.1", b"\xe9", b"http://[")),
    *(("X-Forwarded-For", value) for value in (b"1.2.3.4", b"\xff", b"::1")),
    *(("X-Request-Id", value) for value in (b"", b"a" * 5000, b"\xe9\xff", b"{}", b"a b")),
    *(("Traceparent", value) for value in (b"00-" + b"0" * 32 + b"-" + b"0" * 16 + b"-01", b"x", b"ff-\xff")),
    *(("Cookie", value) for value in (b"a=b", b"\xff=\xff")),
    *(("Range", value) for value in (b"bytes=0-0", b"bytes=9999-", b"bytes=a")),
    *(("If-None-Match", value) for value in (b"*", b'"x"')),
    ("If-Modified-Since", b"yesterday"),
    ("Last-Event-ID", b"9" * 400),
)


def drawn(strategy: SearchStrategy[RawRequest], count: int, number: str) -> list[RawRequest]:
    """So many different requests of one kind; the same for the same number and the same program."""
    found: dict[RawRequest, None] = {}
    attempt = 0
    while len(found) < count:

        @settings(
            max_examples=count - len(found) + NUM_REPEATED,
            phases=[Phase.generate],
            database=None,
            deadline=None,
            derandomize=False,
            suppress_health_check=list(HealthCheck),
        )
        @seed(f"{number}-{attempt}")
        @given(strategy)
        def draw(request: RawRequest) -> None:
            found[request] = None

        draw()
        attempt += 1
    return list(found)[:count]


CHAT_BODY, COMPLETION_BODY = bodies(CHAT), bodies(COMPLETION)
IS_PLAIN = st.sampled_from((True, True, True, False))
METHOD = st.sampled_from(("POST", "POST", "POST", *METHODS))
ENDING = st.sampled_from(("", "", "", "/", "?a=b", "?" + "a" * 3000, "%00", ";x", "/x", "/../..", "%2f"))
CHUNK = st.sampled_from((0, 0, 1, 7, 1000, 65536))
HEADER = st.one_of(
    st.sampled_from(TYPES).map(lambda value: ("Content-Type", value)),
    st.sampled_from(HEADERS),
    st.tuples(
        st.text(TOKEN_CHARACTERS, min_size=1, max_size=20).map(lambda name: "X-" + name),
        st.lists(st.sampled_from(list(VALUE_BYTES)), max_size=20).map(bytes),
    ),
)
SOME_HEADERS = st.lists(HEADER, max_size=4).map(tuple)


@st.composite
def posts(draw: st.DrawFn, path: str, body: SearchStrategy[bytes]) -> RawRequest:
    """To one of the two endpoints that generate; one of four is odd in more than its body."""
    if draw(IS_PLAIN):
        return RawRequest("POST", path, (("Content-Type", b"application/json"),), draw(body))
    target, content = path + draw(ENDING), draw(body)
    chunk = draw(CHUNK) if len(content) < 5000 else 0
    return RawRequest(draw(METHOD), target, draw(SOME_HEADERS), content, chunk)


GENERATIONS = st.one_of(
    posts(CHAT_PATH, CHAT_BODY), posts(CHAT_PATH, CHAT_BODY), posts(COMPLETION_PATH, COMPLETION_BODY)
)

SEGMENT = st.sampled_from(
    ("a", "0" * 16, "f" * 16, "..", "%00", "%ff", "%", "%2e%2e", "a" * 5000, "%C3%A9", "-", ":")
) | st.text(min_size=1, max_size=20).map(lambda text: quote(text.encode("utf-8", "replace"), safe=""))
PARAMETERS = st.lists(
    st.tuples(st.sampled_from(("limit", "seconds", "hours", "limit", "x", "")), HOSTILE), max_size=3
).map(
    lambda pairs: "&".join(
        f"{name}={quote(value.encode('utf-8', 'replace'))[:3000]}" for name, value in pairs
    )
)
QUERY = st.just("") | PARAMETERS.map(lambda text: "?" + text)
ADMIN_VALUE = st.one_of(HOSTILE, st.sampled_from(('"warm"', '"nobody"', "0.5", "0", "1")))
ADMIN_NAME = st.sampled_from(('"policy"', '"control"', '"share"', '"name"', '"x"'))
ADMIN_BODY = st.just(b"") | bodies(
    st.one_of(HOSTILE, st.lists(st.tuples(ADMIN_NAME, ADMIN_VALUE), max_size=4).map(written))
)


@st.composite
def misuses(draw: st.DrawFn, targets: Sequence[tuple[str, str]]) -> RawRequest:
    """To everything else, in ways that it does not expect."""
    method, path = draw(st.sampled_from(targets))
    while "{" in path:
        before, _, rest = path.partition("{")
        path = before + draw(SEGMENT) + rest.partition("}")[2]
    if not draw(IS_PLAIN):
        method, path = draw(METHOD), path + draw(ENDING)
    return RawRequest(method, path + draw(QUERY), draw(SOME_HEADERS), draw(ADMIN_BODY))


def parts(document: dict[str, Any], count: int, number: int) -> Iterator[list[RawRequest]]:
    """So many requests, an eighth of them to what an OpenAPI document names, the rest to generate."""
    targets = [(method.upper(), path) for path, methods in document["paths"].items() for method in methods]
    for start in range(0, count, PER_PART):
        size = min(PER_PART, count - start)
        yield [
            *drawn(GENERATIONS, size - size // 8, f"{number}-{start}"),
            *drawn(misuses(targets), size // 8, f"{number}-{start}"),
        ]
