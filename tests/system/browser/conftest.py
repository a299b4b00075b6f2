"""One browser for all tests of the page, and a visit to a page with a fake API behind it."""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.browser import chromium, served, visit
from tests.support.fake_web_api import FakeWebApi

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from playwright.sync_api import Browser

    from tests.support.browser import Visit

    Opener = Callable[..., Visit]


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    with chromium() as started:
        yield started


@pytest.fixture
def api() -> FakeWebApi:
    return FakeWebApi()


@pytest.fixture
def served_at(api: FakeWebApi) -> Iterator[str]:
    with served(api) as url:
        yield url


@pytest.fixture
def opened(browser: Browser, served_at: str) -> Iterator[Opener]:
    """Open the page; all that were opened are closed at the end, and nothing may have gone wrong in them."""
    with ExitStack() as stack:

        def open_page(**how: Any) -> Visit:
            return stack.enter_context(visit(browser, served_at, **how))

        yield open_page
