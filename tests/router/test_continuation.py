"""A kept response goes on in the tokens that its engine generated, or it is said what keeps it from that."""

import json

import pytest

from cluster.apis.responses import chat_of_response
from cluster.prompts.tokenizer import PromptTokenizer
from router.stored.held import Held, held_after, joined

TOOL = {"type": "function", "name": "find", "parameters": {"type": "object"}}
THOUGHTS, END = " Let me think.\n\nfind", "<|im_end|>"


class Engine:
    """Behaves as vLLM does: what it generates is not what the template writes of it."""

    def __init__(self, tiny_model):
        self.tokenizer = PromptTokenizer(tiny_model)
        self.prompts = []
        """Tokens of each prompt, and whether the router has given them."""
        self.text, self.end, self.reports, self.heeds = THOUGHTS, END, True, True
        self.item = {"type": "message", "role": "assistant"}
        self.status = "completed"

    def tokens(self, text):
        """Of a text."""
        return list(self.tokenizer.completion(text, add_special_tokens=False).token_ids)

    async def __call__(self, exchange):
        """Answer one request."""
        asked = exchange.json
        given = (asked.get("kv_transfer_params") or {}).get("prompt_token_ids") if self.heeds else None
        prompt = given or list(self.tokenizer.chat(chat_of_response({**asked, "truncation": None})).token_ids)
        self.prompts.append((prompt, bool(given)))
        generated = self.tokens(self.text + self.end)
        item = {**self.item, "content": [{"type": "output_text", "text": self.text.split()[-1]}]}
        usage = {"input_tokens": len(prompt), "output_tokens": len(generated)}
        usage["input_tokens_details"] = {"cached_tokens": 0}
        answer = {"id": "x", "status": self.status, "output": [item], "usage": usage}
        if self.reports and asked.get("enable_response_messages"):
            answer["input_messages"] = [{"message": "", "tokens": prompt}]
            answer["output_messages"] = [{"message": "", "tokens": generated}]
        if not asked.get("stream"):
            await exchange.whole(json.dumps(answer).encode())
            return
        await exchange.head()
        data = json.dumps({"type": "response.completed", "sequence_number": 0, "response": answer})
        await exchange.chunk(b"event: response.completed\ndata: " + data.encode() + b"\n\n")
        await exchange.end()

    def held(self):
        """The tokens at the end of the last answer."""
        return self.prompts[-1][0] + self.tokens(self.text + self.end)


@pytest.fixture
def engine(tiny_model, engines):
    """What all engines do."""
    engine = Engine(tiny_model)
    for each in engines:
        each.otherwise = engine
    return engine


@pytest.fixture
async def router(start_router, engines, engine):
    """A router that keeps responses, and goes on from them token by token."""
    router = await start_router(*engines, stored_responses="memory", token_exact="m")
    await router.settled()
    return router


async def ask(router, text, **fields):
    """The answer, and what is recorded of how it went on."""
    async with router.post({"model": "m", "input": text, **fields}, "/v1/responses") as response:
        assert response.status == 200, await response.text()
        request_id = response.headers["x-request-id"]
        if fields.get("stream"):
            answer = json.loads((await response.read()).partition(b"data: ")[2])["response"]
        else:
            answer = await response.json()
    for name in ("input_messages", "output_messages"):
        assert not answer.get(name) or fields.get("enable_response_messages")
    return answer["id"], (await router.get(f"/admin/requests/{request_id}"))[1]["continuation"]


@pytest.mark.parametrize("stream", [False, True])
async def test_engine_gets_the_tokens_that_it_generated(router, engine, stream):
    """Over three turns: each prompt begins with all that was held, and goes on as the template does."""
    last, how = await ask(router, "Hello!", stream=stream)
    assert how == ""
    for text in ("find water", "find people"):
        held = engine.held()
        last, how = await ask(router, text, stream=stream, previous_response_id=last)
        after = f"\n<|im_start|>user\n{text}<|im_end|>\n<|im_start|>assistant\n"
        assert engine.prompts[-1] == (held + engine.tokens(after), True)
        assert how == "exact"


async def test_result_of_a_tool(router, engine):
    """A call is gone on from like any answer."""
    engine.item = {"type": "function_call", "name": "find", "call_id": "c", "arguments": "{}"}
    last, _ = await ask(router, "Hello!", tools=[TOOL])
    held = engine.held()
    output = [{"type": "function_call_output", "call_id": "c", "output": "water"}]
    _, how = await ask(router, output, tools=[TOOL], previous_response_id=last)
    assert how == "exact"
    assert engine.prompts[-1][0][: len(held)] == held


async def test_answer_that_was_cut(router, engine):
    """The template ends it."""
    engine.end, engine.status = "", "incomplete"
    last, _ = await ask(router, "Hello!")
    held = engine.held()
    _, how = await ask(router, "go on", previous_response_id=last)
    assert how == "exact"
    assert engine.prompts[-1][0][: len(held) + 1] == held + engine.tokens(END)


USER = {"role": "user", "content": "find water"}


@pytest.mark.parametrize(
    ("why", "fields"),
    [
        ("tools", {"tools": [TOOL]}),
        ("instructions", {"instructions": "Be kind."}),
        ("reasoning_effort", {"reasoning": {"effort": "low"}}),
        ("chat_template_kwargs", {"chat_template_kwargs": {"a": 1}}),
        ("input", {"input": [{"role": "assistant", "content": "yes"}, USER]}),
        ("input", {"input": [USER, {"role": "assistant", "content": "yes"}, USER]}),
        ("input", {"input": []}),
        ("unrendered", {"truncation": "auto"}),
    ],
)
async def test_what_would_be_rendered_otherwise(router, engine, why, fields):
    """The engine renders the whole conversation, and the reason is recorded."""
    last, _ = await ask(router, "Hello!")
    _, how = await ask(router, fields.pop("input", "go on"), previous_response_id=last, **fields)
    assert how == why
    assert not engine.prompts[-1][1]


@pytest.mark.parametrize(
    ("why", "changes"),
    [
        ("unknown", {"reports": False}),
        ("end", {"end": " stop"}),
        ("end", {"end": "<|endoftext|>"}),
        ("ignored", {"heeds": False}),
    ],
)
async def test_what_engines_do_otherwise(router, engine, why, changes):
    """They do not say what they hold, ended an answer by a text or by another token, or take no tokens."""
    for name, value in changes.items():
        setattr(engine, name, value)
    last, _ = await ask(router, "Hello!")
    _, how = await ask(router, "go on", previous_response_id=last)
    assert how == why
    assert not engine.prompts[-1][1]


async def test_prompt_with_the_tokens_held_does_not_fit(router, engine, engines):
    """Rendered it may: thoughts are left out."""
    router.admit(engines[0].url, "a", epoch=2, max_model_len=60)
    router.fleet.dismiss("b")
    await router.settled()
    engine.text = " Let me think." * 20 + "\n\nfind"
    last, _ = await ask(router, "Hello!")
    _, how = await ask(router, "go on", previous_response_id=last)
    assert how == "context"


async def test_model_that_nobody_asked_it_for(start_router, engines, engine):
    """Nothing is asked of the engine that it would not be asked otherwise."""
    router = await start_router(*engines, stored_responses="memory", token_exact="other")
    await router.settled()
    last, _ = await ask(router, "Hello!")
    _, how = await ask(router, "go on", previous_response_id=last)
    assert how == ""
    assert not any("enable_response_messages" in each.json for one in engines for each in one.exchanges)


async def test_client_that_asks_for_tokens_gets_them(router, engine):
    """They are its own wish then."""
    async with router.post(
        {"model": "m", "input": "Hello!", "enable_response_messages": True}, "/v1/responses"
    ) as response:
        assert (await response.json())["input_messages"][0]["tokens"] == engine.prompts[0][0]


def test_of_each_response_its_own_tokens_are_kept():
    """They add up to what was held, whatever was rendered anew in between; an odd report counts as none."""
    shape = {"tools": 1}

    def response(prompt, answer):
        return {"input_messages": [{"tokens": prompt}], "output_messages": [{"tokens": answer}]}

    first = held_after(response([1, 2], [3]), b"", shape)
    second = held_after(response([1, 2, 3, 4], [5]), joined([first]).tokens, shape)
    anew = held_after(response([1, 2, 9], [6]), joined([first, second]).tokens, shape)
    assert [len(one.tokens) // 4 for one in (first, second, anew)] == [3, 2, 4]
    assert [one.continues for one in (first, second, anew)] == [False, True, False]
    whole = held_after(response([1, 2, 3, 4], [5]), b"", shape)
    assert joined([first, second]).tokens == whole.tokens
    assert joined([first, second, anew]).tokens == anew.tokens
    assert joined([first, Held()]).tokens == b""
    for odd in ({}, response("x", [1]), response([1], [-1]), response([1], ["a"]), {"input_messages": [3]}):
        assert held_after(odd, b"", shape) == Held()
