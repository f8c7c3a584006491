"""The dashboard of a real system in a real browser: what it shows is true, its buttons do what they say."""

import asyncio
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from playwright.async_api import Locator, Page, expect

from router.explain.misses import Reason
from tests.browser.conftest import NewPage
from tests.browser.live import SECRET_WORD, LiveSystem, live_system, percent
from tests.integration.system import eventually

pytestmark = [pytest.mark.integration, pytest.mark.timeout(180), pytest.mark.asyncio(loop_scope="module")]

REPLICAS = 3
ASKED = {"model": "no-such-model", "messages": [{"role": "user", "content": "hi"}]}
SOON_MS = 5_000
"""Overviews come every second; the rest of what is checked here comes with them."""


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def live(tmp_path_factory: pytest.TempPathFactory, tiny_model: Path) -> AsyncIterator[LiveSystem]:
    """Three replicas that have answered conversations of three turns."""
    async with live_system(tmp_path_factory.mktemp("live"), tiny_model, REPLICAS) as system:
        await system.talk(conversations=6, turns=3)
        yield system


@pytest_asyncio.fixture(loop_scope="module")
async def page(live: LiveSystem, new_page: NewPage) -> Page:
    """The dashboard, open and live."""
    return await opened(live, await new_page())


async def opened(live: LiveSystem, page: Page, address: str = "") -> Page:
    """Open the dashboard and wait for its first overview."""
    await page.goto(f"{live.router}/admin{address}")
    await expect(page.locator("#status")).to_have_attribute("data-state", "live")
    return page


def card(page: Page, replica: str) -> Locator:
    """A replica's card."""
    return page.get_by_role("article", name=f"Replica {replica}")


def figure(place: Locator, label: str) -> Locator:
    """The value beside a label."""
    return place.locator("div", has=place.page.locator(f"dt:text-is('{label}')")).locator("dd").last


async def confirm(page: Page, button: str) -> None:
    """Agree in the dialog that asks."""
    dialog = page.get_by_role("dialog")
    await dialog.get_by_role("button", name=button, exact=True).click()
    await expect(dialog).to_be_hidden()


async def test_cards_show_what_the_engines_count(live: LiveSystem, page: Page) -> None:
    """A card's delivered hit rate is the engine's own hits over queries, and the fleet's is that of all."""
    by_url = {replica["url"]: replica["replica"] for replica in (await live.admin("overview"))["replicas"]}
    all_queries = all_hits = 0.0
    for engine in live.engines:
        queries, hits = await live.engine_counters(engine)
        all_queries, all_hits = all_queries + queries, all_hits + hits
        if queries:
            shown = figure(card(page, by_url[engine]), "Delivered")
            await expect(shown).to_have_text(percent(hits / queries), timeout=SOON_MS)
    assert all_hits > 0
    delivered = page.locator(".rate.delivered")
    await expect(delivered.locator(".big")).to_have_text(percent(all_hits / all_queries), timeout=SOON_MS)


async def test_fleet_shows_three_rates_and_savings(live: LiveSystem, page: Page) -> None:
    """Available, predicted and delivered, and what was saved, are those of the admin API."""
    fleet = (await live.admin("overview"))["fleet"]
    for name in ("available", "predicted", "delivered"):
        shown = page.locator(f".rate.{name} .big")
        await expect(shown).to_have_text(percent(fleet["recent"][name]), timeout=SOON_MS)
    saved = figure(page.locator("#figures"), "Tokens saved, 1 h")
    assert fleet["hour"]["saved_tokens"] > 0
    await expect(saved).to_have_text(compact(fleet["hour"]["saved_tokens"]), timeout=SOON_MS)
    assert (await page.locator("#fleet-line").inner_text()).startswith(
        f"{REPLICAS} of {REPLICAS} replicas ready"
    )


async def test_miss_reasons_show_their_tokens(live: LiveSystem, page: Page) -> None:
    """Every reason stands there with its tokens, and they add up to all that was computed again."""
    hour = (await live.admin("overview"))["fleet"]["hour"]
    computed = hour["prompt_tokens"] - hour["delivered_tokens"]
    assert sum(hour["misses"].values()) == computed > 0
    reasons = page.get_by_role("list", name="Reasons, last hour").get_by_role("listitem")
    await expect(reasons).to_have_count(len(Reason))
    labels = {"cold": "Never seen", "tail": "Tail block", "diverged": "Diverged"}
    for name, label in labels.items():
        row = reasons.filter(has=page.get_by_role("heading", name=label, exact=True))
        await expect(row).to_contain_text(f"{compact(hour['misses'][name])} tokens", timeout=SOON_MS)
        await expect(row).to_contain_text(percent(hour["misses"][name] / computed))


async def test_requests_appear_while_the_page_is_open(live: LiveSystem, page: Page) -> None:
    """A request that ends is in the list moments later, without a reload, and so is its replica's load."""
    request_id, replica = await live.turn("news")
    row = page.locator(f"tr[data-request='{request_id}']")
    await expect(row).to_be_visible(timeout=SOON_MS)
    await expect(row).to_contain_text(replica)


async def test_request_is_explained(live: LiveSystem, page: Page) -> None:
    """A click on a request shows where it went, what each candidate held, and why tokens were computed again;
    its address and the search lead to the same.
    """
    await live.turn("explain me", 1)
    request_id, replica = await live.turn("explain me", 2)
    told = await live.admin(f"requests/{request_id}")
    await page.locator(f"tr[data-request='{request_id}'] a").click(timeout=SOON_MS)
    sheet = page.get_by_role("dialog")
    await expect(sheet).to_contain_text(f"Sent to {replica}")
    await expect(sheet).to_contain_text(
        f"{told['delivered_tokens']:,} of {told['prompt_tokens']:,} prompt tokens"
    )
    rows = sheet.get_by_role("table").locator("tbody tr")
    await expect(rows).to_have_count(REPLICAS)
    for row, candidate in zip(await rows.all(), told["candidates"], strict=True):
        await expect(row).to_contain_text(candidate["replica"])
        await expect(row).to_contain_text(compact(candidate["cached_tokens"]))
        assert ("chosen" in await row.inner_text()) == candidate["chosen"]
    for reason, tokens in told["misses"].items():
        if tokens:
            await expect(sheet.locator(f".legend li:has(.key.{reason})")).to_contain_text(f"{tokens:,}")
    assert page.url.endswith(f"#request/{request_id}")

    await page.keyboard.press("Escape")
    await expect(sheet).to_be_hidden()
    await page.get_by_role("searchbox", name="Request id or filter").fill(request_id)
    await page.keyboard.press("Enter")
    await expect(sheet).to_contain_text(f"Sent to {replica}")
    await page.reload()
    await expect(sheet).to_contain_text(f"Sent to {replica}")


async def test_divergence_is_said_in_words(live: LiveSystem, page: Page) -> None:
    """A conversation whose system prompt has another date says so, and from which token on."""
    rules = "Be kind. " * 40
    await live.turn("plans", 2, system=f"{rules} Today is 2026-11-21. {rules}")
    request_id, _ = await live.turn("plans", 3, system=f"{rules} Today is 2026-11-22. {rules}")
    divergence = (await live.admin(f"requests/{request_id}"))["divergence"]
    assert divergence["token"] > 0
    await page.goto(f"{live.router}/admin#request/{request_id}")
    await expect(page.get_by_role("dialog").locator(".callout")).to_have_text(
        f"Message 1 (system) differs from token {divergence['token']:,} on: a date changed."
    )


async def test_replica_is_drained_by_click(live: LiveSystem, page: Page) -> None:
    """Drain, confirmed, keeps new requests away from a replica until it is undrained; both are audited."""
    _, replica = await live.turn("drain me")
    await card(page, replica).get_by_role("button", name="Drain").click()
    await confirm(page, "Drain")
    await expect(card(page, replica).locator(".badge")).to_have_text("draining", timeout=SOON_MS)
    served = {(await live.turn("drain me", length))[1] for length in range(2, 6)}
    assert replica not in served
    await expect(page.locator("#audit-list tbody tr").first).to_contain_text(replica, timeout=SOON_MS)

    await card(page, replica).get_by_role("button", name="Undrain").click()
    await confirm(page, "Undrain")
    await expect(card(page, replica).locator(".badge")).to_have_text("ready", timeout=SOON_MS)


async def test_ownership_is_reset_by_click(live: LiveSystem, page: Page) -> None:
    """Reset, confirmed, makes routers read again what a replica holds; then it is the same as before."""
    replicas = (await live.admin("overview"))["replicas"]
    fullest = max(replicas, key=lambda replica: replica["owned_blocks"])
    await card(page, fullest["replica"]).get_by_role("button", name="Reset ownership").click()
    await expect(page.get_by_role("dialog")).to_contain_text("All routers forget")
    await confirm(page, "Reset")
    latest = page.locator("#audit-list tbody tr").first
    await expect(latest).to_contain_text("reset", timeout=SOON_MS)
    await expect(latest).to_contain_text(fullest["replica"])

    async def read_again() -> bool:
        now = {each["replica"]: each for each in (await live.admin("overview"))["replicas"]}
        return bool(now[fullest["replica"]]["owned_blocks"] == fullest["owned_blocks"])

    await eventually(read_again, 10, "the router has read the replica's blocks again")


async def test_policy_is_switched(live: LiveSystem, page: Page) -> None:
    """The choice at the top is asked about, then holds; saying no leaves everything as it was."""
    select = page.get_by_label("Policy")
    await select.select_option("round-robin")
    await page.get_by_role("dialog").get_by_role("button", name="Cancel").click()
    await expect(select).to_have_value("warm")
    await select.select_option("round-robin")
    await confirm(page, "Switch policy")
    assert (await live.admin("policy"))["policy"] == "round-robin"
    await select.select_option("warm")
    await confirm(page, "Switch policy")
    await expect(select).to_have_value("warm", timeout=SOON_MS)


async def test_prefixes_are_listed_without_their_text(live: LiveSystem, page: Page) -> None:
    """What many prompts begin with is there by key, length and holders; no prompt's text is on the page."""
    for number in range(8):
        await live.turn(f"shared {'we all know this ' * 40} but not {number}")

    async def listed() -> bool:
        return bool((await live.admin("prefixes"))["prefixes"])

    await eventually(listed, 20, "a shared prefix")
    await opened(live, page)
    for prefix in (await live.admin("prefixes"))["prefixes"][:3]:
        row = page.locator(f"#prefix-list tr[data-key='{prefix['key']}']")
        await expect(row).to_contain_text(compact(prefix["tokens"]))
        await expect(row).to_contain_text(percent(prefix["share"]))
    assert SECRET_WORD not in await page.content()


async def test_savings_charts_and_heat_map_are_drawn(live: LiveSystem, page: Page) -> None:
    """Savings are the API's sums; charts have something in them, and read out values by keyboard."""

    async def kept() -> bool:
        return bool((await live.admin("savings"))["total"]["saved_tokens"])

    await eventually(kept, 40, "savings")
    await opened(live, page)
    total = (await live.admin("savings"))["total"]
    await expect(page.locator("#savings-chart h3")).to_contain_text(
        f"{compact(total['saved_tokens'])} tokens"
    )
    chart = page.get_by_role("slider", name="Hit rates over time")
    curve = page.locator("#vitals path.curve.delivered")
    await expect(curve).to_have_attribute("d", re.compile(r"^M\d"), timeout=30_000)
    await chart.focus()
    await page.keyboard.press("End")
    assert re.search(
        r"Delivered .+, Predicted .+, Available", await chart.get_attribute("aria-valuetext") or ""
    )
    heat = page.get_by_role("slider", name=re.compile("Delivered hit rate of each replica"))
    await heat.focus()
    await page.keyboard.press("ArrowLeft")
    await expect(heat).to_have_attribute("aria-valuetext", re.compile("Prompt tokens"))


async def test_charts_add_up_to_what_was_asked(live: LiveSystem, page: Page) -> None:
    """Requests by status, over all steps, are those that clients sent; a filter leaves its own."""
    await opened(live, page, "?range=300")
    table = page.locator(".vital", has_text="Errors by status")
    async with live.session.post(f"{live.router}/v1/chat/completions", json=ASKED) as response:
        assert response.status == 404
    await expect(table.locator(".figure")).to_contain_text("1 error", timeout=40_000)
    await expect(table).to_contain_text("HTTP 404")
    await page.get_by_label("Filter by model").select_option("tiny")
    await expect(table.locator(".figure")).to_have_text("0 errors", timeout=SOON_MS)
    assert "model=tiny" in page.url
    await page.get_by_role("button", name="Clear filters").click()
    await expect(table.locator(".figure")).to_contain_text("1 error", timeout=SOON_MS)


async def test_refused_requests_show_the_name_that_was_asked_for(live: LiveSystem, page: Page) -> None:
    """And the reason; found by filtering for what was refused."""
    async with live.session.post(f"{live.router}/v1/chat/completions", json=ASKED) as response:
        assert response.status == 404
    await page.get_by_label("Filter by outcome").select_option("refused")
    row = page.locator("#request-list tbody tr").first
    await expect(row).to_contain_text("“no-such-model”", timeout=SOON_MS)
    await expect(row).to_contain_text("refused 404")
    assert "outcome=refused" in page.url


async def test_a_point_of_a_chart_leads_to_its_requests(live: LiveSystem, page: Page) -> None:
    """Those that ended in its seconds, and no others; a reload shows the same."""
    await live.turn("behind a point")
    chart = page.get_by_role("slider", name="Requests per second")
    await page.get_by_label("5 min", exact=True).check()
    steps: list[dict[str, Any]] = []

    async def a_step_has_ended() -> bool:
        steps[:] = (await live.admin("trends?seconds=300"))["steps"]
        return bool(steps)

    await eventually(a_step_has_ended, 15, "a step of 10 s has ended")
    begin = steps[-1]["time"]
    await page.goto(f"{live.router}/admin?range=300")
    await expect(page.locator("#vitals path.seg.ok")).to_have_attribute("d", re.compile("v"), timeout=SOON_MS)
    await chart.focus()
    await page.keyboard.press("End")
    for _ in range(30):
        if "Answered" in (await chart.get_attribute("aria-valuetext") or ""):
            break
        await page.keyboard.press("ArrowLeft")
    await page.keyboard.press("Enter")
    await expect(page.get_by_role("button", name=re.compile("^ended "))).to_be_visible()
    found = int(page.url.split("from=")[1].split("&")[0].split("#")[0])
    assert found >= begin or any(step["time"] == found for step in steps)
    [step] = [step for step in (await live.admin("trends?seconds=300"))["steps"] if step["time"] == found]
    rows = page.locator("#request-list tbody tr")
    await expect(rows).to_have_count(step["sums"]["200"], timeout=SOON_MS)
    await page.reload()
    await expect(rows).to_have_count(step["sums"]["200"], timeout=SOON_MS)


async def test_charts_are_saved(live: LiveSystem, page: Page) -> None:
    """As numbers with their times in UTC, and as a picture."""
    async with page.expect_download() as download:
        await page.get_by_role("button", name="Save as CSV: Hit rates over time").click()
    lines = (await saved(download)).decode().splitlines()
    assert lines[0] == "Time,Delivered,Predicted,Available,Requests"
    assert re.match(r"20\d\d-\d\d-\d\dT\d\d:\d\d:\d0\.000Z,", lines[-1])
    async with page.expect_download() as download:
        await page.get_by_role("button", name="Save as PNG: Hit rates over time").click()
    assert (await saved(download)).startswith(b"\x89PNG")


async def test_paused_page_stays_as_it_is(live: LiveSystem, page: Page) -> None:
    """Also after a reload: nothing new comes in until it is resumed."""
    await page.get_by_role("button", name="Pause").click()
    await expect(page.locator("#status")).to_contain_text("paused", timeout=SOON_MS)
    request_id, _ = await live.turn("while paused")
    await page.wait_for_timeout(2_500)
    assert await page.locator(f"tr[data-request='{request_id}']").count() == 0
    await page.get_by_role("button", name="Resume").click()
    request_id, _ = await live.turn("after the pause")
    await expect(page.locator(f"tr[data-request='{request_id}']")).to_be_visible(timeout=SOON_MS)


async def test_router_and_its_bookings_are_listed(live: LiveSystem, page: Page) -> None:
    """The router that answers is marked; an idle one has booked nothing."""
    overview = await live.admin("overview")
    rows = page.locator("#router-list tbody tr")
    await expect(rows).to_have_count(len(overview["routers"]))
    own = page.locator(f"tr[data-router='{overview['router']}']")
    await expect(own).to_contain_text("answers this page")


async def saved(download: Any) -> bytes:
    """What the page has saved."""
    path = await (await download.value).path()
    return await asyncio.to_thread(path.read_bytes)


def compact(number: float) -> str:
    """A count as the page writes it."""
    if number < 10_000:
        return f"{number:,.0f}"
    for size, letter in ((1e9, "B"), (1e6, "M"), (1e3, "K")):
        if number >= size:
            return f"{number / size:.3g}{letter}"
    raise AssertionError(number)
