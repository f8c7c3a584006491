"""The event loop that routers run on."""

import uvloop


def pytest_asyncio_loop_factories():
    """As in `tests.router`."""
    return {"uvloop": uvloop.new_event_loop}
