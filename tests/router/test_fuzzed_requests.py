"""A few hundred of the requests that ``python -m tests.hostile fuzz`` sends by the thousand."""

import asyncio
import logging

import pytest

from tests.hostile.fuzzed_requests import parts
from tests.hostile.raw_request import RawClient
from tests.router.fake_engine import DONE, REPLY, event, stream

NUM_REQUESTS = 300


async def answer_unread(exchange):
    """What a healthy engine says, whatever it was asked."""
    if b'"stream":true' in exchange.body or b'"stream": true' in exchange.body:
        await stream(event("hi"), DONE)(exchange)
    else:
        await exchange.whole(REPLY)


@pytest.mark.integration
@pytest.mark.timeout(180)
async def test_no_request_is_an_error_of_the_router(start_router, engines, redis_server, tiny_model, caplog):
    """Each is answered, none with an error of ours, nothing stays booked, and no traceback is logged."""
    router = await start_router(policy="warm", redis_url=redis_server.url, tokenizers={"tiny": tiny_model})
    router.admit(engines[0].url, model="tiny")
    await router.settled()
    engines[0].otherwise = answer_unread
    document = router.app.openapi()
    client = RawClient(router.port)
    faults = []
    try:
        for part in parts(document, NUM_REQUESTS, 1):
            for request in part:
                answer = await asyncio.to_thread(client.send, request)
                if answer.is_fault:
                    faults.append(f"{answer}: {request}")
    finally:
        client.close()
    assert not faults, faults[0]
    assert not [record for record in caplog.records if record.levelno >= logging.ERROR or record.exc_info]
    await router.drained()
