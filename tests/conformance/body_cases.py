"""Bodies that are odd as bytes, and odd ways to send them."""

import gzip
import json
import zlib

from tests.conformance.case import CHAT, COMPLETION, JSON_TYPE, Cases, chat, completion
from tests.hostile.raw_request import RawRequest

PLAIN = json.dumps(chat()).encode()
ACCENTED = json.dumps(chat("\u00e9\u4e2d"), ensure_ascii=False)
NO_JSON = [
    *(
        b"",
        b"{",
        b"}",
        b"nul",
        b"{'a': 1}",
        PLAIN[:-1],
        PLAIN + b"x",
        PLAIN + PLAIN,
        b"\0" + PLAIN,
        PLAIN + b"\0",
        b"\xff" + PLAIN,
    ),
    *(
        PLAIN.replace(b"Hello", b"\x01"),
        PLAIN.replace(b"Hello", b"\xff"),
        PLAIN[:-1] + b",}",
        PLAIN.replace(b": 2", b": 04"),
    ),
    *(
        PLAIN.replace(b": 2", b": +4"),
        PLAIN.replace(b": 2", b": 4."),
        PLAIN.replace(b": 2", b": 0x4"),
        PLAIN.replace(b": 2", b": " + b"1" * 5_000),
    ),
    *(
        b'{"a":' * 10_000,
        b"model=m&prompt=x",
        b"\xef\xbb\xbf\xef\xbb\xbf" + PLAIN,
        gzip.compress(PLAIN),
        zlib.compress(PLAIN),
    ),
]
NO_OBJECT = [b"null", b"[]", b"5", b'"text"', b"true", b"NaN", b"[" + PLAIN + b"]"]
ODD = [
    b"\xef\xbb\xbf" + PLAIN,
    *(
        ACCENTED.encode(encoding)
        for encoding in ("utf-8", "utf-16", "utf-16-le", "utf-16-be", "utf-32", "utf-8-sig")
    ),
    *(
        PLAIN.replace(b"Hello!", text)
        for text in (b"\\ud800", b"\\udc00\\ud800", b"\\ud83d\\ude00", b"\\u0000", b"\x7f", b"\xed\xa0\x80")
    ),
    *(
        PLAIN.replace(b'"temperature": 0', b'"temperature": ' + value)
        for value in (b"NaN", b"Infinity", b"-Infinity", b"1e999", b"-0", b"1E-400", b"0.0")
    ),
    *(
        PLAIN.replace(b'"max_tokens": 2', b'"max_tokens": ' + value)
        for value in (b"4e0", b"4.0", b"1" * 25, b"-" + b"1" * 25, b"null", b"true", b"NaN")
    ),
    *(
        PLAIN[:-1] + addition + b"}"
        for addition in (
            b',"model":"m"',
            b',"model":"x","model":"m"',
            b',"max_tokens":2',
            b',"stream":true,"stream":false',
        )
    ),
    *(
        PLAIN[:-1] + addition + b"}"
        for addition in (
            b',"stream":false,"str\\u0065am":true',
            b',"x":NaN',
            b',"x":1e999',
            b',"x":"\\ud800"',
            b',"\\ud800":1',
            b',"":1',
        )
    ),
    *(
        PLAIN[:-1] + b',"stream":true' + addition + b"}"
        for addition in (
            b',"x":NaN',
            b',"user":"\\ud800"',
            b',"x":[-Infinity]',
            b',"stream_options":{"x":NaN}',
        )
    ),
    *(b" \r\n\t" + PLAIN + b" \r\n\t", PLAIN.replace(b'"Hello!"', b'"Hello!" ' + b" " * 3_000)),
    *(PLAIN[:-1] + b',"x":' + b"[" * depth + b"]" * depth + b"}" for depth in (10, 100, 400)),
    b"\xef\xbb\xbf" + PLAIN[:-1] + b',"stream":true}',
    ACCENTED.encode("utf-16")[:-2] + ',"stream":true}'.encode("utf-16-le"),
]
TYPES = [
    *(
        "application/json; charset=utf-8",
        "Application/JSON",
        "application/json;charset=utf-16",
        "application/json ; x=y",
    ),
    *(
        "text/plain",
        "",
        "application/x-www-form-urlencoded",
        "application/vnd.api+json",
        "text/json",
        "/",
        "json",
        "\xff",
    ),
    *("multipart/form-data; boundary=x", "application/jsonx", "application/octet-stream"),
]


def add_bodies(cases: Cases) -> None:
    """Add all of them."""
    for body in NO_JSON:
        cases.post("no JSON", CHAT, body, meant="no JSON")
        cases.post("no JSON", COMPLETION, body, meant="no JSON")
    for body in NO_OBJECT:
        cases.post("no object", CHAT, body, meant="no JSON")
    cases.post("odd bytes", CHAT, *ODD)
    cases.post(
        "odd prompts",
        COMPLETION,
        *(
            json.dumps(completion("x")).encode().replace(b'"x"', text)
            for text in (b'"\\ud800"', b"NaN", b"[1e0, 2]", b"[NaN]")
        ),
    )
    for kind in TYPES:
        cases.post("content type", CHAT, PLAIN, Content_Type=kind)
        cases.post(
            "content type", COMPLETION, json.dumps(completion(stream=True)).encode(), Content_Type=kind
        )
    for coding in ("gzip", "deflate", "br", "identity", "x"):
        cases.post("coding of a plain body", CHAT, PLAIN, Content_Encoding=coding)
    for coding, body in (
        ("gzip", gzip.compress(PLAIN)),
        ("deflate", zlib.compress(PLAIN)),
        ("gzip", gzip.compress(b" " * 10**7)),
    ):
        cases.post("coding of a packed body", CHAT, body, meant="no JSON", Content_Encoding=coding)
    for chunk in (1, 7, 1000):
        cases.add("chunked", RawRequest("POST", CHAT, JSON_TYPE, PLAIN, chunk))
        cases.add(
            "chunked",
            RawRequest("POST", COMPLETION, JSON_TYPE, json.dumps(completion(stream=True)).encode(), chunk),
        )
    cases.add("chunked", RawRequest("POST", CHAT, (), PLAIN, 9))
    for expectation in ("100-continue", "100-Continue"):
        cases.post("expectation", CHAT, PLAIN, chat(stream=True), Expect=expectation)
    for name, values in (
        ("Accept", ("text/event-stream", "application/xml", "")),
        ("X-Request-Id", ("mine", "", "a b", "\xe9")),
        ("Authorization", ("Bearer x", "Basic YTpi", "")),
        ("X-Session-ID", ("s", "")),
        ("X-Vllm-Priority", ("1", "x")),
        ("X-data-parallel-rank", ("0",)),
        ("endpoint-load-metrics-format", ("text", "json", "x")),
        ("traceparent", ("00-" + "1" * 32 + "-" + "2" * 16 + "-01", "x")),
        ("Accept-Encoding", ("gzip", "identity;q=0")),
        ("Upgrade", ("h2c",)),
    ):
        for value in values:
            cases.post(f"header {name}", CHAT, chat(), chat(stream=True), **{name.replace("-", "_"): value})
