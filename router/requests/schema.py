"""What the router needs to know of a request. Everything else of its body passes through unseen."""

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, NamedTuple, TypeAlias, TypeVar

import msgspec
import xxhash

from cluster.apis.breakpoints import Breakpoint
from router.errors import InvalidRequestError
from router.requests.lenient_json import nested_too_deeply, read_leniently

CHAT_PATH = "/v1/chat/completions"
COMPLETION_PATH = "/v1/completions"
MESSAGES_PATH = "/v1/messages"
RESPONSES_PATH = "/v1/responses"
CHAT_PATHS = frozenset({CHAT_PATH, MESSAGES_PATH, RESPONSES_PATH})
"""Of requests that are chat completions, or stand for one."""

CHARACTERS_PER_TOKEN = 4
"""Guess for prompts that cannot be tokenised here; only their load is estimated with it."""

OPENING = 512
"""Characters, tokens or bytes at the beginning of a prompt that stay the same over all turns."""
MAX_ROLE_LENGTH = 64
MAX_SALT_LENGTH = 128
"""Characters. What comes from clients and is remembered is short: names in logs, keys of caches."""
_SALT = re.compile(rf"[^@/\\\0\ud800-\udfff]{{1,{MAX_SALT_LENGTH}}}")
"""What a ``cache_salt`` may be by vLLM's rules."""
SALT_DIGITS = 32
"""Hexadecimal digits of a salt that is made here: 128 bits."""

ASK_FOR_USAGE = b',"stream_options":{"include_usage":true}'
REPORT_MODE = "kv_cache_report_mode"
"""Among further arguments: makes vLLM announce blocks that it only reuses, which would count twice."""
ENGINE_INTERNALS = ("kv_transfer_params", "ec_transfer_params")
"""Fields that steer an engine's own KV transfers: they would bypass tokenisation and routing."""
TRACE_HEADERS = {b"traceparent": 128, b"tracestate": 1024}
"""By which a request belongs to a trace, and their longest: they are remembered with it. W3C's trace
context has 55 bytes for the one, and asks for 512 of the other."""
ENGINE_HEADERS = {
    b"content-type": 1024,
    b"x-session-id": 128,
    b"x-vllm-priority": 32,
    b"endpoint-load-metrics-format": 32,
}
"""Headers of clients that engines read, and their longest."""
TRUE = frozenset({"1", "on", "t", "true", "y", "yes"})
FALSE = frozenset({"0", "off", "f", "false", "n", "no"})
"""What vLLM takes for true and for false besides the values themselves, in any case."""

_Token: TypeAlias = Annotated[int, msgspec.Meta(ge=0, lt=2**32)]
_SOME = msgspec.Meta(min_length=1)
T = TypeVar("T")


def chosen_headers(headers: Mapping[bytes, bytes], longest: Mapping[bytes, int]) -> dict[str, str]:
    """Those of a client's headers that go on, unless they are too long."""
    return {
        name.decode(): headers[name].decode("latin-1")
        for name, most in longest.items()
        if name in headers and len(headers[name]) <= most
    }


class _Message(msgspec.Struct):
    role: Annotated[str, msgspec.Meta(max_length=MAX_ROLE_LENGTH)]
    content: str | list[str | dict[str, Any]] | None = None


class _ChatShape(msgspec.Struct):
    """What a chat must be like to be read here."""

    messages: Annotated[list[_Message], _SOME]
    tools: list[dict[str, Any]] | None = None
    chat_template: Any = None
    chat_template_kwargs: dict[str, Any] | None = None


class _CompletionShape(msgspec.Struct):
    """What a text completion must be like to be read here."""

    prompt: str | Annotated[list[str | _Token | Annotated[list[_Token], _SOME]], _SOME]
    prompt_embeds: Any = None
    suffix: Any = None
    add_special_tokens: bool | None = None


class Json(NamedTuple):
    """A JSON object as it came, in UTF-8; whether it holds nothing but what the standard allows."""

    raw: bytes
    fields: dict[str, Any]
    is_standard: bool


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
    is_readable: bool = True
    """Whether the fields are such as everything here expects; else only the engine can judge them."""
    upstream: bytes = b""
    """What goes to the engine, where that is known already."""
    breakpoints: Sequence[Breakpoint] = ()
    token_ids: Sequence[int] = ()
    """The prompt, where the engine is told its tokens."""

    @property
    def messages(self) -> Sequence[Mapping[str, Any]]:
        """Of a chat; none of other requests, whatever their bodies hold under this name."""
        return self.fields.get("messages", ()) if self.path in CHAT_PATHS else ()

    @property
    def max_tokens(self) -> int:
        """The longest answer that the client asks for; 0 where it leaves that to the engine."""
        given = self.fields.get("max_completion_tokens") if self.messages else None
        wanted = self.fields.get("max_tokens") if given is None else given
        return wanted if isinstance(wanted, int) else 0

    def isolated(self, *scope: str) -> "Call":
        """The same call with a cache that only calls of this scope with the same salt share; a scope without
        texts changes nothing."""
        if not any(scope):
            return self
        return msgspec.structs.replace(self, cache_salt=_scoped_salt(*scope, self.cache_salt))

    def without_body(self) -> "Call":
        """What is left to know of it once its answer streams: it is not sent again."""
        return msgspec.structs.replace(self, fields={}, raw=b"", upstream=b"", token_ids=())

    def sealed(self) -> "Call":
        """The same call as the engine gets it, of whose fields nothing more is read here."""
        return msgspec.structs.replace(self, upstream=self.upstream_body(), fields={}, tokenisable=False)

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
        replaced = (asks_for_usage and "stream_options" in fields) or (is_salted and "cache_salt" in fields)
        if replaced or not fields:
            return self._encoded_anew(asks_for_usage)
        ending = ASK_FOR_USAGE if asks_for_usage else b""
        if is_salted:
            ending += b',"cache_salt":"%b"' % self.cache_salt.encode()  # hexadecimal digits
        return self.raw.rstrip()[:-1] + (ending + b"}")

    def _encoded_anew(self, asks_for_usage: bool) -> bytes:
        fields = read_object(self.raw).fields
        if asks_for_usage:
            options = {**(fields.get("stream_options") or {}), "include_usage": True}
            if truth(options.get("continuous_usage_stats")):  # engines heed it beside the other one only
                options["continuous_usage_stats"] = False
            fields["stream_options"] = options
        if self.cache_salt:
            fields["cache_salt"] = self.cache_salt
        try:
            return msgspec.json.encode(fields) if self.is_readable else json.dumps(fields).encode()
        except RecursionError as error:
            raise nested_too_deeply() from error

    @property
    def conversation_key(self) -> int:
        """64 bits that stay the same over all turns of the conversation, among those with the same salt."""
        return xxhash.xxh3_64_intdigest(self.cache_salt.encode() + self.conversation)


def parse_chat(raw: bytes) -> Call:
    """Parse the body of a chat completion. What its engine will refuse is left to it.

    Raises `InvalidRequestError`, like all that parse, for what cannot be sent to any engine.
    """
    body = read_object(raw)
    shape = shaped(body, _ChatShape)
    if shape is None:
        return unreadable(CHAT_PATH, body)
    return call_of(
        CHAT_PATH,
        body,
        opening_of(body.fields["messages"]),
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
    """Parse the body of a text completion."""
    body = read_object(raw)
    shape = shaped(body, _CompletionShape)
    if shape is None or (isinstance(shape.prompt, list) and len(set(map(type, shape.prompt))) > 1):
        return unreadable(COMPLETION_PATH, body)
    first = body.fields["prompt"]
    if isinstance(first, list) and not isinstance(first[0], int):
        first = first[0]
    return call_of(
        COMPLETION_PATH,
        body,
        conversation=msgspec.json.encode(first[:OPENING]),
        tokenisable=shape.prompt_embeds is None and shape.suffix is None,
    )


def read_object(raw: bytes) -> Json:
    """Read JSON as engines in Python do. Raises `InvalidRequestError` for what is no JSON object."""
    is_standard = True
    try:
        fields = msgspec.json.decode(raw)
    except RecursionError as error:
        raise nested_too_deeply() from error
    except (msgspec.DecodeError, UnicodeDecodeError):
        raw, fields, is_standard = read_leniently(raw)
    if not isinstance(fields, dict):
        raise InvalidRequestError("The request body must be a JSON object.")
    return Json(raw, fields, is_standard)


def truth(value: Any) -> bool | None:
    """What vLLM takes a flag for; None for what is none, and is refused there."""
    if value is None or value is False:
        return False
    if value is True or value == 1 or (isinstance(value, str) and value.lower() in TRUE):
        return True
    return False if value == 0 or (isinstance(value, str) and value.lower() in FALSE) else None


def _scoped_salt(*texts: str) -> str:
    """Of lengths and texts, so that no two scopes and salts make the same one."""
    parts = (part.encode() for part in texts)
    digest = hashlib.sha256(b"".join(len(part).to_bytes(8, "little") + part for part in parts))
    return digest.hexdigest()[:SALT_DIGITS]


def shaped(body: Json, shape: type[T]) -> T | None:
    """The body in a shape; None where it has another one."""
    try:
        return msgspec.convert(body.fields, shape) if body.is_standard else None
    except msgspec.ValidationError:
        return None
    except RecursionError as error:
        raise nested_too_deeply() from error


def unreadable(path: str, body: Json) -> Call:
    """What keeps its turns together is how their bytes begin."""
    return call_of(path, body, body.raw[:OPENING], is_readable=False)


def call_of(
    path: str, body: Json, conversation: bytes, *, tokenisable: bool = False, is_readable: bool = True
) -> Call:
    """What a body says of itself, whatever its API. Raises `InvalidRequestError`."""
    fields = body.fields
    model, options = fields.get("model"), fields.get("stream_options")
    if model is not None and not isinstance(model, str):
        raise InvalidRequestError("'model' must be a string.", param="model")
    # Options that the engine will refuse count as asking for it: then nothing about them is changed.
    wants_usage = options is not None
    if isinstance(options, dict):
        wants_usage = truth(options.get("include_usage")) is not False
    return Call(
        path=path,
        model=model or "",
        stream=truth(fields.get("stream")) is True,
        wants_usage=wants_usage,
        cache_salt=_permitted_salt(fields),
        conversation=conversation,
        fields=fields,
        tokenisable=tokenisable and fields.get("truncate_prompt_tokens") is None,
        raw=body.raw,
        is_readable=is_readable,
    )


def _permitted_salt(fields: Mapping[str, Any]) -> str:
    """The client's own salt. Raises `InvalidRequestError` for what no client may say."""
    for name in ENGINE_INTERNALS:
        if fields.get(name) is not None:
            raise InvalidRequestError(f"'{name}' is not accepted from clients.", param=name)
    further = {"vllm_xargs": fields.get("vllm_xargs")}
    if isinstance(sampling := fields.get("sampling_params"), dict):
        further["sampling_params.extra_args"] = sampling.get("extra_args")
    for place, extra in further.items():
        for name in (*ENGINE_INTERNALS, REPORT_MODE):
            if isinstance(extra, dict) and name in extra:
                field = f"{place}.{name}"
                raise InvalidRequestError(f"'{field}' is not accepted from clients.", param=field)
    salt = fields.get("cache_salt")
    if salt is None:
        return ""
    if not isinstance(salt, str) or not _SALT.fullmatch(salt):
        raise InvalidRequestError(
            f"'cache_salt' must have 1 to {MAX_SALT_LENGTH} characters, without '@', '/', '\\' and NUL.",
            param="cache_salt",
        )
    return salt
