"""The client of the load test against a server that answers what a test wants, well or badly."""

import json
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from loadtest.harness.chat_answers import RequestFailedError
from loadtest.harness.chat_apis import APIS
from loadtest.users.client import ChatClient

USAGE = {"prompt_tokens": 50, "completion_tokens": 3, "prompt_tokens_details": {"cached_tokens": 32}}
MESSAGES = [{"role": "user", "content": "Hello"}]


def event(content=None, **fields):
    """One event of a stream."""
    choices = [] if content is None else [{"index": 0, "delta": {"content": content}}]
    return f"data: {json.dumps({'choices': choices, **fields})}\n\n".encode()


GOOD = [event(""), event("One "), event("two "), event("three"), event(usage=USAGE), b"data: [DONE]\n\n"]


class Script:
    """What the server answers next, and what it was asked."""

    def __init__(self):
        self.status = 200
        self.parts: list[bytes | float] = []
        self.asked: list[tuple[str, dict[str, str], dict[str, object]]] = []


@pytest.fixture
def script() -> Script:
    """The server's next answer."""
    return Script()


@pytest.fixture
def host(script) -> Iterator[str]:
    """A server that answers in the script's parts: bytes to send, or seconds to wait."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            script.asked.append((self.path, dict(self.headers), body))
            self.answer()

        def do_GET(self) -> None:
            script.asked.append((self.path, dict(self.headers), {}))
            self.answer()

        def answer(self) -> None:
            self.send_response(script.status)
            self.send_header("Transfer-Encoding", "chunked")
            self.send_header("x-warmroute-replica", "r1")
            self.end_headers()
            for part in script.parts:
                if isinstance(part, bytes):
                    self.wfile.write(b"%x\r\n%b\r\n" % (len(part), part))
                else:
                    time.sleep(part)
            if script.parts[-1:] == [0.0]:
                self.close_connection = True  # in the middle of the answer
            else:
                self.wfile.write(b"0\r\n\r\n")

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def client(host) -> Iterator[ChatClient]:
    """A client of that server, which waits for half a second."""
    client = ChatClient(host, timeout_seconds=0.5, api_key="secret", extra_body={"top_p": 0.5})
    yield client
    client.close()


def test_times_and_counts_are_the_answers_own(client, script):
    """TTFT ends at the first token with text, not at the first byte; usage and replica are the server's."""
    script.parts = [event(""), 0.05, *GOOD[1:3], 0.04, *GOOD[3:]]
    answer = client.ask("m", MESSAGES, 7, "tenant-1")
    assert answer.text == "One two three"
    assert answer.ttft is not None
    assert 0.05 <= answer.ttft < answer.latency - 0.03
    assert (answer.prompt_tokens, answer.cached_tokens, answer.output_tokens) == (50, 32, 3)
    assert answer.time_per_output_token == pytest.approx((answer.latency - answer.ttft) / 2)
    assert answer.replica == "r1"
    path, headers, body = script.asked[0]
    assert path == "/v1/chat/completions"
    assert headers["Authorization"] == "Bearer secret"
    assert body == {
        "model": "m",
        "messages": MESSAGES,
        "max_tokens": 7,
        "temperature": 0.0,
        "stream": True,
        "stream_options": {"include_usage": True},
        "top_p": 0.5,
        "user": "tenant-1",
    }


@pytest.mark.parametrize("size", [1, 7, 10_000])
def test_pieces_of_a_stream_may_end_anywhere(client, script, size):
    """Events that arrive byte by byte, or all at once, are the same answer."""
    stream = b"".join(GOOD).replace(b"\n\n", b"\r\n\r\n" if size == 7 else b"\n\n")
    script.parts = [stream[at : at + size] for at in range(0, len(stream), size)]
    assert client.ask("m", MESSAGES, 7).text == "One two three"


def named(data):
    """An event that is named after its type."""
    return b"event: %b\ndata: %b\n\n" % (data["type"].encode(), json.dumps(data).encode())


def delta(text):
    """A piece of a message's text."""
    return named({"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": text}})


def addition(text):
    """A piece of a response's text."""
    return named({"type": "response.output_text.delta", "delta": text})


CHAT = [{"role": "system", "content": "Be brief."}, *MESSAGES]
MARK = {"cache_control": {"type": "ephemeral"}}
MESSAGE_USAGE = {
    "input_tokens": 8,
    "cache_read_input_tokens": 32,
    "cache_creation_input_tokens": 10,
    "output_tokens": 3,
}
RESPONSE_USAGE = {"input_tokens": 50, "input_tokens_details": {"cached_tokens": 32}, "output_tokens": 3}
OUTPUT = [{"type": "message", "content": [{"type": "output_text", "text": "One two three"}]}]
OTHER_APIS = {
    "messages": (
        [
            named({"type": "message_start", "message": {"usage": {"input_tokens": 50, "output_tokens": 0}}}),
            *map(delta, ["One ", "two ", "three"]),
            named({"type": "message_delta", "delta": {"stop_reason": "x"}, "usage": MESSAGE_USAGE}),
            named({"type": "message_stop"}),
        ],
        {"content": [{"type": "text", "text": "One two three"}], "usage": MESSAGE_USAGE},
        {
            "system": [{"type": "text", "text": "Be brief.", **MARK}],
            "messages": [{"role": "user", "content": [{"type": "text", "text": "Hello", **MARK}]}],
            "max_tokens": 7,
            "metadata": {"user_id": "tenant-1"},
        },
    ),
    "responses": (
        [
            named({"type": "response.created", "response": {"usage": None}}),
            *map(addition, ["One ", "two ", "three"]),
            named({"type": "response.completed", "response": {"output": OUTPUT, "usage": RESPONSE_USAGE}}),
        ],
        {"output": OUTPUT, "usage": RESPONSE_USAGE, "error": None},
        {"input": CHAT, "max_output_tokens": 7, "store": False, "user": "tenant-1"},
    ),
}


@pytest.mark.parametrize("api", OTHER_APIS)
@pytest.mark.parametrize("streamed", [True, False])
def test_other_apis_are_asked_and_read_in_their_own_words(host, script, api, streamed):
    """What is sent for a chat, and the same figures of an answer, whole and streamed; a stream has an end."""
    events, whole, asked = OTHER_APIS[api]
    client = ChatClient(host, stream=streamed, api=APIS[api])
    script.parts = [events[0], 0.05, *events[1:]] if streamed else [json.dumps(whole).encode()]
    answer = client.ask("m", CHAT, 7, "tenant-1")
    assert answer.text == "One two three"
    assert (answer.prompt_tokens, answer.cached_tokens, answer.output_tokens) == (50, 32, 3)
    path, _, body = script.asked[0]
    assert path == f"/v1/{api}"
    streaming = {"stream": True} if streamed else {}
    assert body == {"model": "m", "temperature": 0.0, **asked, **streaming}
    if streamed:
        assert answer.ttft is not None
        assert 0.05 <= answer.ttft <= answer.latency
    for parts in (events[:-1], [*events[:2], b'event: error\ndata: {"error": {"message": "died"}}\n\n']):
        script.parts = parts
        with pytest.raises(RequestFailedError):
            client.ask("m", CHAT, 7)
    client.close()


def test_without_usage_tokens_are_counted_by_chunks(client, script):
    """A server that tells no usage has unknown prompt and cached tokens."""
    script.parts = [GOOD[0], *GOOD[1:4], b"data: [DONE]\n\n"]
    answer = client.ask("m", MESSAGES, 7)
    assert answer.output_tokens == 3
    assert answer.prompt_tokens == 0
    assert answer.cached_tokens is None


def test_answers_that_are_not_streamed_have_no_ttft(host, script):
    """Without streaming there is a latency only."""
    script.parts = [json.dumps({"choices": [{"message": {"content": "Yes"}}], "usage": USAGE}).encode()]
    client = ChatClient(f"{host}/v1", stream=False)
    answer = client.ask("m", MESSAGES, 7)
    client.close()
    assert (answer.text, answer.ttft, answer.time_per_output_token) == ("Yes", None, None)
    assert answer.cached_tokens == 32
    assert "stream" not in script.asked[0][2]


@pytest.mark.parametrize(
    ("status", "parts", "message"),
    [
        (503, [b'{"error": {"message": "no replica is ready"}}'], "503 no replica is ready"),
        (502, [b"<html>bad gateway"], "502 <html>bad gateway"),
        (500, [b'["odd"]'], "500 "),
        (200, [*GOOD[:2], b'data: {"error": {"message": "engine died"}}\n\n'], "in the stream: engine died"),
        (200, GOOD[:-1], "the stream ended without [DONE]"),
        (200, [b"data: {oops\n\n"], "not what the API promises"),
        (200, [*GOOD[:2], 0.0], "HTTP"),
        (200, [*GOOD[:2], 0.9], "no answer within 0.5 s"),
    ],
)
def test_failures_say_what_the_server_said(client, script, status, parts, message):
    """Every failure is one kind of error, with the server's message; the next request works."""
    script.status, script.parts = status, parts
    with pytest.raises(RequestFailedError) as error:
        client.ask("m", MESSAGES, 7)
    assert message in str(error.value)
    script.status, script.parts = 200, GOOD
    assert client.ask("m", MESSAGES, 7).text == "One two three"


def test_a_server_that_is_not_there_is_an_error():
    """Nobody listens: the error says so."""
    with pytest.raises(RequestFailedError, match="refused"):
        ChatClient("http://127.0.0.1:1").ask("m", MESSAGES, 7)


def test_models_are_listed(client, script):
    """The names of GET /v1/models; anything else is an error."""
    script.parts = [b'{"data": [{"id": "a"}, {"id": "b"}]}']
    assert client.models() == ["a", "b"]
    for body, message in ((b"[]", "list of models"), (b'{"data": []}', "names no model")):
        script.parts = [body]
        with pytest.raises(RequestFailedError, match=message):
            client.models()
