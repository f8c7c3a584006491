"""Fixtures of tests with a real browser."""

import shutil
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest
import pytest_asyncio
from playwright.async_api import Browser, Page, async_playwright

PROGRAMS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
NewPage = Callable[..., Awaitable[Page]]


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def browser() -> AsyncIterator[Browser]:
    """The system's own Chromium."""
    program = next(filter(None, map(shutil.which, PROGRAMS)), None)
    if program is None:
        pytest.fail("No Chromium on the PATH. Install it with: python3 infra/setup.py --with chromium")
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
        yield browser
        await browser.close()


@pytest_asyncio.fixture(loop_scope="module")
async def new_page(browser: Browser) -> AsyncIterator[NewPage]:
    """Opens pages. At the end none of them may have reported an error.

    ``expected`` names parts of messages that belong to the test: browsers log every failed request.
    """
    complaints: list[str] = []
    contexts = []

    async def open_page(*, expected: tuple[str, ...] = (), **options: Any) -> Page:
        context = await browser.new_context(
            **{"viewport": {"width": 1360, "height": 900}, "reduced_motion": "reduce", **options}
        )
        contexts.append(context)
        page = await context.new_page()

        def complain(text: str) -> None:
            if not any(part in text for part in expected):
                complaints.append(text)

        page.on("pageerror", lambda error: complain(str(error)))
        page.on(
            "console",
            lambda message: complain(message.text) if message.type in ("error", "warning") else None,
        )
        return page

    yield open_page
    for context in contexts:
        await context.close()
    assert not complaints
