"""Where the router's tokens and the engine's part is found out, and told without a client's words."""

import json

import pytest

from cluster.prompts.tokenizer import PromptTokenizer
from router.errors import AttemptFailedError
from router.requests.differences import MAX_BYTES, locate
from router.requests.schema import parse_chat, parse_completion

SECRET = "Tell me about water"
MESSAGES = [
    {"role": "system", "content": "You are a helpful assistant."},
    {"role": "user", "content": [{"type": "text", "text": "Hello!"}]},
    {"role": "assistant", "content": SECRET},
    {"role": "user", "content": "please"},
]


@pytest.fixture(scope="module")
def tokenizer(tiny_model):
    """The tiny model's."""
    return PromptTokenizer(tiny_model)


class Engine:
    """Plays `Upstream`: answers with the tokens of another request, or of none."""

    def __init__(self, tokenizer, **changes):
        self.tokenizer, self.changes, self.asked = tokenizer, changes, []

    async def tokenise(self, url, body):
        self.asked.append(body)
        if "messages" in body:
            return list(self.tokenizer.chat({**body, **self.changes}).token_ids)
        return [1, *self.tokenizer.completion(body["prompt"]).token_ids]


def chat(**fields):
    """A chat call."""
    return parse_chat(json.dumps({"model": "m", "messages": MESSAGES, **fields}).encode())


def changed(number, **changes):
    """The messages, one of which is another."""
    return [{**message, **changes} if at == number else message for at, message in enumerate(MESSAGES)]


@pytest.mark.parametrize(
    ("engine", "message"),
    [
        ({"messages": [{"role": "system", "content": "x"}, *MESSAGES]}, "message 0 (system)"),
        ({"messages": changed(1, content="Hello you")}, "message 1 (user)"),
        ({"messages": changed(2, content="Tell me about it")}, "message 2 (assistant)"),
        ({"messages": MESSAGES[:-1]}, "message 3 (user)"),
        ({"add_generation_prompt": False}, "after the last message"),
    ],
)
async def test_message_and_token_are_named(tokenizer, engine, message):
    """The token is the first that differs."""
    where = await locate(Engine(tokenizer, **engine), "url", "m", tokenizer, chat())
    ours, theirs = (
        tokenizer.chat(chat().fields).token_ids,
        tokenizer.chat({**chat().fields, **engine}).token_ids,
    )
    token = next(at for at in range(len(ours)) if list(ours[: at + 1]) != list(theirs[: at + 1]))
    assert where.startswith(f"they part at token {token}, ")
    assert where.endswith(message)


async def test_an_engine_that_agrees_here_points_to_its_options(tokenizer):
    """What ``/tokenize`` does not take part in is an option of the command line."""
    where = await locate(Engine(tokenizer), "url", "m", tokenizer, chat())
    assert "/tokenize agrees" in where
    assert "WARMROUTE_CHAT_OPTIONS" in where


async def test_the_question_is_the_same_request(tokenizer):
    """Arguments of templates go where ``/tokenize`` takes them; nothing else goes along."""
    engine = Engine(tokenizer)
    fields = {"reasoning_effort": "low", "documents": [], "chat_template_kwargs": {"x": 1}, "max_tokens": 3}
    await locate(engine, "url", "m", tokenizer, chat(**fields, add_generation_prompt=False))
    assert engine.asked == [
        {
            "model": "m",
            "add_generation_prompt": False,
            "messages": MESSAGES,
            "chat_template_kwargs": {
                "x": 1,
                "reasoning_effort": "low",
                "enable_thinking": True,
                "documents": [],
            },
        }
    ]


async def test_texts_are_compared_too(tokenizer):
    """A completion has tokens but no messages."""
    call = parse_completion(json.dumps({"prompt": SECRET}).encode())
    assert await locate(Engine(tokenizer), "url", "m", tokenizer, call) == "they part at token 0"


@pytest.mark.parametrize(
    "call", [chat(x="x" * MAX_BYTES), parse_completion(b'{"prompt": [1]}'), chat().without_body()]
)
async def test_nothing_is_asked_where_that_is_too_much_or_too_little(tokenizer, call):
    """Long bodies, token ids, and bodies that are gone."""
    engine = Engine(tokenizer)
    assert await locate(engine, "url", "m", tokenizer, call) == ""
    assert not engine.asked


async def test_an_engine_that_fails_says_nothing(tokenizer):
    """It is no alarm of its own."""

    class Away:
        async def tokenise(self, url, body):
            raise AttemptFailedError("away", replica_down=True)

    assert await locate(Away(), "url", "m", tokenizer, chat()) == ""
