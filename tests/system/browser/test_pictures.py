"""The pictures of the tour, made of sample VMs; they go into docs/ with `make docs-screenshots`."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest
from playwright.sync_api import expect

from tests.support.pages import DOCS, ROOT
from tests.support.sample_vms import sample_vms
from tests.support.small_png import small_png

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.support.browser import Visit
    from tests.support.fake_web_api import FakeWebApi

    Opener = Callable[..., Visit]

pytestmark = pytest.mark.browser

MOST_BYTES = 300_000
SHOWN = ("www", "git", "mail", "wiki", "ci-runner", "backup", "database", "forum", "preview-4711", "photos")


def list_of_vms(visit: Visit) -> None:
    expect(visit.page.locator(visit.row("wiki"))).to_be_visible()


def list_on_a_phone(visit: Visit) -> None:
    visit.page.click(".chip[data-state=ready]")


def one_vm(visit: Visit) -> None:
    visit.go("/vms/git")
    expect(visit.page.get_by_role("region", name="Summons")).to_contain_text("first packet")


def services(visit: Visit) -> None:
    visit.go("/services")
    expect(visit.page.locator(".service")).to_have_count(8)


def review(visit: Visit) -> None:
    visit.go("/branches/longer-ttl?vm=wiki")
    expect(visit.page.locator("ins")).to_have_text("300")


PICTURES: dict[str, tuple[Callable[[Visit], None], int, int, str]] = {
    "web-list": (list_of_vms, 1180, 660, "light"),
    "web-vm": (one_vm, 1180, 1060, "light"),
    "web-review": (review, 900, 560, "light"),
    "web-services": (services, 1180, 590, "dark"),
    "web-phone": (list_on_a_phone, 360, 640, "dark"),
}


@pytest.fixture
def api(api: FakeWebApi) -> FakeWebApi:
    """The samples without those that only test the page."""
    api.vms = {vm["uuid"]: vm for vm in sample_vms() if vm["name"] in SHOWN}
    api.branches["longer-ttl"] = dict(api.branches["master"])
    wiki = api.named("wiki")["uuid"]
    api.branches["longer-ttl"][f"jitsu/vm/{wiki}/dns/wiki.example.org/ttl"] = "300"
    return api


def test_the_pictures_of_the_tour_can_be_made(opened: Opener, tmp_path: Path) -> None:
    wanted = os.environ.get("JITSU_SCREENSHOTS")
    folder = tmp_path if wanted is None else ROOT / wanted
    folder.mkdir(parents=True, exist_ok=True)
    for name, (prepare, width, height, theme) in PICTURES.items():
        visit = opened(width=width, theme=theme)
        visit.page.set_viewport_size({"width": width, "height": height})
        visit.sign_in()
        prepare(visit)
        visit.page.mouse.move(0, 0)
        visit.page.evaluate("document.activeElement.blur()")
        picture = visit.page.screenshot(animations="disabled")
        (folder / f"{name}.png").write_bytes(small_png(picture) if wanted else picture)
        assert len(picture) > 10_000, name


def test_the_pictures_are_there_and_small() -> None:
    there = {path.stem: path.stat().st_size for path in (DOCS / "pictures").glob("*.png")}
    assert there.keys() == PICTURES.keys(), "make docs-screenshots"
    assert sum(there.values()) < MOST_BYTES
