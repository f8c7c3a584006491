"""Links that can be cut, blackholed and slowed down."""

import asyncio
import contextlib
import os
import time

import pytest

from tests.chaos.proxy import HOST, PASS, Behaviour, Link, Mode, ProcessFinder, reserve_port

pytestmark = pytest.mark.integration


@contextlib.asynccontextmanager
async def _echo_behind(**options):
    """A link to a server that sends everything back."""

    async def echo(reader, writer):
        with contextlib.suppress(OSError):
            while data := await reader.read(1000):
                writer.write(data)
                await writer.drain()
        writer.close()

    port = reserve_port()
    server = await asyncio.start_server(echo, HOST, port)
    link = Link("test", port, **options)
    await link.listen()
    try:
        yield link
    finally:
        await link.close()
        server.close()


@contextlib.asynccontextmanager
async def _connected(link: Link):
    """A client's connection through a link."""
    reader, writer = await asyncio.open_connection(HOST, link.port)
    try:
        yield reader, writer
    finally:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()


async def _says(reader, writer, data: bytes = b"ping") -> bool:
    writer.write(data)
    async with asyncio.timeout(2):
        return await reader.readexactly(len(data)) == data


async def test_a_link_passes_bytes_and_ends():
    """Bytes go both ways, and an orderly end arrives as one."""
    async with _echo_behind() as link, _connected(link) as (reader, writer):
        assert await _says(reader, writer)
        writer.write_eof()
        assert await reader.read() == b""
        await asyncio.sleep(0.05)
        assert link.num_open == 0


async def test_a_cut_resets_old_and_new_connections():
    """Until the link is back; then new connections work."""
    async with _echo_behind() as link, _connected(link) as (reader, writer):
        assert await _says(reader, writer)
        link.behave(Behaviour(Mode.CUT))
        with pytest.raises(ConnectionResetError):
            await reader.readexactly(1)
        async with _connected(link) as (late, _):
            with pytest.raises(ConnectionResetError):
                await late.readexactly(1)
        link.behave(PASS)
        async with _connected(link) as connection:
            assert await _says(*connection)


async def test_a_blackhole_holds_everything_back_and_loses_nothing():
    """Old and new connections stay open and silent; when the link is back everything arrives."""
    async with _echo_behind() as link, _connected(link) as old:
        assert await _says(*old)
        link.behave(Behaviour(Mode.BLACKHOLE))
        async with _connected(link) as new:
            for _, writer in (old, new):
                writer.write(b"held")
            await asyncio.sleep(0.1)
            link.behave(PASS)
            for reader, _ in (old, new):
                async with asyncio.timeout(2):
                    assert await reader.readexactly(4) == b"held"


async def test_a_slow_link_is_slow_in_both_directions():
    """An answer takes twice the delay."""
    async with _echo_behind() as link, _connected(link) as (reader, writer):
        link.behave(Behaviour(Mode.DELAY, 0.1))
        began = time.monotonic()
        assert await _says(reader, writer)
        assert 0.2 <= time.monotonic() - began < 1


async def test_nobody_listens_at_a_refused_link():
    """As when the process behind it is gone; `listen` makes it as before."""
    async with _echo_behind() as link, _connected(link) as (reader, writer):
        assert await _says(reader, writer)
        link.refuse()
        with pytest.raises(ConnectionResetError):
            await reader.readexactly(1)
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection(HOST, link.port)
        await link.listen()
        async with _connected(link) as connection:
            assert await _says(*connection)


async def test_a_link_can_be_cut_for_one_process_alone():
    """The process at the other end is known by its socket."""
    finder = ProcessFinder(lambda: {os.getpid(): "us", 1: "somebody else"})
    async with _echo_behind(identify=finder) as link, _connected(link) as (reader, writer):
        assert await _says(reader, writer)
        link.behave(Behaviour(Mode.CUT), "somebody else")
        assert await _says(reader, writer)
        link.behave(Behaviour(Mode.CUT), "us")
        with pytest.raises(ConnectionResetError):
            await reader.readexactly(1)
