"""Requests that only an engine that pools answers with more than a refusal."""

import itertools
from typing import Any

from tests.conformance.case import Cases

TURN = {"role": "user", "content": "a short text"}
LONG = "word " * 5000
VECTORS: tuple[dict[str, Any], ...] = (
    *({"input": "a short text"}, {"input": ["one", "two", "three"]}, {"input": [[1, 2], [3]]}),
    *({"input": [1, 2, 3]}, {"input": ""}, {"input": [""]}, {"input": ["a", 1]}, {"input": {"a": 1}}),
    *({"input": LONG}, {"input": LONG, "truncate_prompt_tokens": 5}, {"input": ["a", LONG]}),
    *({"input": "a b c d", "truncate_prompt_tokens": n} for n in (2, 0, -1, -2, 100_000, "2", None)),
    *(
        {"input": "a b c d", "truncate_prompt_tokens": 2, "truncation_side": s}
        for s in ("left", "right", "up")
    ),
    *({"input": "a", "encoding_format": name} for name in ("float", "base64", "bytes", "bytes_only", "x", 5)),
    *({"input": "a", "encoding_format": "base64", "embed_dtype": t} for t in ("float16", "fp8_e4m3", "x")),
    *({"input": "a", "encoding_format": "base64", "endianness": e} for e in ("little", "big", "x")),
    *({"input": "a", "dimensions": n} for n in (2, 0, "2")),
    *({"messages": [TURN]}, {"messages": []}, {"messages": [TURN], "input": "a"}, {"input": [TURN]}),
    *({"messages": [TURN], "add_generation_prompt": True}, {"messages": [TURN], "chat_template": "x"}),
    *({"messages": [[TURN], [TURN]]}, {"messages": [{**TURN, "role": "developer"}]}),
    *(
        {"input": "a", "use_activation": False},
        {"input": "a", "normalize": True},
        {"input": "a", "user": "u"},
    ),
    *({"input": "a", "priority": n} for n in (0, 1, 2**70)),
    *({"input": "a", "request_id": "mine"}, {"input": "a", "stream": True}, {"input": "a", "unheard": 1}),
    *({"input": "a", "cache_salt": "salt"}, {"input": "a", "add_special_tokens": False}),
    *({"input": "a", "padding": "max_length"}, {"input": "\ud800"}, {"input": "\0"}),
)
TASKS = ("embed", "classify", "token_embed", "token_classify", "plugin", "encode", 5)
COHERE: tuple[dict[str, Any], ...] = (
    *({"texts": ["a", "b"]}, {"texts": []}, {"texts": "a"}, {"inputs": [{"content": [TURN]}]}, {}),
    *({"texts": ["a"], "input_type": t} for t in ("search_query", "clustering", "x")),
    *({"texts": ["a"], "embedding_types": t} for t in (["float"], ["int8"], ["float", "base64"], ["x"])),
    *({"texts": [LONG], "truncate": t} for t in ("NONE", "START", "END", "x")),
    *({"texts": ["a"], "output_dimension": 2}, {"texts": ["a"], "max_tokens": 1}),
    {"inputs": [{"content": [{"type": "text", "text": "a"}]}]},
)
PAIRS: tuple[dict[str, Any], ...] = (
    *(
        {first: one, second: two}
        for first, second in (("text_1", "text_2"), ("queries", "documents"), ("queries", "items"))
        for one, two in itertools.product(("a", ["a"], ["a", "b"], []), ("b", ["b", "c"], [], [1], None))
    ),
    *({"text_1": "a", "text_2": "b", "truncate_prompt_tokens": 1}, {"text_1": LONG, "text_2": "b"}),
    *({"text_1": "a", "text_2": "b", "instruction": "x"}, {"queries": "a", "documents": "b", "text_1": "c"}),
)
RANKS: tuple[dict[str, Any], ...] = (
    *({"query": "a", "documents": ["b", "c", "d"], "top_n": n} for n in (0, 1, 2, 9, -1, "1", None)),
    *({"query": "a", "documents": d} for d in ("b", [1], [{"text": "b"}], ["b"] * 30, [""], None)),
    *({"query": q, "documents": ["b"]} for q in ("", ["a"], None, 5)),
    *(
        {"query": "a", "documents": ["b", LONG]},
        {"query": "a", "documents": ["b"], "return_documents": False},
    ),
    *({"query": "a", "documents": ["b"], "max_tokens_per_doc": n} for n in (0, 1, -1)),
    {"query": "a", "documents": ["b"], "truncate_prompt_tokens": 1},
)


def add_pooling(cases: Cases) -> None:
    """Add all of them."""
    for body in VECTORS:
        cases.post("vectors", "/v1/embeddings", {"model": "m", **body})
        cases.post("pooled", "/pooling", {"model": "m", **body})
        cases.post("classes", "/classify", {"model": "m", **body})
    for task in TASKS:
        for encoding in ("float", "base64", "bytes"):
            cases.post(
                "task",
                "/pooling",
                {"model": "m", "input": ["a", "b c"], "task": task, "encoding_format": encoding},
            )
    for body in COHERE:
        cases.post("Cohere's vectors", "/v2/embed", {"model": "m", **body})
    for path in ("/score", "/v1/score"):
        for body in PAIRS:
            cases.post("pairs", path, {"model": "m", **body})
    for path in ("/rerank", "/v1/rerank", "/v2/rerank"):
        for body in RANKS:
            cases.post("ranks", path, {"model": "m", **body})
    for path in ("/v1/embeddings", "/pooling", "/v2/embed", "/score", "/v2/rerank"):
        cases.post("vectors without JSON", path, b"{", b"[]", meant="no JSON")
        cases.post("vectors of another type", path, {"model": "m", "input": "a"}, Content_Type="text/plain")
        cases.post("vectors of another model", path, {"model": "x", "input": "a"}, meant="unknown model")
        cases.post("vectors without a model", path, {"input": "a", "query": "a", "documents": ["b"]})
