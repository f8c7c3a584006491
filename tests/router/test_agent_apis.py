"""Messages and Responses: routed like the chat completions that they stand for."""

import json

import pytest

from cluster.apis.messages import chat_of_messages, system_first
from cluster.apis.responses import chat_of_response
from cluster.prompts.tokenizer import PromptTokenizer
from router.requests.endpoints import ENDPOINTS
from tests.router.fake_engine import DONE, REPLY, event, stream, whole
from tests.router.test_requests import ERROR_500
from tests.router.test_stream_comments import COMMENT

TURN = [
    {"role": "user", "content": "Tell me about prefix caching, please. " * 20},
    {"role": "assistant", "content": "the of and to in is that for it was on are with they be"},
    {"role": "user", "content": "Hello!"},
]
SYSTEM = "You are a helpful assistant."
CHAT = {"model": "m", "messages": [{"role": "system", "content": SYSTEM}, *TURN]}
SAME = {
    "/v1/messages": {"model": "m", "max_tokens": 8, "system": SYSTEM, "messages": TURN},
    "/v1/responses": {"model": "m", "instructions": SYSTEM, "input": TURN},
}
ENGINE_ERROR = b'{"error":{"message":"no","type":"BadRequestError","param":null,"code":400}}'
USAGE = {
    "/v1/messages": {"input_tokens": 9, "cache_read_input_tokens": 4, "output_tokens": 2},
    "/v1/responses": {
        "input_tokens": 13,
        "input_tokens_details": {"cached_tokens": 4},
        "output_tokens": 2,
        "total_tokens": 15,
    },
}
RESPONSE_EVENTS = (
    b'event: response.created\ndata: {"type":"response.created","response":{"usage":null}}\n\n',
    b'event: response.in_progress\ndata: {"type":"response.in_progress","response":{"usage":null}}\n\n',
    b'event: response.output_text.delta\ndata: {"type":"response.output_text.delta","delta":"hi"}\n\n',
    b'event: response.completed\ndata: {"type":"response.completed","response":{"usage":null}}\n\n',
)


def parsed(path, body):
    """A request as the router sees it."""
    return ENDPOINTS[path].read(json.dumps(body).encode())


@pytest.mark.parametrize("path", SAME)
def test_conversation_is_the_same_in_every_api(path):
    """Its key is that of the chat completion, and so are the messages and the tools rendered."""
    chat, call = parsed("/v1/chat/completions", CHAT), parsed(path, SAME[path])
    assert call.conversation_key == chat.conversation_key
    assert list(call.messages) == CHAT["messages"]
    assert call.tokenisable


@pytest.mark.parametrize("path", SAME)
async def test_prompt_is_counted_exactly_and_usage_is_read(router, engines, tiny_model, path):
    """Its exact tokens are booked, and the record has what the engine had of them."""
    tokens = len(PromptTokenizer(tiny_model).chat(CHAT).token_ids)
    usage = {**USAGE[path], "input_tokens": tokens - (4 if path == "/v1/messages" else 0)}
    booked = []

    async def answer(exchange):
        booked.append(max(replica.active_tokens for replica in router.fleet.replicas.values()))
        await exchange.whole(json.dumps({"usage": usage}).encode())

    engines[0].otherwise = engines[1].otherwise = answer
    async with router.post(SAME[path], path) as response:
        assert response.status == 200
    record = (await router.get("/admin/requests"))[1]["requests"][0]
    assert (booked, record["prompt_tokens"], record["delivered_tokens"]) == ([tokens], tokens, 4)
    assert record["policy"] == "round-robin"  # and not by load, as what has no conversation
    await router.drained()


@pytest.mark.parametrize(
    ("headers", "status"),
    [({"x-api-key": "key-a"}, 200), ({"authorization": "Bearer key-a"}, 200), ({"x-api-key": "no"}, 401)],
)
async def test_key_may_come_as_anthropics_clients_send_it(start_router, engines, headers, status):
    """``x-api-key``, beside ``anthropic-version``; refused in Anthropic's words."""
    router = await start_router(*engines, api_keys={"a": ["key-a"]})
    await router.settled()
    version = {"anthropic-version": "2023-06-01", "anthropic-beta": "x"}
    async with router.post(SAME["/v1/messages"], "/v1/messages", headers=headers | version) as response:
        assert response.status == status
        if status == 401:
            answer = await response.json()
            assert (answer["type"], answer["error"]["type"]) == ("error", "authentication_error")


@pytest.mark.parametrize("path", ["/v1/messages", "/v1/messages/count_tokens"])
async def test_errors_are_in_anthropics_format(router, engines, path):
    """Also those of an engine that answers in OpenAI's."""
    for engine in engines:
        engine.otherwise = whole(ENGINE_ERROR, status=400)
    for body, kind in ((SAME["/v1/messages"], 400), ({"model": "no", "messages": TURN}, 404)):
        async with router.post(body, path) as response:
            assert response.status == kind
            answer = await response.json()
        assert answer["type"] == "error"
        assert answer["error"]["type"] == {400: "invalid_request_error", 404: "not_found_error"}[kind]
        assert answer["error"]["message"]


@pytest.mark.parametrize(
    "announced",
    [
        RESPONSE_EVENTS[:2],
        (*RESPONSE_EVENTS[:2], COMMENT, COMMENT),
        (COMMENT, RESPONSE_EVENTS[0], COMMENT, RESPONSE_EVENTS[1], COMMENT[:5], COMMENT[5:]),
        (*RESPONSE_EVENTS[:2], COMMENT, ERROR_500),
    ],
)
async def test_announcements_do_not_commit_to_an_engine(router, engines, announced):
    """A stream that ends before any output is asked for elsewhere; the client sees one whole stream. Nor do
    comments between and after them.
    """
    engines[0].otherwise = stream(*announced, pause=0.005)
    engines[1].otherwise = stream(*RESPONSE_EVENTS)
    for _ in range(2):
        async with router.post({**SAME["/v1/responses"], "stream": True}, "/v1/responses") as response:
            assert await response.read() == b"".join(RESPONSE_EVENTS)
    assert engines[0].exchanges
    await router.drained()


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/v1/messages", {"messages": [{"role": "user", "content": [{"type": "document"}]}]}),
        ("/v1/messages", {"messages": [{"role": "x", "content": "a"}]}),
        ("/v1/messages", {"messages": TURN, "tools": [{"type": "web_search_20250305", "name": "w"}]}),
        ("/v1/messages", {"messages": TURN, "chat_template_kwargs": {"chat_template": "{{ 1 }}"}}),
        ("/v1/responses", {"input": TURN, "truncation": "auto"}),
        ("/v1/responses", {"input": TURN, "previous_response_id": "resp_1"}),
        ("/v1/responses", {"input": [{"type": "item_reference", "id": "x"}]}),
        ("/v1/responses", {"input": [{"type": "reasoning", "summary": [], "encrypted_content": "x"}]}),
        ("/v1/responses", {"input": [{"role": "user", "content": [{"type": "input_file"}]}]}),
    ],
)
def test_what_only_an_engine_can_judge_goes_without_keys(path, body):
    """Parsed, not tokenised, and the conversation has a key all the same."""
    call = parsed(path, {"model": "m", **body})
    assert not call.tokenisable
    assert call.conversation_key


def test_images_stay_apart_from_text():
    """Of a message and of a tool's result, as parts that no tokenizer here reads."""
    source = {"type": "base64", "media_type": "image/png", "data": "AA=="}
    image = {"type": "image", "source": source}
    result = {"type": "tool_result", "tool_use_id": "t", "content": [{"type": "text", "text": "r"}, image]}
    chat = chat_of_messages({"messages": [{"role": "user", "content": [result, image]}]})
    url = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA=="}}
    assert chat["messages"] == [
        {"role": "tool", "tool_call_id": "t", "content": "r"},
        {"role": "user", "content": [url]},
        {"role": "user", "content": [url]},
    ]
    part = {"type": "input_image", "image_url": "https://x/a.png"}
    chat = chat_of_response({"input": [{"role": "user", "content": [part]}]})
    assert chat["messages"][0]["content"] == [{"type": "image_url", "image_url": {"url": "https://x/a.png"}}]


def test_system_messages_are_merged_in_front():
    """For templates that take one only at the beginning."""
    chat = {
        "messages": [{"role": role, "content": role} for role in ("system", "user", "system", "assistant")]
    }
    assert system_first(chat)["messages"] == [
        {"role": "system", "content": "systemsystem"},
        {"role": "user", "content": "user"},
        {"role": "assistant", "content": "assistant"},
    ]


async def test_reusable_prompts_are_refused(router, engines):
    """They would be ignored by engines, silently."""
    async with router.post({"model": "m", "prompt": {"id": "pmpt_1"}}, "/v1/responses") as response:
        assert response.status == 400
        assert (await response.json())["error"]["param"] == "prompt"
    assert not any(engine.exchanges for engine in engines)


CHUNKS = [
    event("", delta={"role": "assistant"}),
    event("two "),
    event("words"),
    event(usage={"prompt_tokens": 15, "completion_tokens": 2}),
    DONE,
]
NO_SUCH_PATH = b'{"detail":"Not Found"}'


def without(*paths, then):
    """A behaviour: an engine that does not know these paths."""

    async def behave(exchange):
        if exchange.path in paths:
            await exchange.whole(NO_SUCH_PATH, 404)
        else:
            await then(exchange)

    return behave


@pytest.mark.parametrize("path", SAME)
@pytest.mark.parametrize("streamed", [False, True])
async def test_engine_without_the_api_is_asked_for_a_chat_completion(router, engines, path, streamed):
    """It is asked once whether it serves the path; its answer comes back in the client's format."""
    for engine in engines:
        engine.otherwise = without(path, then=stream(*CHUNKS) if streamed else whole(REPLY))
    for _ in range(4):
        async with router.post({**SAME[path], "stream": streamed}, path) as response:
            assert response.status == 200
            text = (await response.read()).decode()
        assert ("two words" in text or '"two "' in text) if streamed else "hi" in text
        if streamed:
            assert text.count("event: message_stop") + text.count("event: response.completed") == 1
    asked = [exchange.path for exchange in engines[0].exchanges]
    assert asked == [path, "/v1/chat/completions", "/v1/chat/completions"]
    sent = engines[0].exchanges[-1].json
    assert sent["messages"] == CHAT["messages"]
    await router.drained()
    record = (await router.get("/admin/requests"))[1]["requests"][0]
    assert (record["outcome"], record["path"], record["prompt_tokens"]) == ("ok", path, 15)
    assert record["delivered_tokens"] == (None if streamed else 4)


async def test_error_in_a_translated_stream(router, engines):
    """Is one of the client's format, and the end."""
    error = b'data: {"error":{"message":"oh","code":500}}\n\n'
    for engine in engines:
        engine.otherwise = without("/v1/messages", then=stream(CHUNKS[0], CHUNKS[1], error))
    async with router.post({**SAME["/v1/messages"], "stream": True}, "/v1/messages") as response:
        text = (await response.read()).decode()
    assert text.endswith('event: error\ndata: {"type":"error","error":{"message":"oh","code":500}}\n\n')
    await router.drained()


async def test_what_has_no_other_form_is_refused_there(router, engines):
    """An engine without the API, and a request that is no chat."""
    for engine in engines:
        engine.otherwise = without("/v1/messages", then=whole(REPLY))
    body = {"model": "m", "max_tokens": 1, "messages": [{"role": "user", "content": [{"type": "document"}]}]}
    async with router.post(body, "/v1/messages") as response:
        assert response.status == 400
        assert "does not serve" in (await response.json())["error"]["message"]
    await router.drained()
