"""What the router needs to know of a request. Everything else of its body passes through unseen."""

import hashlib
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, TypeAlias

import msgspec
import xxhash

from router.errors import InvalidRequestError

CHAT_PATH = "/v1/chat/completions"
COMPLETION_PATH = "/v1/completions"
MESSAGES_PATH = "/v1/messages"
RESPONSES_PATH = "/v1/responses"
CHAT_PATHS = frozenset({CHAT_PATH, MESSAGES_PATH, RESPONSES_PATH})
"""Of requests that are chat completions, or stand for one."""
JSON = "application/json"

CHARACTERS_PER_TOKEN = 4
"""Guess for prompts that cannot be tokenised here; only their load is estimated with it."""

MAX_MODEL_LENGTH = 256
MAX_ROLE_LENGTH = 64
MAX_SALT_LENGTH = 128
"""Characters. What comes from clients and is remembered is short: names in logs, keys of caches."""
SALT_FORBIDDEN = frozenset("@/\\\0")
"""Not allowed in a ``cache_salt``; this and its length are vLLM's rules."""
SALT_DIGITS = 32
"""Hexadecimal digits of a salt that is made here: 128 bits."""

ASK_FOR_USAGE = b',"stream_options":{"include_usage":true}'
REPORT_MODE = "kv_cache_report_mode"
"""In ``vllm_xargs``, makes vLLM announce blocks again that it only reuses: they would be counted twice."""
ENGINE_INTERNALS = ("kv_transfer_params", "ec_transfer_params")
"""Fields that steer an engine's own KV transfers: from a client they would bypass tokenisation and
routing."""
MAX_TRACE_BYTES = {b"traceparent": 128, b"tracestate": 1024}
"""Longer ones are left out: a request's trace is remembered with it. W3C's trace context has 55 bytes for the
one, and asks for 512 of the other."""

_Token: TypeAlias = Annotated[int, msgspec.Meta(ge=0, lt=2**32)]


def trace_headers(headers: Mapping[bytes, bytes]) -> dict[str, str]:
    """The headers by which a client's request belongs to a trace."""
    return {
        name.decode(): headers[name].decode("latin-1")
        for name, most in MAX_TRACE_BYTES.items()
        if name in headers and len(headers[name]) <= most
    }


class StreamOptions(msgspec.Struct):
    """How a client wants its stream."""

    include_usage: bool | None = None


class _AnyBody(msgspec.Struct):
    model: Annotated[str, msgspec.Meta(max_length=MAX_MODEL_LENGTH)] | None = None
    cache_salt: str | None = None
    kv_transfer_params: Any = None
    ec_transfer_params: Any = None
    vllm_xargs: dict[str, Any] | None = None


class StreamedBody(_AnyBody):
    """What a body that may ask for a stream can say for the router to see."""

    stream: bool | None = None


class _Body(StreamedBody):
    stream_options: StreamOptions | None = None
    truncate_prompt_tokens: int | None = None


class _Message(msgspec.Struct):
    role: Annotated[str, msgspec.Meta(max_length=MAX_ROLE_LENGTH)]
    content: str | list[str | dict[str, Any]] | None = None


class _ChatShape(_Body, kw_only=True):
    messages: list[_Message]
    tools: list[dict[str, Any]] | None = None
    chat_template: str | None = None
    chat_template_kwargs: dict[str, Any] | None = None


class _CompletionShape(_Body, kw_only=True):
    prompt: str | list[str | _Token | list[_Token]] | None = None
    prompt_embeds: Any = None
    suffix: str | None = None
    add_special_tokens: bool | None = None


class Call(msgspec.Struct, frozen=True):
    """One request, parsed as far as routing needs it."""

    path: str
    """Where it goes upstream."""
    model: str
    """Its name; "" where the client does not say."""
    stream: bool
    wants_usage: bool
    """Whether the client asked for the usage event at the end of its stream."""
    cache_salt: str
    """What separates the caches of those who use it, at the engine and here; the client's own unless the
    call was `isolated`."""
    conversation: bytes
    """A digest of what stays the same over all turns of the conversation."""
    fields: Mapping[str, Any]
    """The decoded body; of another API the chat completion that it stands for."""
    tokenisable: bool
    """Whether the prompt can be computed from the body without knowledge that only the engine has."""
    raw: bytes
    upstream: bytes = b""
    """What goes to the engine, where that is known already."""
    content_type: str = JSON
    """Of the body, as the engine is told."""

    @property
    def messages(self) -> Sequence[Mapping[str, Any]]:
        """Of a chat; none of other requests, whatever their bodies hold under this name."""
        messages: Sequence[Mapping[str, Any]] = (
            self.fields.get("messages", ()) if self.path in CHAT_PATHS else ()
        )
        return messages

    @property
    def max_tokens(self) -> int:
        """The longest answer that the client asks for; 0 where it leaves that to the engine."""
        given = self.fields.get("max_completion_tokens") if self.messages else None
        wanted = self.fields.get("max_tokens") if given is None else given
        return wanted if isinstance(wanted, int) else 0

    def isolated(self, scope: str) -> "Call":
        """The same call with a cache that only calls of this scope with the same salt share; an empty scope
        changes nothing."""
        if not scope:
            return self
        return msgspec.structs.replace(self, cache_salt=_scoped_salt(scope, self.cache_salt))

    def without_body(self) -> "Call":
        """What is left to know of it once its answer streams: it is not sent again."""
        return msgspec.structs.replace(self, fields={}, raw=b"", upstream=b"")

    def upstream_body(self) -> bytes:
        """The client's bytes, with what the engine has to know besides: for a stream the request for usage,
        for an isolated call its salt. Raises `InvalidRequestError` when it is nested too deeply.
        """
        if self.upstream:
            return self.upstream
        fields = self.fields  # other APIs call the salt by the same name
        asks_for_usage = self.stream and not self.wants_usage
        is_salted = self.cache_salt != (fields.get("cache_salt") or "")
        if not asks_for_usage and not is_salted:
            return self.raw
        if (asks_for_usage and "stream_options" in fields) or (is_salted and "cache_salt" in fields):
            return self._encoded_anew(asks_for_usage)
        ending = ASK_FOR_USAGE if asks_for_usage else b""
        if is_salted:
            ending += b',"cache_salt":"%b"' % self.cache_salt.encode()  # hexadecimal digits
        return self.raw.rstrip()[:-1] + (ending + b"}")

    def _encoded_anew(self, asks_for_usage: bool) -> bytes:
        fields = msgspec.json.decode(self.raw)
        if asks_for_usage:
            options = {**(fields.get("stream_options") or {}), "include_usage": True}
            if options.get("continuous_usage_stats") is True:  # engines heed it beside the other one only
                options["continuous_usage_stats"] = False
            fields["stream_options"] = options
        if self.cache_salt:
            fields["cache_salt"] = self.cache_salt
        try:
            return msgspec.json.encode(fields)
        except RecursionError as error:
            raise nested_too_deeply() from error

    @property
    def conversation_key(self) -> int:
        """64 bits that stay the same over all turns of the conversation, among those with the same salt."""
        return xxhash.xxh3_64_intdigest(self.cache_salt.encode() + self.conversation)


def parse_chat(raw: bytes) -> Call:
    """Parse the body of a chat completion. Raises `InvalidRequestError` naming the field."""
    fields, shape = decode_body(raw, _ChatShape)
    if not shape.messages:
        raise InvalidRequestError("'messages' must hold at least one message.", param="messages")
    return _call(
        CHAT_PATH,
        raw,
        fields,
        shape,
        conversation=opening_of(fields["messages"]),
        # A client's own template is code: it is not run here.
        tokenisable=shape.chat_template is None and "chat_template" not in (shape.chat_template_kwargs or ()),
    )


def opening_of(messages: Sequence[Mapping[str, Any]]) -> bytes:
    """What stays the same over all turns: everything up to the first user message."""
    first_user = next((n for n, each in enumerate(messages) if each["role"] == "user"), len(messages) - 1)
    try:
        return msgspec.json.encode(messages[: first_user + 1])
    except RecursionError as error:
        raise nested_too_deeply() from error


def parse_completion(raw: bytes) -> Call:
    """Parse the body of a text completion. Raises `InvalidRequestError` naming the field."""
    fields, shape = decode_body(raw, _CompletionShape)
    if shape.prompt is None and shape.prompt_embeds is None:
        raise InvalidRequestError("Missing required parameter: 'prompt'.", param="prompt")
    if isinstance(shape.prompt, list):
        if not shape.prompt or [] in shape.prompt:
            raise InvalidRequestError("'prompt' must not be an empty list.", param="prompt")
        if len({type(part) for part in shape.prompt}) > 1:
            raise InvalidRequestError("'prompt' must not mix texts and tokens.", param="prompt")
    first = shape.prompt
    if isinstance(first, list) and not isinstance(first[0], int):
        first = first[0]
    opening = first[:512] if first is not None else []
    return _call(
        COMPLETION_PATH,
        raw,
        fields,
        shape,
        conversation=msgspec.json.encode(opening),
        tokenisable=shape.prompt_embeds is None and shape.suffix is None,
    )


def parse_passed(path: str, raw: bytes, *, streams: bool) -> Call:
    """Parse the body of a request whose prompt gets no keys. Raises `InvalidRequestError` naming the
    field.

    Where no answer ``streams``, engines take no notice of what the body says about that.
    """
    fields, shape = decode_body(raw, StreamedBody if streams else _AnyBody)
    return Call(
        path=path,
        model=shape.model or "",
        stream=streams and bool(shape.stream),
        wants_usage=True,
        cache_salt=permitted_salt(shape),
        conversation=b"",
        fields=fields,
        tokenisable=False,
        raw=raw,
    )


def decode_body(raw: bytes, shape: Any, *others: Any) -> tuple[dict[str, Any], Any]:
    """A JSON object, as it is and in its first shape; it has the others, too. Raises `InvalidRequestError`
    naming the field."""
    try:
        fields = msgspec.json.decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise InvalidRequestError(f"The request body is not valid JSON: {error}.") from error
    except RecursionError as error:
        raise nested_too_deeply() from error
    if not isinstance(fields, dict):
        raise InvalidRequestError("The request body must be a JSON object.")
    try:
        for other in others:
            msgspec.convert(fields, other)
        return fields, msgspec.convert(fields, shape)
    except msgspec.ValidationError as error:
        message, _, path = str(error).partition(" - at `")
        missing = message.partition("missing required field `")[2].rstrip("`")
        param = path.rstrip("`").removeprefix("$").removeprefix(".") or missing or None
        raise InvalidRequestError(f"{message}{f' at {param!r}' if path else ''}.", param=param) from error
    except RecursionError as error:
        raise nested_too_deeply() from error


def nested_too_deeply() -> InvalidRequestError:
    """For bodies that no recursion gets through."""
    return InvalidRequestError("The request body is nested too deeply.")


def _scoped_salt(scope: str, salt: str) -> str:
    """Of lengths and texts, so that no two pairs of scope and salt make the same one."""
    parts = (part.encode() for part in (scope, salt))
    digest = hashlib.sha256(b"".join(len(part).to_bytes(8, "little") + part for part in parts))
    return digest.hexdigest()[:SALT_DIGITS]


def permitted_salt(shape: _AnyBody) -> str:
    """The client's own salt. Raises `InvalidRequestError` for what no client may say."""
    for name in ENGINE_INTERNALS:
        if getattr(shape, name) is not None:
            raise InvalidRequestError(f"'{name}' is not accepted from clients.", param=name)
    for name in (*ENGINE_INTERNALS, REPORT_MODE):
        if name in (shape.vllm_xargs or ()):
            raise InvalidRequestError(
                f"'vllm_xargs.{name}' is not accepted from clients.", param=f"vllm_xargs.{name}"
            )
    salt = shape.cache_salt or ""
    if len(salt) > MAX_SALT_LENGTH or not SALT_FORBIDDEN.isdisjoint(salt):
        raise InvalidRequestError(
            f"'cache_salt' must be at most {MAX_SALT_LENGTH} characters, without '@', '/', '\\' and NUL.",
            param="cache_salt",
        )
    return salt


def _call(
    path: str,
    raw: bytes,
    fields: dict[str, Any],
    shape: _Body,
    *,
    conversation: bytes,
    tokenisable: bool,
) -> Call:
    return Call(
        path=path,
        model=shape.model or "",
        stream=bool(shape.stream),
        wants_usage=bool(shape.stream_options and shape.stream_options.include_usage),
        cache_salt=permitted_salt(shape),
        conversation=conversation,
        fields=fields,
        tokenisable=tokenisable and shape.truncate_prompt_tokens is None,
        raw=raw,
    )
