"""Debian's Chromium, steered by Playwright, for the tests of the page. Playwright's own browsers are not downloaded."""

from __future__ import annotations

import asyncio
import os
import shutil
import threading
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from playwright.sync_api import expect, sync_playwright

if TYPE_CHECKING:
    from collections.abc import Iterator

    from playwright.sync_api import Browser, Page

    from tests.support.fake_web_api import FakeWebApi

WIDTHS = (360, 1024, 1920)
HEIGHTS = {360: 780, 1024: 800, 1920: 1000}
OPERATOR, VIEWER = "an-operators-token", "a-viewers-token"
PATIENCE_MS = 15_000
"""How long something may take to appear; on a busy machine that is seldom as fast as for a person."""
CHROMIUM = shutil.which("chromium") or "/usr/bin/chromium"


@contextmanager
def chromium() -> Iterator[Browser]:
    """Start a browser without windows."""
    arguments = ["--no-sandbox"] if os.geteuid() == 0 else []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=arguments)
        try:
            yield browser
        finally:
            browser.close()


@contextmanager
def served(api: FakeWebApi) -> Iterator[str]:
    """Serve a fake API on a thread of its own; yields the address of the page."""
    address: list[str] = []
    ready, over = threading.Event(), asyncio.Event()
    loops: list[asyncio.AbstractEventLoop] = []

    async def serve() -> None:
        loops.append(asyncio.get_running_loop())
        async with api.serving() as url:
            address.append(url)
            ready.set()
            await over.wait()

    thread = threading.Thread(target=lambda: asyncio.run(serve()))
    thread.start()
    assert ready.wait(20)
    try:
        yield address[0]
    finally:
        loops[0].call_soon_threadsafe(over.set)
        thread.join(20)


@dataclass
class Visit:
    """A page that somebody has open, and what went wrong in it."""

    page: Page
    url: str
    faults: list[str] = field(default_factory=list)
    """Exceptions, and what the browser refused because of the Content-Security-Policy."""
    clicks: int = 0

    def sign_in(self, token: str = OPERATOR) -> None:
        """Sign in, and wait for the list."""
        self.page.fill("#token", token)
        self.page.click("text=Sign in")
        self.page.wait_for_selector(".body > .row")

    def click(self, selector: str) -> None:
        """Click as a person does, and count it."""
        self.clicks += 1
        self.page.click(selector)

    def go(self, place: str) -> None:
        """Go to a page by its hash, and wait until its parts are read."""
        self.page.goto(f"{self.url}#{place}")
        self.settled(place)

    def settled(self, place: str = "") -> None:
        """Wait until this page is shown, and no part of it is being read any longer."""
        self.page.wait_for_selector(f'main[data-place="#{place}"] h1' if place else "main h1")
        expect(self.page.locator("[aria-busy=true]")).to_have_count(0)

    def row(self, name: str) -> str:
        """Return a selector for the row of a VM."""
        return f'.body > .row:has(a.name:text-is("{name}"))'

    def asked(self, api: FakeWebApi, count: int) -> list[tuple[str, str, dict[str, Any]]]:
        """Wait until so many changes were asked of the API, and return them."""
        for _ in range(PATIENCE_MS // 20):
            if len(api.asked) >= count:
                break
            self.page.wait_for_timeout(20)
        return api.asked


@contextmanager
def visit(browser: Browser, url: str, *, width: int = 1024, theme: Any = "light", **more: Any) -> Iterator[Visit]:
    """Open the page in a fresh profile; at the end nothing may have gone wrong in it."""
    size: Any = {"width": width, "height": HEIGHTS.get(width, 800)}
    context = browser.new_context(viewport=size, color_scheme=theme, reduced_motion="reduce", **more)
    context.set_default_timeout(PATIENCE_MS)
    page = context.new_page()
    opened = Visit(page, url)
    page.on("pageerror", lambda error: opened.faults.append(str(error)))
    page.on("console", lambda message: _note(opened, message.type, message.text))
    try:
        page.goto(url)
        page.wait_for_selector("#token, .body > .row")
        yield opened
        assert opened.faults == []
    finally:
        context.close()


def _note(opened: Visit, kind: str, text: str) -> None:
    """An answer that is not 2xx is an error to the console as well, but not to us."""
    if kind in ("error", "warning") and "Failed to load resource" not in text and "ERR_" not in text:
        opened.faults.append(text)
