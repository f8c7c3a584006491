"""The public API in the OpenAPI document: what of each body the router reads, and what it may answer."""

from typing import Any

from router.answers import ErrorAnswer, described
from router.requests.endpoints import ENDPOINTS, Endpoint

TEXT: dict[str, Any] = {"type": "string"}
TEXTS: dict[str, Any] = {"anyOf": [TEXT, {"type": "array", "items": TEXT}]}
TOKENS: dict[str, Any] = {"type": "array", "items": {"type": "integer", "minimum": 0}}
MESSAGES: dict[str, Any] = {
    "type": "array",
    "minItems": 1,
    "items": {
        "type": "object",
        "required": ["role"],
        "properties": {"role": TEXT, "content": {}},
    },
}
PROMPTS: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": {"messages": MESSAGES},
    "/v1/completions": {"prompt": {"anyOf": [*TEXTS["anyOf"], TOKENS, {"type": "array", "items": TOKENS}]}},
    "/v1/messages": {"messages": MESSAGES, "max_tokens": {"type": "integer", "minimum": 1}},
    "/v1/messages/count_tokens": {"messages": MESSAGES},
    "/v1/responses": {"input": {"anyOf": [TEXT, {"type": "array", "items": {"type": "object"}}]}},
    "/v1/embeddings": {"input": TEXTS},
    "/pooling": {"input": TEXTS},
    "/classify": {"input": TEXTS},
    **{path: {"text_1": TEXTS, "text_2": TEXTS} for path in ("/score", "/v1/score")},
    **{path: {"query": TEXT, "documents": TEXTS} for path in ("/rerank", "/v1/rerank", "/v2/rerank")},
    "/tokenize": {"prompt": TEXT},
    "/detokenize": {"tokens": TOKENS},
}
"""What a body must have by its path; engines take much more, which is theirs to describe."""
REFUSALS = {
    400: "The request is malformed",
    401: "No API key, or a wrong one",
    404: "No replica serves this model, or the engine lacks this path",
    413: "The body is too large",
    429: "Too many requests are open, here or at the engines",
    502: "Engines failed",
    503: "No replica takes requests now",
    504: "An engine did not answer in time",
}


def public_paths() -> dict[str, Any]:
    """All that is passed on to engines."""
    return {path: {"post": _operation(endpoint)} for path, endpoint in ENDPOINTS.items()}


def _operation(endpoint: Endpoint) -> dict[str, Any]:
    content: dict[str, Any] = {"application/json": {"schema": {"type": "object"}}}
    if endpoint.stream is not None:
        content["text/event-stream"] = {"schema": TEXT}
    return {
        "summary": f"{endpoint.family.replace('_', ' ').capitalize()}, answered by an engine",
        "operationId": endpoint.path.strip("/").replace("/", "_"),
        "requestBody": {"required": True, "content": _body(endpoint)},
        "responses": {
            "200": {"description": "The engine's answer", "content": content},
            **{str(status): described(ErrorAnswer, why) for status, why in REFUSALS.items()},
        },
    }


def _body(endpoint: Endpoint) -> dict[str, Any]:
    if endpoint.read is None:
        parts = {"file": {"type": "string", "format": "binary"}, "model": TEXT, "stream": {"type": "boolean"}}
        schema = {"type": "object", "required": ["file", "model"], "properties": parts}
        return {"multipart/form-data": {"schema": schema}}
    prompt = PROMPTS.get(endpoint.path.removesuffix("/render"), {})
    fields = {"model": TEXT, **({"stream": {"type": "boolean"}} if endpoint.stream else {}), **prompt}
    if endpoint.salted:
        fields["cache_salt"] = {"type": "string", "pattern": r"^[^@/\\\x00]{1,128}$"}
    return {"application/json": {"schema": {"type": "object", "required": [*prompt], "properties": fields}}}
