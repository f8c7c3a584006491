"""What axe-core finds on the dashboard: nothing. And that the page claims no more than is known."""

import json
import time
from typing import Any

import pytest
from playwright.async_api import Page, expect

from tests.browser.conftest import NewPage
from tests.browser.fleet_data import LargeFleet
from tests.browser.test_dashboard_large import SHOW, open_large

pytest.importorskip("axe_playwright_python", reason="python3 infra/setup.py installs what is locked")
from axe_playwright_python.async_playwright import Axe

pytestmark = [pytest.mark.integration, pytest.mark.timeout(120), pytest.mark.asyncio(loop_scope="module")]

LOOKS: dict[str, dict[str, Any]] = {
    "light": {"color_scheme": "light"},
    "dark": {"color_scheme": "dark"},
    "phone": {"viewport": {"width": 360, "height": 740}, "is_mobile": True, "has_touch": True},
}
ALARM = {"serious": True, "replica": "replica-001", "model": "", "until": None}


async def violations(page: Page) -> list[str]:
    """What is wrong, and where."""
    found = await Axe().run(page)
    return [
        f"{each['id']}: {node['target']} {node['failureSummary']}"
        for each in found.response["violations"]
        for node in each["nodes"]
    ]


@pytest.mark.parametrize("look", LOOKS)
@pytest.mark.parametrize("replicas", [4, 256])
async def test_axe_finds_nothing(new_page: NewPage, look: str, replicas: int) -> None:
    """Contrast, names, roles: no violation of any of axe's rules."""
    page, fleet = await new_page(**LOOKS[look]), LargeFleet(replicas)
    fleet.alarms = [
        {**ALARM, "kind": "lost", "text": "replica replica-001: died", "since": time.time() - 90},
        {
            **ALARM,
            "kind": "tokenizer",
            "serious": False,
            "text": "model large: differs",
            "since": time.time(),
        },
    ]
    await open_large(page, fleet)
    await expect(page.locator(".alarms .notice")).to_have_count(2)
    assert await violations(page) == []
    await page.locator(".alarms a").first.click()
    await expect(page.get_by_role("dialog")).to_contain_text("Replica died")
    assert await violations(page) == []


async def test_nothing_is_healthy_beside_a_dead_replica(new_page: NewPage) -> None:
    """However good the hit rate is."""
    page, fleet = await new_page(), LargeFleet(4)
    await open_large(page, fleet)
    overview = fleet.overview()
    overview["fleet"]["recent"] |= {"delivered": 0.97, "predicted": 0.97, "requests": 1000}
    badge = page.locator(".rate.delivered .badge")
    await page.evaluate(SHOW, ["overview", json.dumps(overview)])
    await expect(badge).to_have_text("healthy")
    overview["alarms"] = [
        {**ALARM, "kind": "lost", "text": "replica replica-001: died", "since": time.time()}
    ]
    await page.evaluate(SHOW, ["overview", json.dumps(overview)])
    await expect(badge).to_be_hidden()


async def test_page_says_what_is_known(new_page: NewPage) -> None:
    """Savings at an unknown pace are unknown, a ratio needs enough of both, small differences are none."""
    page, fleet = await new_page(), LargeFleet(4)
    await open_large(page, fleet)
    overview = fleet.overview()
    overview["fleet"]["hour"] |= {"saved_tokens": 79_700, "saved_seconds": None, "priced_tokens": 0}
    rates = {"available": 0.901, "predicted": 0.9, "delivered": 0.9, "requests": 300, "prompt_tokens": 9999}
    overview["fleet"]["recent"] |= rates
    warm, cold = ({"count": count, "p50": 0.1, "p95": 0.2, "p99": 0.3} for count in (14, 1))
    overview["fleet"]["ttft"] = {"warm": warm, "cold": cold, "speedup": None, "enough": 20}
    await page.evaluate(SHOW, ["overview", json.dumps(overview)])
    figures = page.locator("#figures")
    await expect(figures).to_contain_text("unknown")
    await expect(figures).to_contain_text("6 more warm and 19 more cold streams are needed")
    await expect(page.locator("#rates")).not_to_contain_text("diverted")
    speedup = {"ratio": 7.0, "low": 6.1, "high": 8.0}
    overview["fleet"]["ttft"] |= {"speedup": speedup}
    overview["fleet"]["hour"] |= {"saved_seconds": 30.0, "priced_tokens": 40_000}
    await page.evaluate(SHOW, ["overview", json.dumps(overview)])
    await expect(figures).to_contain_text("faster in the median (95% interval 6.1 to 8)")
    await expect(figures).to_contain_text("at least 30.0 s")
