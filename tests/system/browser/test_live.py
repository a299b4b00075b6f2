"""What the page does with events: it changes one row, it says when the connection is lost, and goes on where it was."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import pytest
from playwright.sync_api import expect

from tests.support.browser import served, visit
from tests.support.fake_web_api import FakeWebApi
from tests.support.sample_vms import many_vms, sample_vm

if TYPE_CHECKING:
    from collections.abc import Callable

    from playwright.sync_api import Browser

    from tests.support.browser import Visit

    Opener = Callable[..., Visit]

pytestmark = pytest.mark.browser

MANY = 2000
COUNT_CHANGED_ROWS = """() => {
  window.changedRows = new Set();
  new MutationObserver((records) => {
    for (const record of records) {
      const row = (record.target.nodeType === 1 ? record.target : record.target.parentElement).closest(".body > .row");
      if (row && !record.target.closest?.(".what")) window.changedRows.add(row.querySelector(".name").textContent);
    }
  }).observe(document.querySelector(".body"), {subtree: true, childList: true, characterData: true, attributes: true});
}"""


def test_an_event_changes_its_row_and_no_other(opened: Opener, api: FakeWebApi) -> None:
    page = opened()
    page.sign_in()
    page.page.evaluate(COUNT_CHANGED_ROWS)
    api.change("wiki", state="ready")
    page.page.fill("#filter", "")  # so that wiki may be out of sight or not: only its own row may change
    api.change("ci-runner", state="ready", waits_for="")
    expect(page.page.locator(page.row("ci-runner"))).to_contain_text("ready")
    assert set(page.page.evaluate("[...window.changedRows]")) <= {"wiki", "ci-runner"}


def test_a_new_vm_appears_and_one_that_is_gone_disappears(opened: Opener, api: FakeWebApi) -> None:
    page = opened()
    page.sign_in()
    new = sample_vm("aaa", "ready")
    api.vms[new["uuid"]] = new
    api.emit("vm", new)
    expect(page.page.locator(".body .name").first).to_have_text("a-name-that-is-rather-long-for-a-virtual-machine")
    expect(page.page.locator(page.row("aaa"))).to_be_visible()
    del api.vms[new["uuid"]]
    api.emit("gone", {"uuid": new["uuid"], "name": "aaa"})
    expect(page.page.locator(page.row("aaa"))).to_have_count(0)
    expect(page.page.locator(".summary")).to_have_text("16 VMs")


def test_a_lost_connection_is_said_and_nothing_is_missed_when_it_is_back(opened: Opener, api: FakeWebApi) -> None:
    page = opened()
    page.sign_in()
    api.change("wiki", state="ready")
    expect(page.page.locator("#polite")).to_have_text("wiki is ready")
    api.break_connections(is_down=True)
    expect(page.page.locator(".connection")).to_contain_text("connection lost, again in")
    expect(page.page.get_by_text("What you see may be out of date.", exact=True)).to_be_visible()
    api.change("forum", state="starting")  # while nobody listens
    api.is_down = False
    page.page.get_by_role("button", name="Try now").click()
    expect(page.page.locator(".connection")).to_have_text("live")
    expect(page.page.get_by_text("What you see may be out of date.", exact=True)).to_be_hidden()
    expect(page.page.locator(page.row("forum"))).to_contain_text("starting")
    assert api.last_ids[0] == ""
    assert api.last_ids[-1] == "e-1"


def test_after_a_reset_everything_is_read_again(opened: Opener, api: FakeWebApi) -> None:
    page = opened()
    page.sign_in()
    api.named("forum")["state"] = "ready"  # without an event
    del api.vms[api.named("git")["uuid"]]
    api.emit("reset", {})
    expect(page.page.locator(page.row("forum"))).to_contain_text("ready")
    expect(page.page.locator(page.row("git"))).to_have_count(0)


def test_a_session_that_has_ended_leads_to_the_sign_in(opened: Opener, api: FakeWebApi) -> None:
    page = opened()
    page.sign_in()
    api.forget_sessions()
    expect(page.page.get_by_text("Your session has ended.")).to_be_visible()
    page.sign_in()
    expect(page.page.locator(".connection")).to_have_text("live")


def test_a_vms_page_follows_what_happens_to_it(opened: Opener, api: FakeWebApi) -> None:
    page = opened()
    page.sign_in()
    page.go("/vms/wiki")
    api.change("wiki", state="ready", idle={"stops_at": time.time() + 600, "reason": ""})
    expect(page.page.locator(".top .badge")).to_have_text("ready")
    expect(page.page.locator(".now.big")).to_contain_text("Stops in 10 min unless used")
    api.emit("gone", {"uuid": api.named("wiki")["uuid"], "name": "wiki"})
    expect(page.page.get_by_text("This VM is no longer configured.")).to_be_visible()
    expect(page.page.get_by_role("button", name="Stop")).to_be_disabled()


@pytest.fixture(scope="module")
def crowd() -> FakeWebApi:
    return FakeWebApi(many_vms(MANY))


def test_two_thousand_vms_are_few_elements_and_all_of_them_are_found(browser: Browser, crowd: FakeWebApi) -> None:
    with served(crowd) as url, visit(browser, url) as page:
        page.sign_in()
        expect(page.page.locator(".summary")).to_have_text("2,000 VMs")
        assert page.page.locator(".body > .row").count() < 50
        page.page.keyboard.press("End")
        expect(page.page.locator(page.row("vm-1999"))).to_be_visible()
        page.page.fill("#filter", "vm-1234")
        expect(page.page.locator(".body .name")).to_have_text(["vm-1234"])
        page.page.fill("#filter", "")
        for _ in range(30):
            page.page.keyboard.press("ArrowDown")
        assert page.page.evaluate("document.activeElement.textContent") == "vm-0029"
        assert page.page.locator("[aria-rowcount='2001']").count() == 1


def test_fifty_changes_a_second_reach_their_rows_and_the_page_stays_usable(browser: Browser, crowd: FakeWebApi) -> None:
    with served(crowd) as url, visit(browser, url) as page:
        page.sign_in()
        expect(page.page.locator(".summary")).to_have_text("2,000 VMs")
        for at in range(150):
            crowd.change(f"vm-{at:04d}", state="booting" if at % 2 else "ready")
            page.page.wait_for_timeout(10)
        page.page.fill("#filter", "vm-0149")
        expect(page.page.locator(page.row("vm-0149"))).to_contain_text("booting")
