"""The page for everybody: no violations that axe finds, everything by keyboard, and what a screen reader is told."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import expect

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.support.browser import Visit
    from tests.support.fake_web_api import FakeWebApi

    Opener = Callable[..., Visit]

pytestmark = pytest.mark.browser

PLACES = ("/vms", "/vms/git", "/vms/mail", "/services", "/branches", "/branches/longer-ttl?vm=wiki")
BEST = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]


def violations(visit: Visit) -> list[str]:
    found = Axe().run(visit.page, options={"runOnly": BEST})
    return [f"{each['id']}: {each['nodes'][0]['html'][:150]}" for each in found.response["violations"]]


@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 1920])
def test_axe_finds_no_violation(opened: Opener, api: FakeWebApi, theme: str, width: int) -> None:
    api.branches["longer-ttl"] = {
        path: "300" if path.endswith("ttl") else value for path, value in api.branches["master"].items()
    }
    visit = opened(theme=theme, width=width, bypass_csp=True)  # axe is put into the page as a script
    assert violations(visit) == []
    visit.sign_in()
    for place in PLACES:
        visit.go(place)
        for each in visit.page.locator("details").all()[:4]:
            each.evaluate("element => { element.open = true; }")
        assert violations(visit) == [], place
    visit.go("/vms")
    visit.page.keyboard.press("?")
    expect(visit.page.get_by_role("dialog")).to_be_visible()
    assert violations(visit) == [], "the help"
    visit.page.keyboard.press("Escape")
    api.break_connections(is_down=True)
    expect(visit.page.get_by_role("button", name="Try now")).to_be_visible()
    assert violations(visit) == [], "without a connection"


def focused(visit: Visit) -> str:
    return str(
        visit.page.evaluate("document.activeElement.getAttribute('aria-label') || document.activeElement.innerText")
    )


def test_everything_is_reached_with_the_tab_key_in_the_order_of_the_page(opened: Opener) -> None:
    visit = opened(width=1024)
    visit.sign_in()
    visit.page.reload()
    visit.page.wait_for_selector(".body > .row")
    order = []
    for _ in range(16):
        visit.page.keyboard.press("Tab")
        order.append(focused(visit).split("\n")[0])
    assert order[:5] == ["Skip to the content", "Jitsu", "VMs", "Services", "Branches"]
    assert order[5].startswith("Colours: as the system")
    assert order[6:9] == ["Help and keys", "Sign out", "Filter VMs"]
    assert order[9].startswith("failed")


def test_the_skip_link_leads_to_the_content(opened: Opener) -> None:
    visit = opened()
    visit.sign_in()
    visit.page.reload()
    visit.page.wait_for_selector(".body > .row")
    visit.page.keyboard.press("Tab")
    visit.page.keyboard.press("Enter")
    assert visit.page.evaluate("document.activeElement.id") == "main"
    assert "#/" in visit.page.url or visit.page.url.endswith("/")


def test_vms_are_steered_by_keys_alone(opened: Opener, api: FakeWebApi) -> None:
    visit = opened()
    visit.page.keyboard.type("an-operators-token")
    visit.page.keyboard.press("Enter")
    visit.page.wait_for_selector(".body > .row")
    keys = visit.page.keyboard
    keys.press("/")
    keys.type("forum")
    keys.press("Enter")
    assert focused(visit) == "forum"
    keys.press("s")
    expect(visit.page.locator(visit.row("forum"))).to_contain_text("starting")
    keys.press("/")
    keys.press("Escape")
    keys.press("ArrowDown")
    keys.press("j")
    keys.press("j")
    assert focused(visit) == "ci-runner"
    keys.press("k")
    keys.press("ArrowUp")
    assert focused(visit).startswith("a-name")
    keys.press("/")
    keys.type("git")
    keys.press("Enter")
    keys.press("x")
    expect(visit.page.get_by_role("dialog")).to_be_visible()
    assert focused(visit) == "Stop it"
    keys.press("Escape")
    assert focused(visit) == "git", "the focus comes back"
    keys.press("u")
    assert focused(visit) == "1 hour"
    keys.press("Enter")
    assert [each[:2] for each in visit.asked(api, 2)] == [("POST", "/vms/forum/start"), ("POST", "/vms/git/keep")]
    keys.press("Enter")
    visit.page.wait_for_selector("text=Why it booted")
    keys.press("g")
    keys.press("s")
    expect(visit.page.get_by_role("heading", level=1)).to_have_text("Services")
    keys.press("g")
    keys.press("b")
    expect(visit.page.get_by_role("heading", level=1)).to_have_text("Branches")


def test_a_value_is_changed_and_merged_by_keys_alone(opened: Opener, api: FakeWebApi) -> None:
    visit = opened()
    visit.sign_in()
    visit.go("/vms/wiki")
    keys = visit.page.keyboard

    def tab_to(label: str) -> None:
        for _ in range(60):
            if focused(visit) == label:
                return
            keys.press("Tab")
        raise AssertionError(f"{label} is not reached; the focus is on {focused(visit)}")

    tab_to("Change")
    keys.press("Enter")
    keys.press("Enter")
    visit.page.wait_for_selector("text=How wiki-change differs from master")
    visit.settled()
    tab_to("Edit dns/wiki.example.org/ttl")
    keys.press("Enter")
    keys.type("300")
    keys.press("Enter")
    expect(visit.page.locator("ins")).to_have_text("300")
    assert focused(visit) == "Edit dns/wiki.example.org/ttl"
    visit.page.locator("h1").evaluate("element => element.parentElement.parentElement.focus()")
    tab_to("Merge into master")
    keys.press("Enter")
    expect(visit.page.get_by_role("dialog").locator("ins")).to_have_text("300")
    keys.press("Enter")
    expect(visit.page.get_by_text("Nothing differs.")).to_be_visible()
    assert "300" in api.branches["master"].values()


def test_letters_are_no_keys_while_somebody_types_or_has_switched_them_off(opened: Opener) -> None:
    visit = opened()
    visit.sign_in()
    visit.page.fill("#filter", "")
    visit.page.type("#filter", "t?gs")
    assert visit.page.input_value("#filter") == "t?gs"
    expect(visit.page.get_by_role("dialog")).to_have_count(0)
    visit.page.fill("#filter", "")
    visit.page.locator("#main").focus()
    visit.page.keyboard.press("?")
    visit.page.get_by_label("Letters are keys").uncheck()
    visit.page.keyboard.press("Escape")
    visit.page.keyboard.press("?")
    expect(visit.page.get_by_role("dialog")).to_have_count(0)
    visit.page.get_by_role("button", name="Help and keys").click()
    visit.page.get_by_label("Letters are keys").check()


def test_a_screen_reader_is_told_of_what_matters(opened: Opener, api: FakeWebApi) -> None:
    visit = opened()
    visit.sign_in()
    polite = visit.page.locator("#polite")
    api.change("wiki", state="ready")
    expect(polite).to_have_text("wiki is ready")
    api.change("photos", state="stopping")
    api.change("photos", state="off")
    expect(polite).to_have_text("photos is off")
    api.change("forum", state="failed", last_error="no memory is left")
    expect(polite).to_have_text("forum has failed: no memory is left")
    table = visit.page.get_by_role("table", name="VMs")
    expect(table).to_have_attribute("aria-rowcount", "17")
    assert table.get_by_role("row").nth(1).get_attribute("aria-rowindex") == "2"
    assert [each.inner_text().split("\n")[0] for each in table.get_by_role("columnheader").all()] == [
        "State", "Name", "Address", "Last day", "Now", "Saved", "Actions",
    ]  # fmt: skip


def test_after_going_to_a_page_the_focus_is_on_its_content_and_its_title_is_set(opened: Opener) -> None:
    visit = opened()
    visit.sign_in()
    visit.page.click(".name:text-is('git')")
    expect(visit.page).to_have_title("git · Jitsu")
    assert visit.page.evaluate("document.activeElement.id") == "main"
    expect(visit.page.get_by_role("navigation").get_by_role("link", name="VMs")).to_have_attribute(
        "aria-current", "page"
    )
