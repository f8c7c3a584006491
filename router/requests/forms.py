"""Multipart forms, which bring audio: read as far as routing needs it, and passed on as they are."""

import re

from router.errors import InvalidRequestError
from router.requests.schema import ENGINE_INTERNALS, Call, truth

MAX_PARTS = 100
MAX_PART_HEAD_BYTES = 4096
MAX_MODEL_LENGTH = 256
"""Characters."""

_BOUNDARY = re.compile(r'multipart/form-data\s*;(?:.*;)?\s*boundary="?([^";,\s]{1,70})"?\s*(?:;|$)', re.I)
_DISPOSITION = b"content-disposition:"
_PARAMETER = re.compile(rb';[ \t]*([^=;\s]+)[ \t]*=[ \t]*(?:"((?:\\.|[^"\\])*)"|([^;\s]*))')


def parse_form(path: str, raw: bytes, content_type: str) -> Call:
    """What the body of a form says of its model and its answer. Raises `InvalidRequestError`."""
    boundary = _BOUNDARY.match(content_type)
    if boundary is None:
        raise InvalidRequestError("The request body must be multipart/form-data with a boundary.")
    fields = _fields(raw, b"--" + boundary[1].encode("latin-1"))
    for name in ENGINE_INTERNALS:
        if name.encode() in fields:
            raise InvalidRequestError(f"'{name}' is not accepted from clients.", param=name)
    try:
        model = fields.get(b"model", b"").decode()
    except UnicodeDecodeError as error:
        raise InvalidRequestError("'model' is not valid UTF-8.", param="model") from error
    if len(model) > MAX_MODEL_LENGTH:
        raise InvalidRequestError(
            f"'model' must be at most {MAX_MODEL_LENGTH} characters long.", param="model"
        )
    return Call(
        path=path,
        model=model,
        stream=truth(fields.get(b"stream", b"").decode("latin-1")) is True,
        wants_usage=True,
        cache_salt="",
        conversation=b"",
        fields={},
        tokenisable=False,
        raw=raw,
    )


def _fields(raw: bytes, mark: bytes) -> dict[bytes, bytes]:
    """The fields of a form by name; of several with one name the last, as for vLLM. Of a value as much as
    a name of a model can have, and one byte more.
    """
    fields: dict[bytes, bytes] = {}
    at, between = raw.find(mark), b"\r\n" + mark
    for _ in range(MAX_PARTS):
        if at < 0:
            break
        start = at + len(mark)
        if raw.startswith(b"--", start):
            return fields
        head_end = raw.find(b"\r\n\r\n", start, start + MAX_PART_HEAD_BYTES)
        value = head_end + 4
        end = raw.find(between, value)
        if end < 0 or head_end < 0:
            break
        if name := _name(raw[start:head_end]):
            fields[name] = raw[value : min(end, value + 4 * MAX_MODEL_LENGTH + 1)]
        at = end + 2
    raise InvalidRequestError(f"The form is not complete, or has more than {MAX_PARTS} parts.")


def _name(head: bytes) -> bytes:
    """The name in the head of a part. Of several the engine might take another one: they are refused."""
    names = [
        quoted or plain
        for line in head.split(b"\r\n")
        if line.lower().startswith(_DISPOSITION)
        for key, quoted, plain in _PARAMETER.findall(line)
        if key.lower() == b"name"
    ]
    if len(names) > 1:
        raise InvalidRequestError("A part of the form has more than one name.")
    return names[0] if names else b""
