"""Short versions of the measurements of ``python -m tests.hostile``; times may be ten times as long."""

import pytest

from tests.hostile.run_bodies import send_all
from tests.hostile.run_clients import come_and_go
from tests.hostile.run_fifty import fifty
from tests.hostile.run_shapes import shapes
from tests.hostile.run_tenants import tenants
from tests.hostile.system import hostile_system, idle_engine
from tests.hostile.table import Table

pytestmark = [pytest.mark.integration, pytest.mark.timeout(300)]

SLACK = 10.0
BODIES = (
    "text: one letter",
    "text: random letters",
    "text: spaces",
    "text: random digits",
    "messages",
    "text parts",
    "keys",
    "model",
)


async def test_bodies_and_clients_stop_nobody() -> None:
    """Long words, many small values, long names; clients that leave their work behind, or never finish."""
    table = Table("bodies and clients", SLACK)
    async with hostile_system(engines=idle_engine) as hostile:
        await send_all(table, hostile, BODIES, (1024 * 1024,), settle=0)
        await come_and_go(table, hostile, messages=20_000, bodies=300, slow=0, settle=0)
    assert not table.failures, str(table)


async def test_odd_shapes_change_nothing_for_others() -> None:
    """Neither for those who ask as usual, nor for those who ask in the same shape."""
    table = await shapes(("one question", "developer", "kwargs.enable_thinking"), slack=SLACK)
    assert not table.failures, str(table)


async def test_one_odd_client_changes_nothing_for_the_others() -> None:
    """Their hit rate is what it was, and the odd conversation stays where its blocks are."""
    table = await fifty(clients=8, slack=SLACK)
    assert not table.failures, str(table)


async def test_tenants_see_nothing_of_each_other() -> None:
    """A prompt of one is like an unseen one for the other."""
    table = await tenants(slack=SLACK)
    assert not table.failures, str(table)
