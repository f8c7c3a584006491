"""JSON as Python reads it, and so engines: more than the standard allows, and in more encodings."""

import json
from typing import Any

import msgspec

from router.errors import InvalidRequestError


def read_leniently(raw: bytes) -> tuple[bytes, Any, bool]:
    """The same in UTF-8 without a byte order mark, its value, and whether it now is standard JSON.

    Raises `InvalidRequestError` for what Python cannot read either.
    """
    try:
        text = raw.decode(json.detect_encoding(raw), "surrogatepass")
        value = json.loads(text)
    except RecursionError as error:
        raise nested_too_deeply() from error
    except ValueError as error:
        raise InvalidRequestError(f"The request body is not valid JSON: {error}.") from error
    raw = text.encode(errors="surrogatepass")
    try:
        return raw, msgspec.json.decode(raw), True
    except (msgspec.DecodeError, UnicodeDecodeError):
        return raw, value, False


def nested_too_deeply() -> InvalidRequestError:
    """The error for a body that takes more of the stack than there is."""
    return InvalidRequestError("The request body is nested too deeply.")
