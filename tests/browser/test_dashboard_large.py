"""The dashboard of 256 replicas, with made-up data: no machine here can run as many."""

import json
from typing import Any

import pytest
from playwright.async_api import Page, Route, expect

from router.admin.page import HEADERS, PAGE, STATIC
from tests.browser.conftest import NewPage
from tests.browser.fleet_data import STEP, LargeFleet

pytestmark = [pytest.mark.integration, pytest.mark.timeout(120), pytest.mark.asyncio(loop_scope="module")]

REPLICAS = 256
UPDATES = 20
UPDATE_LIMIT_MS = 100
ORIGIN = "http://dashboard.invalid"
TYPES = {".html": "text/html", ".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}
OPEN_STREAM = """
const original = window.fetch;
const every = window.setInterval;
window.setInterval = (run, delay) => {
  if (delay === 10000) window.ask = run;
  return every(run, delay);
};
window.fetch = (url, options) => {
  if (!String(url).endsWith("/admin/stream")) return original(url, options);
  const encoder = new TextEncoder();
  const body = new ReadableStream({ start: (controller) => {
    window.send = (event, value) =>
      controller.enqueue(encoder.encode(`event: ${event}\\ndata: ${value}\\n\\n`));
  } });
  return Promise.resolve(new Response(body, { headers: { "Content-Type": "text/event-stream" } }));
};
"""
# Sends an event, or lets the page ask for a step of trends; waits until the frame that shows it is painted.
SHOW = """
async ([event, value]) => {
  const entries = () => performance.getEntriesByName(`warmroute:${event}`);
  const before = entries().length;
  const turn = () => new Promise((resolve) => {
    const channel = new MessageChannel();
    channel.port1.onmessage = resolve;
    channel.port2.postMessage(0);
  });
  if (event === "trends") window.ask();
  else window.send(event, value);
  while (entries().length === before) await turn();
  await new Promise(requestAnimationFrame);
  await turn();
}
"""


async def open_large(page: Page, fleet: LargeFleet) -> None:
    """Open the dashboard, whose every request the test answers."""
    answers: dict[str, Any] = {
        "trends": fleet.trends(),
        "requests": {"requests": fleet.requests()},
        "audit": {"entries": []},
        "prefixes": {"prefixes": []},
        "savings": {"hours": [], "total": {"requests": 0}, "ttft": []},
    }

    async def answer(route: Route) -> None:
        if "after=" in route.request.url:
            end = answers["trends"]["end"] = answers["trends"]["end"] + STEP
            answers["trends"]["steps"] = [fleet.step(end - STEP)]
        name = route.request.url.split("?")[0].removeprefix(ORIGIN).removeprefix("/admin").strip("/")
        if name in answers:
            await route.fulfill(json=answers[name])
        else:
            path = STATIC / (name.removeprefix("static/") or PAGE)
            await route.fulfill(
                body=path.read_bytes(), headers={**HEADERS, "Content-Type": TYPES[path.suffix]}
            )

    await page.route("**/*", answer)
    await page.add_init_script(OPEN_STREAM)
    await page.goto(f"{ORIGIN}/admin")
    await page.wait_for_function("() => Boolean(window.send)")
    await page.evaluate(SHOW, ["overview", json.dumps(fleet.overview())])


async def test_update_of_many_replicas_takes_less_than_a_tenth_of_a_second(new_page: NewPage) -> None:
    """With 256 replicas an overview, and a step of trends for charts and heat map, cost the page's thread
    less than 100 ms in the median from their arrival until they are painted, while the table is in view. (Its
    own CPU time: the machine is shared.)
    """
    page, fleet = await new_page(), LargeFleet(REPLICAS)
    await open_large(page, fleet)
    await page.locator("#replicas").scroll_into_view_if_needed()
    devtools = await page.context.new_cdp_session(page)
    await devtools.send("Performance.enable", {"timeDomain": "threadTicks"})

    async def thread_ms() -> float:
        metrics = (await devtools.send("Performance.getMetrics"))["metrics"]
        return 1000 * next(metric["value"] for metric in metrics if metric["name"] == "ThreadTime")

    for event in ("overview", "trends"):
        taken = []
        for _ in range(UPDATES):
            text, before = json.dumps(fleet.overview()), await thread_ms()
            await page.evaluate(SHOW, [event, text])
            taken.append(await thread_ms() - before)
        median = sorted(taken)[len(taken) // 2]
        print(f"{event}: median {median:.1f} ms, worst {max(taken):.1f} ms")  # noqa: T201
        assert 0 < median < UPDATE_LIMIT_MS, f"{event}: {taken}"


async def test_first_paint_takes_less_than_a_second(new_page: NewPage) -> None:
    """With 256 replicas, charts are there within a second of the page's own CPU time."""
    page = await new_page()
    devtools = await page.context.new_cdp_session(page)
    await devtools.send("Performance.enable", {"timeDomain": "threadTicks"})
    await open_large(page, LargeFleet(REPLICAS))
    await page.locator("#vitals path.curve").first.wait_for()
    metrics = (await devtools.send("Performance.getMetrics"))["metrics"]
    seconds = next(metric["value"] for metric in metrics if metric["name"] == "ThreadTime")
    print(f"first paint: {1000 * seconds:.0f} ms")  # noqa: T201
    assert seconds < 1


async def test_no_column_is_cut(new_page: NewPage) -> None:
    """All columns of all replicas fit the window; on a phone those that stay do, and names are there in the
    heat map."""
    for options in ({}, {"viewport": {"width": 360, "height": 740}}):
        page = await new_page(**options)
        await open_large(page, LargeFleet(REPLICAS))
        view = page.get_by_role("region", name="All replicas")
        assert await view.evaluate("view => view.scrollWidth - view.clientWidth") == 0, options
        assert await page.locator("#heat-map .names div").count() == REPLICAS
        await expect(page.locator("#heat-map .names div").first).to_be_visible()


async def test_many_replicas_are_a_table_that_sorts_filters_and_scrolls(new_page: NewPage) -> None:
    """Only rows in view exist; sorting by a column and the filter see all of them; a row opens its card."""
    page, fleet = await new_page(), LargeFleet(REPLICAS)
    await open_large(page, fleet)
    overview = fleet.overview()
    await page.evaluate(SHOW, ["overview", json.dumps(overview)])
    table = page.get_by_role("table", name="All replicas")
    rows = table.locator("tbody tr[data-replica]")
    assert await rows.count() < 40
    assert await table.get_attribute("aria-rowcount") == str(REPLICAS + 1)

    await table.get_by_role("button", name="KV use").click()
    fullest = max(overview["replicas"], key=lambda replica: replica["load"]["kv_usage"])
    assert await rows.first.get_attribute("data-replica") == fullest["replica"]
    await page.get_by_role("region", name="All replicas").evaluate("view => view.scrollTo(0, 1e6)")
    emptiest = min(overview["replicas"], key=lambda replica: replica["load"]["kv_usage"])
    await table.locator(f"tr[data-replica={emptiest['replica']}]").wait_for()

    await page.get_by_role("searchbox", name="Filter replicas").fill("replica-17")
    await expect(rows).to_have_count(10)
    await table.get_by_role("button", name="replica-173").click()
    card = page.get_by_role("dialog").get_by_role("article", name="Replica replica-173")
    assert await card.get_by_role("button", name="Drain").is_visible()
