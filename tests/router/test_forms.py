"""Reading a form must find what the engine's own parser finds, and survive anything."""

import asyncio
from contextlib import suppress

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from router.errors import InvalidRequestError
from router.requests.forms import parse_form

formparsers = pytest.importorskip("starlette.formparsers")
pytest.importorskip("multipart")

PATH = "/v1/audio/transcriptions"
TYPE = "multipart/form-data; boundary=edge"
PIECES = (
    b"--edge",
    b"--",
    b"\r\n",
    b"\r\n\r\n",
    b'Content-Disposition: form-data; name="model"',
    b"\xff",
    b'"',
    b"m",
)


def part(name, value, *more):
    """One field, with more parameters and headers."""
    parameters = "".join(f"; {each}" for each in more)
    return (
        f'--edge\r\ncontent-disposition: form-data; name="{name}"{parameters}\r\n\r\n'.encode()
        + value
        + b"\r\n"
    )


def engine_reads(raw, content_type):
    """The fields as Starlette gives them to vLLM; of several with one name the last."""

    async def body():
        yield raw

    async def read():
        headers = formparsers.Headers({"content-type": content_type})
        form = await formparsers.MultiPartParser(headers, body()).parse()
        await form.close()
        return dict(form)

    return asyncio.run(read())


@given(
    fields=st.lists(
        st.tuples(
            st.sampled_from(["model", "stream", "prompt", "language"]),
            st.text(max_size=20)
            | st.sampled_from(["true", "False", "ON", "1", "--edge", "\r\n--edg", "\r\n\r\n"]),
        ),
        max_size=6,
    ),
    audio=st.binary(max_size=40),
)
@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_fields_are_those_that_the_engine_reads(fields, audio):
    """Model and stream, wherever they stand and whatever stands beside them."""
    parts = [part(name, value.encode()) for name, value in fields]
    raw = b"".join([*parts, part("file", audio, 'filename="a;name=model.wav"'), b"--edge--\r\n"])
    expected = engine_reads(raw, TYPE)
    call = parse_form(PATH, raw, TYPE)
    assert call.model == expected.get("model", "")
    assert call.stream == (expected.get("stream", "").lower() in ("1", "on", "t", "true", "y", "yes"))
    assert call.upstream_body() is raw


@pytest.mark.parametrize(
    "content_type",
    [
        "multipart/form-data; boundary=edge",
        'Multipart/Form-Data;boundary="edge"',
        "multipart/form-data; charset=utf-8; boundary=edge",
        "multipart/form-data; boundary=edge; charset=utf-8",
    ],
)
def test_boundary_is_found(content_type):
    """However the client writes it."""
    raw = part("model", b"m") + b"--edge--\r\n"
    assert parse_form(PATH, raw, content_type).model == "m" == engine_reads(raw, content_type)["model"]


@pytest.mark.parametrize(
    "head",
    [
        b'Content-Disposition: form-data; filename="a; name=model"; name="file"',
        b'Content-Disposition: form-data; filename="a\\"; name=model; "; name="file"',
        b'Content-Type: audio/wav; name="model"\r\nContent-Disposition: form-data; name="file"',
        b'CONTENT-DISPOSITION:form-data;NAME="file"; filename=x',
        b"content-disposition: form-data; name=file",
    ],
)
def test_names_are_those_that_the_engine_reads(head):
    """Not what stands in the name of a file or in another header."""
    raw = part("model", b"m") + b"--edge\r\n" + head + b"\r\n\r\nx\r\n--edge--\r\n"
    assert engine_reads(raw, TYPE)["model"] == "m" == parse_form(PATH, raw, TYPE).model
    assert "file" in engine_reads(raw, TYPE)


@pytest.mark.parametrize(
    "head",
    [
        b'Content-Disposition: form-data; name="a"; name="kv_transfer_params"',
        b'Content-Disposition: form-data; name="a"\r\nContent-Disposition: x; name="kv_transfer_params"',
        b'Content-Disposition: form-data; filename="; name=a"; name="kv_transfer_params"',
    ],
)
def test_no_name_hides_behind_another(head):
    """What no client may send is found however its name is written."""
    raw = part("model", b"m") + b"--edge\r\n" + head + b"\r\n\r\n{}\r\n--edge--\r\n"
    with pytest.raises(InvalidRequestError, match=r"more than one name|kv_transfer_params"):
        parse_form(PATH, raw, TYPE)


@given(st.lists(st.sampled_from(PIECES), max_size=30).map(b"".join) | st.binary(max_size=100))
@settings(deadline=None)
def test_any_bytes(raw):
    """Are a form or are refused."""
    with suppress(InvalidRequestError):
        assert parse_form(PATH, raw, TYPE).raw is raw
