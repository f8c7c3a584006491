"""All other paths, and methods that are not theirs."""

from tests.conformance.case import CHAT, COMPLETION, Cases, chat, completion
from tests.hostile.raw_request import RawRequest

MESSAGE = {
    "model": "m",
    "max_tokens": 2,
    "temperature": 0,
    "messages": [{"role": "user", "content": "Hello!"}],
}
RESPONSE = {"model": "m", "input": "Hello!", "max_output_tokens": 4, "temperature": 0}
TEXTS = [
    *({"input": "a"}, {"input": ["a", "b"]}, {"input": [1, 2]}, {"input": []}, {"input": None}, {}),
    *(
        {"input": "a", "encoding_format": "base64"},
        {"input": "a", "encoding_format": "bytes"},
        {"input": "a", "dimensions": 3},
    ),
    *(
        {"messages": [{"role": "user", "content": "a"}]},
        {"input": "a", "truncate_prompt_tokens": -1},
        {"input": "a", "cache_salt": "s"},
    ),
]
PAIRS = [
    *(
        {"text_1": "a", "text_2": "b"},
        {"text_1": "a", "text_2": ["b", "c"]},
        {"queries": "a", "documents": ["b"]},
        {},
    ),
    {"data_1": "a", "data_2": "b"},
]
RANKS = [
    *(
        {"query": "a", "documents": ["b", "c"]},
        {"query": "a", "documents": ["b", "c"], "top_n": 1},
        {"query": "a"},
        {},
    ),
    {"query": "a", "documents": []},
]
PATHS_OF_ENGINES = [
    *("/load", "/server_info", "/kv_event_sources", "/tokenizer_info", "/invocations", "/v1/realtime"),
]
METHODS = ("GET", "PUT", "PATCH", "DELETE", "HEAD")


def add_others(cases: Cases) -> None:
    """Add all of them."""
    for body in TEXTS:
        cases.post("embeddings", "/v1/embeddings", {"model": "m", **body})
        cases.post("pooling", "/pooling", {"model": "m", **body})
    cases.post("classify", "/classify", {"model": "m", "input": "a"}, {"model": "m"})
    for path in ("/score", "/v1/score"):
        for body in PAIRS:
            cases.post("score", path, {"model": "m", **body})
    for path in ("/rerank", "/v1/rerank", "/v2/rerank"):
        for body in RANKS:
            cases.post("rerank", path, {"model": "m", **body})
    _add_tokens(cases)
    _add_agents(cases)
    _add_forms(cases)
    _add_paths(cases)


def _add_tokens(cases: Cases) -> None:
    prompt, messages = {"model": "m", "prompt": "Hello!"}, {"model": "m", "messages": chat()["messages"]}
    for body in (
        *(
            prompt,
            messages,
            {"prompt": "Hello!"},
            {},
            {"model": "m"},
            {**prompt, "prompt": ""},
            {**prompt, "prompt": 5},
        ),
        *(
            {**prompt, "add_special_tokens": False},
            {**prompt, "add_special_tokens": "no"},
            {**prompt, "return_token_strs": True},
        ),
        *(
            {**messages, "add_generation_prompt": False},
            {**messages, "messages": []},
            {**messages, "tools": []},
        ),
        *(
            {**messages, "continue_final_message": True},
            {**messages, "chat_template_kwargs": {"a": 1}},
            {**prompt, "stream": True},
        ),
    ):
        cases.post("tokenize", "/tokenize", body)
    cases.post("tokenize for another model", "/tokenize", {**prompt, "model": "x"}, meant="unknown model")
    for tokens in ([1, 2], [], None, "a", [-1], ["a"], [2**40], [1.0], [True]):
        cases.post("detokenize", "/detokenize", {"model": "m", "tokens": tokens})
    cases.post("detokenize", "/detokenize", {"tokens": [1]}, {"model": "m"})
    for path in ("/tokenize", "/detokenize"):
        cases.post("tokens without JSON", path, b"{", b"[]", meant="no JSON")
        cases.post("tokens of another type", path, b"{}", Content_Type="text/plain")


def _add_agents(cases: Cases) -> None:
    for fields in (
        *(
            {},
            {"stream": True},
            {"stream": "yes"},
            {"stream": 2},
            {"system": "Be brief."},
            {"system": 5},
            {"max_tokens": None},
        ),
        *(
            {"stop_sequences": ["a"]},
            {"messages": []},
            {"messages": [{"role": "wizard", "content": "x"}]},
            {"temperature": "x"},
        ),
        *(
            {"messages": [{"role": "user", "content": [{"type": "text", "text": "Hi"}]}]},
            {"metadata": {"user_id": "u"}},
            {"top_k": 1},
        ),
        *(
            {"tools": [{"name": "f", "input_schema": {"type": "object"}}]},
            {"tool_choice": {"type": "any"}},
            {"messages": 5},
        ),
        {"messages": [{"role": "user", "content": [{"type": "unheard_of"}]}]},
    ):
        cases.post("messages", "/v1/messages", {**MESSAGE, **fields})
    cases.post("messages", "/v1/messages", {"model": "m"}, {})
    cases.post("messages of another model", "/v1/messages", {**MESSAGE, "model": "x"}, meant="unknown model")
    cases.post("messages without JSON", "/v1/messages", b"{", b"[]", meant="no JSON")
    mark = {"type": "text", "text": "Hi", "cache_control": {"type": "ephemeral"}}
    for marked in ({"system": [mark]}, {"system": [mark] * 5}, {"stream": True, "system": [mark]}):
        cases.post("messages with breakpoints", "/v1/messages", {**MESSAGE, **marked}, meant="breakpoints")
    cases.post("messages of another type", "/v1/messages", MESSAGE, Content_Type="text/plain")
    cases.post(
        "count tokens", "/v1/messages/count_tokens", MESSAGE, {"model": "m"}, {**MESSAGE, "messages": 5}
    )
    for fields in (
        *(
            {},
            {"stream": True},
            {"stream": "no"},
            {"stream": 2},
            {"input": []},
            {"input": None},
            {"input": 5},
            {"instructions": "Be brief."},
        ),
        *(
            {"input": [{"role": "user", "content": "Hi"}]},
            {"input": [{"role": "user", "content": [{"type": "input_text", "text": "Hi"}]}]},
        ),
        *(
            {"store": False},
            {"temperature": "x"},
            {"top_p": 2},
            {"max_output_tokens": -1},
            {"metadata": {"a": "b"}},
            {"tools": []},
        ),
        *(
            {"previous_response_id": "resp_none"},
            {"text": {"format": {"type": "json_object"}}},
            {"truncation": "auto"},
            {"background": True, "store": False},
        ),
        *({"input": [{"type": "unheard_of"}]}, {"include": ["x"]}, {"cache_salt": "s"}),
    ):
        cases.post("responses", "/v1/responses", {**RESPONSE, **fields})
    cases.post(
        "responses",
        "/v1/responses",
        {},
        {"model": "m"},
        {"input": "x", "max_output_tokens": 2, "temperature": 0},
    )
    cases.post(
        "responses of another model", "/v1/responses", {**RESPONSE, "model": "x"}, meant="unknown model"
    )
    cases.post("responses without JSON", "/v1/responses", b"{", b"5", meant="no JSON")


def _add_forms(cases: Cases) -> None:
    form = b'--x\r\nContent-Disposition: form-data; name="model"\r\n\r\nm\r\n--x--\r\n'
    for path in ("/v1/audio/transcriptions", "/v1/audio/translations"):
        cases.post("audio", path, form, Content_Type="multipart/form-data; boundary=x")
        cases.post("audio as JSON", path, {"model": "m"}, meant="no form")


def _add_paths(cases: Cases) -> None:
    for path in ("/health", "/ping"):
        cases.add("health", RawRequest("GET", path))
    cases.add("health", RawRequest("POST", "/ping"))
    cases.add("version", RawRequest("GET", "/version"), "version")
    cases.add("models", RawRequest("GET", "/v1/models"), "models")
    cases.add("one model", RawRequest("GET", "/v1/models/m"), "models")
    cases.add("no model", RawRequest("GET", "/v1/models/x"), "unknown model")
    for path in PATHS_OF_ENGINES:
        cases.add("path of engines", RawRequest("GET", path), "path")
        cases.post("path of engines", path, chat(), meant="path")
    for path in (
        "/",
        "/v1",
        "/v1/",
        "/v2/models",
        "/v1/chat",
        "/v1/chat/completions/x",
        "/V1/models",
        "//v1/models",
        "/v1//models",
        "/%2e%2e/x",
        "/v1/models/../x",
    ):
        cases.add("no path", RawRequest("GET", path), "path")
        cases.post("no path", path, chat(), meant="path")
    for path in (f"{CHAT}/", f"{COMPLETION}/", "/v1/models/", "/health/", f"/v1{CHAT}"):
        cases.post("almost a path", path, chat(), meant="path")
    for method in METHODS:
        for path in (CHAT, COMPLETION, "/v1/embeddings", "/tokenize", "/v1/responses"):
            cases.add("other method", RawRequest(method, path), "method")
    for method in ("POST", "PUT", "DELETE"):
        for path in ("/v1/models", "/version", "/health"):
            cases.add("other method", RawRequest(method, path), "method")
    cases.add("options", RawRequest("OPTIONS", CHAT), "method")
    cases.add("head", RawRequest("HEAD", "/health"), "method")
    for path, body in (
        (CHAT, chat()),
        (COMPLETION, completion()),
        ("/tokenize", {"model": "m", "prompt": "a"}),
    ):
        cases.post("query", f"{path}?a=b&model=x", body)
