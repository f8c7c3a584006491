"""The dashboard in a real browser: phones, dark, a token, an empty fleet, and a router that goes away."""

import re
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
from playwright.async_api import Page, expect

from tests.browser.conftest import NewPage
from tests.browser.live import LiveSystem, live_system
from tests.integration.system import WARMROUTE, end, eventually, free_port

pytestmark = [pytest.mark.integration, pytest.mark.timeout(180), pytest.mark.asyncio(loop_scope="module")]

PHONE = {"width": 360, "height": 740}
TOKEN = "correct-horse-battery-staple"
# Every visible text with its contrast against what is behind it (WCAG 2), where that is less than 4.5:1.
FAINT_TEXTS = """
() => {
  const parse = (text) => (text.match(/[\\d.]+/g) ?? []).map(Number);
  const srgb = (colour) => {
    const canvas = new OffscreenCanvas(1, 1).getContext("2d");
    canvas.fillStyle = colour; canvas.fillRect(0, 0, 1, 1);
    return [...canvas.getImageData(0, 0, 1, 1).data];
  };
  const light = ([red, green, blue]) => [red, green, blue].map((value) => value / 255)
    .map((value) => (value <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4))
    .reduce((sum, value, at) => sum + value * [0.2126, 0.7152, 0.0722][at], 0);
  const behind = (element) => {
    for (let at = element; at; at = at.parentElement) {
      const colour = srgb(getComputedStyle(at).backgroundColor);
      if (colour[3] > 200) return colour;
    }
    return [255, 255, 255, 255];
  };
  const faint = [];
  for (const element of document.querySelectorAll("body *")) {
    const own = [...element.childNodes].some((node) => node.nodeType === 3 && node.data.trim());
    const shown = element.checkVisibility({ visibilityProperty: true });
    if (!own || !shown || element.closest(":disabled")) continue;
    const style = getComputedStyle(element);
    const text = light(srgb(element instanceof SVGElement ? style.fill : style.color));
    const back = light(behind(element));
    const ratio = (Math.max(text, back) + 0.05) / (Math.min(text, back) + 0.05);
    if (ratio < 4.5) faint.push(`${element.textContent.trim().slice(0, 30)}: ${ratio.toFixed(2)}`);
  }
  return faint;
}
"""


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def live(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> AsyncIterator[LiveSystem]:
    """Two replicas with some traffic."""
    async with live_system(tmp_path_factory.mktemp("states"), tiny_model, 2) as system:
        await system.talk(conversations=3, turns=2)
        yield system


async def opened(page: Page, router: str) -> Page:
    """Open a router's dashboard and wait for its first overview."""
    await page.goto(f"{router}/admin")
    await expect(page.locator("#status")).to_have_attribute("data-state", "live")
    return page


async def test_phone_needs_no_sideways_scrolling(live: LiveSystem, new_page: NewPage) -> None:
    """At 360 pixels the page is as wide as the screen; a request opens and closes by tapping."""
    page = await opened(await new_page(viewport=PHONE, has_touch=True, is_mobile=True), live.router)
    await expect(page.locator("#request-list tbody tr").first).to_be_visible()
    widths = "[document.documentElement.scrollWidth, document.body.scrollWidth]"
    assert await page.evaluate(widths) == [PHONE["width"]] * 2
    await page.locator("#request-list tbody tr a").first.tap()
    sheet = page.get_by_role("dialog")
    await expect(sheet).to_contain_text("Sent to")
    box = await sheet.bounding_box()
    assert box is not None
    assert box["width"] == PHONE["width"]
    assert await sheet.evaluate("sheet => sheet.scrollWidth") == PHONE["width"]
    await sheet.get_by_role("button", name="Close").tap()
    await expect(sheet).to_be_hidden()


@pytest.mark.parametrize("theme", ["light", "dark"])
async def test_all_text_can_be_read_in_both_themes(live: LiveSystem, new_page: NewPage, theme: str) -> None:
    """Without a choice the system's theme is taken, and every text has a contrast of 4.5:1 (WCAG AA)."""
    page = await opened(await new_page(color_scheme=theme), live.router)
    await expect(page.locator("#request-list tbody tr").first).to_be_visible()
    background = await page.evaluate("getComputedStyle(document.body).backgroundColor")
    brightness = sum(map(float, re.findall(r"[\d.]+", background)[:3])) / 3
    assert (brightness < 128) == (theme == "dark"), background
    assert await page.evaluate(FAINT_TEXTS) == []
    await page.locator("#request-list tbody tr a").first.click()
    await expect(page.get_by_role("dialog")).to_contain_text("Sent to")
    assert await page.evaluate(FAINT_TEXTS) == []


async def test_chosen_theme_is_remembered(live: LiveSystem, new_page: NewPage) -> None:
    """Dark stays dark after a reload, whatever the system says."""
    page = await opened(await new_page(color_scheme="light"), live.router)
    await page.get_by_role("radio", name="Dark").check()
    await page.reload()
    await expect(page.locator("html")).to_have_attribute("data-theme", "dark")
    assert await page.get_by_role("radio", name="Dark").is_checked()
    assert await page.evaluate("getComputedStyle(document.documentElement).colorScheme") == "dark"


async def test_every_control_is_reached_by_keyboard(live: LiveSystem, new_page: NewPage) -> None:
    """Tab goes through the whole page, every stop can be seen, and each has a name."""
    page = await opened(await new_page(), live.router)
    seen = []
    for _ in range(120):
        await page.keyboard.press("Tab")
        stop = await page.evaluate(
            """() => {
                const element = document.activeElement;
                if (element === document.body) return null;
                const marked = element.matches("input[type=radio]") ? element.nextElementSibling : element;
                const style = getComputedStyle(marked);
                const name = element.ariaLabel || element.textContent.trim() || element.title ||
                  element.labels?.[0]?.textContent || element.closest("label")?.textContent;
                return [element.tagName, name, style.outlineStyle !== "none" || element.className === "skip"];
            }"""
        )
        if stop is None:
            break
        seen.append(stop)
    assert all(name and outlined for _, name, outlined in seen), seen
    names = {name for _, name, _ in seen}
    assert {"Drain", "Reset ownership", "Hit rates over time", "Latest requests"} <= names


async def test_token_is_asked_for(live: LiveSystem, new_page: NewPage) -> None:
    """A router with a token shows nothing before it is given; a wrong one is said to be wrong."""
    router = await live.start_guarded_router(TOKEN)
    page = await new_page(expected=("401",))
    await page.goto(f"{router}/admin")
    field = page.get_by_label("Admin token")
    await expect(field).to_be_visible()
    await expect(page.locator("main")).to_be_hidden()
    await field.fill("wrong")
    await page.keyboard.press("Enter")
    await expect(page.get_by_text("This token is wrong.")).to_be_visible()
    await field.fill(TOKEN)
    await page.keyboard.press("Enter")
    await expect(page.locator("#status")).to_have_attribute("data-state", "live")
    await expect(page.get_by_role("article", name=re.compile("^Replica "))).to_have_count(2)
    await page.reload()
    await expect(page.locator("#status")).to_have_attribute("data-state", "live")
    assert TOKEN not in await page.content()


async def test_lost_router_is_said_and_found_again(live: LiveSystem, new_page: NewPage) -> None:
    """While the router is gone the page says that it reconnects and marks what it shows as old; when the
    router is back, so is the page.
    """
    port = free_port()
    router = f"http://127.0.0.1:{port}"
    command = [*WARMROUTE, "router", "--redis-url", live.redis.url, "--port", str(port)]
    process = live.start("lost", command)
    await eventually(lambda: live.answers(f"{router}/readyz"), 60, "router ready")
    page = await opened(await new_page(expected=("ERR_",)), router)
    end(process)
    await expect(page.locator("#status")).to_contain_text("reconnecting")
    await expect(page.locator("main")).to_have_attribute("data-stale", "")
    await expect(page.locator("#notices")).to_contain_text("Connection lost")
    live.start("lost", command)
    await eventually(lambda: live.answers(f"{router}/readyz"), 60, "router ready again")
    await expect(page.locator("#status")).to_have_attribute("data-state", "live", timeout=25_000)
    await expect(page.locator("main")).not_to_have_attribute("data-stale", "")


async def test_empty_fleet_says_what_to_do(tmp_path: Path, tiny_model: Path, new_page: NewPage) -> None:
    """Without replicas and without traffic the page is whole, and every panel says why it is empty."""
    async with live_system(tmp_path, tiny_model, 0) as system:
        page = await opened(await new_page(), system.router)
        for words in (
            "No replica has registered yet.",
            "No replicas yet.",
            "No requests yet.",
            "No prefix is shared",
            "Nothing saved yet.",
            "Nothing has been changed yet.",
        ):
            await expect(page.get_by_text(words)).to_be_visible()
