"""LangChain's chat model for OpenAI's API, against a router."""

import asyncio

from langchain_core.messages import HumanMessage, SystemMessage, ToolMessage
from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import ChatPromptTemplate
from langchain_core.tools import tool
from langchain_openai import ChatOpenAI
from pydantic import BaseModel, ConfigDict
from reporting import ARGUMENTS, ENDLESS, MODEL, URL, run

model = ChatOpenAI(
    model=MODEL, base_url=f"{URL}/v1", api_key="none", max_retries=0, max_tokens=20, stream_usage=True
)
QUESTION = [SystemMessage("You are a helpful assistant."), HumanMessage("Hello!")]


class Find(BaseModel):
    """What to find."""

    model_config = ConfigDict(title="find")

    what: str
    how_many: int


@tool
def find(what: str, how_many: int) -> str:
    """Find it."""
    return f"{how_many} of {what}"


def chat():
    """A message, with its usage."""
    answer = model.invoke(QUESTION)
    assert answer.content
    assert answer.usage_metadata["output_tokens"] == 20
    following = model.invoke([*QUESTION, answer, HumanMessage("more")])
    assert following.content


def chain():
    """A prompt, a model and a parser, several at once."""
    prompt = ChatPromptTemplate.from_messages([("system", "You are a helpful assistant."), ("user", "{q}")])
    answers = (prompt | model | StrOutputParser()).batch([{"q": "Hello!"}, {"q": "water"}, {"q": "people"}])
    assert len(answers) == 3
    assert all(answers)


def stream():
    """Pieces that add up, with usage at the end."""
    pieces = list(model.stream(QUESTION))
    whole = pieces[0]
    for piece in pieces[1:]:
        whole += piece
    assert len(pieces) > 10
    assert whole.usage_metadata["output_tokens"] == 20


def tools():
    """A call, the tool's own answer to it, and the model's."""
    bound = model.bind_tools([find])
    asked = bound.invoke(QUESTION)
    (call,) = asked.tool_calls
    assert (call["name"], call["args"]) == ("find", ARGUMENTS)
    result = find.invoke(call)
    assert isinstance(result, ToolMessage)
    answer = bound.invoke([*QUESTION, asked, result])
    assert answer.content
    assert not answer.tool_calls


def tools_stream():
    """A call in pieces becomes whole."""
    pieces = list(model.bind_tools([find], tool_choice="find").stream(QUESTION))
    whole = pieces[0]
    for piece in pieces[1:]:
        whole += piece
    assert whole.tool_calls[0]["args"] == ARGUMENTS


def structured():
    """By schema, and by a forced tool."""
    for method in ("json_schema", "function_calling"):
        assert model.with_structured_output(Find, method=method).invoke(QUESTION) == Find(**ARGUMENTS), method


def abort():
    """Leaving a stream in its middle, also in an event loop."""
    endless = model.bind(max_tokens=ENDLESS)
    pieces = endless.stream(QUESTION)
    next(pieces)
    pieces.close()

    async def leave():
        async for _ in endless.astream(QUESTION):
            return

    asyncio.run(leave())


run(chat, chain, stream, tools, tools_stream, structured, abort)
