"""Every function of the page, on a phone, on a small screen and on a large one, with a fake API behind it."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest
from playwright.sync_api import expect

from tests.support.browser import VIEWER, WIDTHS

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.support.browser import Visit
    from tests.support.fake_web_api import FakeWebApi

    Opener = Callable[..., Visit]

pytestmark = pytest.mark.browser

PLACES = ("/vms", "/vms/git", "/vms/hostile", "/services", "/branches", "/branches/master")
every_width = pytest.mark.parametrize("width", WIDTHS)


@every_width
def test_a_token_opens_the_page_and_a_wrong_one_does_not(opened: Opener, width: int) -> None:
    visit = opened(width=width)
    visit.page.fill("#token", "guessed")
    visit.page.click("text=Sign in")
    expect(visit.page.get_by_role("alert").filter(has_text="not known, or it has expired")).to_be_visible()
    visit.sign_in()
    assert visit.page.title() == "VMs · Jitsu"
    visit.page.reload()
    visit.page.wait_for_selector(".body > .row")  # the session is a cookie
    visit.page.click("text=Sign out")
    expect(visit.page.get_by_text("You have signed out.")).to_be_visible()
    visit.page.reload()
    visit.page.wait_for_selector("#token")


def test_the_token_is_kept_nowhere_that_a_script_can_read(opened: Opener) -> None:
    visit = opened()
    visit.sign_in()
    kept = visit.page.evaluate("JSON.stringify([document.cookie, {...localStorage}, {...sessionStorage}])")
    assert "token" not in kept
    assert "session" not in kept


@every_width
def test_nothing_is_wider_than_the_screen(opened: Opener, width: int) -> None:
    visit = opened(width=width)
    visit.sign_in()
    for place in PLACES:
        visit.go(place)
        assert visit.page.evaluate("document.documentElement.scrollWidth") <= width, place


ROWS = {
    "www": "Stops in ",
    "git": "one SSH connection from 10.0.0.7 keeps it up",
    "mail": "no space left on device",
    "ci-runner": "Waits for 2,048 MiB of memory",
    "wiki": "Booting; its clients are kept waiting",
    "photos": "About to stop, unless it is used now",
    "backup": "Held: the disk is being replaced",
    "preview-4711": "Last query 1 day ago",
    "database": "Its schedule keeps it up until 18:00",
    "games": "Stopping",
    "lab-solaris": "'zz' is not a MAC address",
    "nas": "vmd of cellar does not answer",
    "forum": "No query yet",
}


@every_width
def test_a_row_shows_the_state_the_names_the_address_the_day_and_what_happens(opened: Opener, width: int) -> None:
    visit = opened(width=width)
    visit.sign_in()
    for name, words in ROWS.items():
        visit.page.fill("#filter", name)
        row = visit.page.locator(visit.row(name))
        expect(row).to_contain_text(words)
        expect(row).to_contain_text(f"{name}.example.org" if name != "www" else "www.example.org, example.org")
        expect(row.get_by_role("img", name="Last day:")).to_be_visible()
        expect(row.get_by_role("img", name="of memory saved")).to_be_visible()
        expect(row.locator(".badge")).to_be_visible()
        expect(row.locator(".where")).to_contain_text("192.0.2.")


@every_width
def test_vms_are_filtered_by_words_and_states_and_sorted(opened: Opener, width: int) -> None:
    visit = opened(width=width)
    visit.sign_in()
    names = visit.page.locator(".body .name")
    visit.page.fill("#filter", "attic lab")
    expect(names).to_have_text(["lab-solaris"])
    visit.page.fill("#filter", "no such thing")
    expect(visit.page.get_by_text("No VM is like that.")).to_be_visible()
    visit.page.fill("#filter", "")
    visit.page.click(".chip[data-state=ready]")
    visit.page.click(".chip[data-state=draining]")
    expect(names).to_have_text(["database", "git", "photos", "www"])
    if width < 500:
        visit.page.select_option("select", "saved")
    else:
        visit.page.click("[data-sort=saved]")
        expect(visit.page.get_by_role("columnheader", name="Saved")).to_have_attribute("aria-sort", "ascending")
    expect(names).to_have_text(["git", "photos", "database", "www"])
    visit.page.click(".chip[data-state=draining]")
    expect(visit.page.locator(".summary")).to_have_text("3 of 16 VMs")


@every_width
def test_an_operator_starts_stops_and_keeps_up(opened: Opener, api: FakeWebApi, width: int) -> None:
    visit = opened(width=width)
    visit.sign_in()
    visit.page.fill("#filter", "forum")
    visit.page.get_by_role("button", name="Start forum").click()
    expect(visit.page.locator(visit.row("forum"))).to_contain_text("starting")
    visit.page.fill("#filter", "git")
    visit.page.get_by_role("button", name="Stop git").click()
    expect(visit.page.get_by_role("dialog")).to_contain_text("whoever uses it")
    visit.page.get_by_role("button", name="Cancel").click()
    visit.page.get_by_role("button", name="Stop git").click()
    visit.page.get_by_role("button", name="Stop it").click()
    expect(visit.page.locator(visit.row("git"))).to_contain_text("stopping")
    visit.page.fill("#filter", "www")
    visit.page.get_by_role("button", name="Keep www up").click()
    visit.page.get_by_role("button", name="2 hours").click()
    expect(visit.page.locator(visit.row("www"))).to_contain_text("Alice keeps it up")
    assert visit.asked(api, 3) == [
        ("POST", "/vms/forum/start", {}),
        ("POST", "/vms/git/stop", {}),
        ("POST", "/vms/www/keep", {"for_s": 7200}),
    ]
    api.change("www", kept="kept up until 21:00 by operator:alice")
    expect(visit.page.locator(visit.row("www"))).to_contain_text("Kept up until 21:00 by operator:alice")
    visit.page.get_by_role("button", name="Keep www up").click()
    visit.page.get_by_role("button", name="No longer keep it up").click()
    assert visit.asked(api, 4)[3][:2] == ("DELETE", "/vms/www/keep")


def test_a_viewer_finds_nothing_to_change_with(opened: Opener) -> None:
    visit = opened()
    visit.sign_in(VIEWER)
    changing = visit.page.get_by_role("button", name=re.compile("^(Start|Stop|Keep|Change$|New|Edit|Delete|Merge|Go)"))
    for place in PLACES:
        visit.go(place)
        expect(changing).to_have_count(0)
    visit.page.keyboard.press("j")
    visit.page.keyboard.press("s")
    expect(visit.page.get_by_role("dialog")).to_have_count(0)


@every_width
def test_a_vm_says_why_it_is_up_who_asked_and_when_it_stops(opened: Opener, width: int) -> None:
    visit = opened(width=width)
    visit.sign_in()
    visit.page.click(".name:text-is('git')")
    why = visit.page.get_by_role("region", name="Why")
    for words in (
        "A client in 198.51.100.0/24 asked dns-0",
        "one connection to tcp/22 from 10.0.0.7 is open",
        "In 4 minutes, unless it is used.",
        "query, 3 times, seen by dns-0",
        "Stopped: idle",
        "the reaper",
        "ready after 0.6 s",
    ):
        expect(why).to_contain_text(words)
    now = visit.page.get_by_role("region", name="Now")
    expect(now).to_contain_text("attic")
    expect(now).to_contain_text("Last day:")
    expect(visit.page.get_by_role("region", name="Configuration")).to_contain_text("idle_timeout")


@every_width
def test_a_summon_is_a_waterfall_that_shows_where_the_time_went(opened: Opener, width: int) -> None:
    visit = opened(width=width)
    visit.sign_in()
    visit.go("/vms/git")
    summons = visit.page.get_by_role("region", name="Summons")
    first = summons.locator("details").first
    expect(first).to_have_attribute("open", "")
    expect(first.locator(".longest")).to_contain_text("first packet (took longest)")
    expect(first.locator(".longest")).to_contain_text("284 ms")
    bars = first.locator("rect.part").all()
    boxes = [bar.bounding_box() for bar in bars]
    assert all(box is not None for box in boxes)
    edges = [(box["x"], box["x"] + box["width"]) for box in boxes if box]
    assert edges == sorted(edges), "each stage begins where the one before it ends"
    assert edges[-1][1] - edges[0][0] > 60
    failed = summons.locator("details").nth(2)
    expect(failed.locator(".bad")).to_have_text("failed: it was not up in 30 s")
    failed.locator("summary").click()
    expect(failed).to_contain_text("start returned")


@every_width
def test_the_history_of_a_vm_shows_what_changed_and_goes_back(opened: Opener, api: FakeWebApi, width: int) -> None:
    visit = opened(width=width)
    visit.sign_in()
    visit.go("/vms/www")
    history = visit.page.get_by_role("region", name="History")
    history.get_by_text("Give www a longer TTL").click()
    expect(history.locator("del").first).to_have_text("60")
    expect(history.locator("ins").first).to_have_text("300")
    history.get_by_role("button", name="Go back to before this").click()
    visit.page.get_by_role("button", name="Go back", exact=True).click()
    expect(history).to_contain_text("Go back to how it was")
    assert visit.asked(api, 1) == [("POST", "/vms/www/revert", {"to": api.commits[0]["id"]})]


def test_a_vm_that_failed_says_so_with_what_can_be_done(opened: Opener, api: FakeWebApi) -> None:
    visit = opened()
    visit.sign_in()
    visit.go("/vms/mail")
    trouble = visit.page.get_by_role("region", name="Last error")
    expect(trouble).to_contain_text("no space left on device")
    expect(trouble).to_contain_text("A summon tries it again")
    api.change("mail", state="ready", idle=None)
    expect(trouble).to_contain_text("no space left on device")
    api.change("mail", last_error="")
    expect(trouble).to_be_hidden()


@every_width
def test_the_services_and_replicas_say_how_they_are(opened: Opener, api: FakeWebApi, width: int) -> None:
    visit = opened(width=width)
    visit.sign_in()
    visit.go("/services")
    expect(visit.page.get_by_role("status").filter(has_text="answer")).to_have_text("dns-1 does not answer.")
    expect(visit.page.locator(".service", has_text="dns-1")).to_contain_text("heard 31 s ago")
    expect(visit.page.locator(".service", has_text="store")).to_contain_text("repository /var/lib/jitsu/store.git")
    api.emit("service", {**api.services[1], "answers": True, "lag_s": 0.2})
    expect(visit.page.get_by_role("status").filter(has_text="answer")).to_have_text("All 8 processes answer.")


@every_width
def test_a_value_is_changed_on_a_branch_reviewed_and_merged(opened: Opener, api: FakeWebApi, width: int) -> None:
    visit = opened(width=width)
    visit.sign_in()
    visit.go("/branches")
    visit.page.get_by_role("button", name="New branch").click()
    visit.page.get_by_label("Name", exact=True).fill("longer-ttl")
    visit.page.get_by_role("button", name="Make it").click()
    visit.settled()
    expect(visit.page.get_by_role("heading", level=1)).to_have_text("longer-ttl")
    visit.page.get_by_label("Filter values").fill("wiki ttl")
    visit.page.get_by_role("button", name="Edit dns/wiki.example.org/ttl").click()
    field = visit.page.get_by_label("dns/wiki.example.org/ttl", exact=True)
    field.fill("soon")
    field.press("Enter")
    expect(visit.page.get_by_role("alert").filter(has_text="is not a duration")).to_be_visible()
    field.fill("300")
    field.press("Enter")
    review = visit.page.get_by_role("region", name="How longer-ttl differs from master")
    expect(review).to_contain_text("1 value changed.")
    expect(review.locator("caption").first).to_have_text("wiki")
    expect(review.locator("del")).to_have_text("60")
    expect(review.locator("ins")).to_have_text("300")
    review.get_by_role("button", name="Merge into master").click()
    visit.page.get_by_role("button", name="Merge it").click()
    expect(review).to_contain_text("Nothing differs.")
    assert any(value == "300" for value in api.branches["master"].values())
    visit.go("/branches")
    visit.page.get_by_role("button", name="Delete the branch longer-ttl").click()
    visit.page.get_by_role("button", name="Delete it").click()
    expect(visit.page.get_by_role("link", name="longer-ttl")).to_have_count(0)


def test_a_value_that_changed_in_the_meantime_is_not_overwritten(opened: Opener, api: FakeWebApi) -> None:
    visit = opened()
    visit.sign_in()
    visit.go("/branches/master")
    visit.page.get_by_label("Filter values").fill("wiki")
    visit.page.get_by_role("button", name="Edit response_delay").click()
    path = next(path for path, value in api.branches["master"].items() if value == "wiki")
    api.branches["master"][path] = "renamed"
    field = visit.page.get_by_label("response_delay", exact=True)
    field.fill("1")
    field.press("Enter")
    expect(visit.page.get_by_role("alert").filter(has_text="has changed in the meantime")).to_be_visible()
    field.press("Enter")
    expect(field).to_have_count(0)
    assert sorted(api.branches["master"].values()).count("1") == 1


def test_what_the_api_says_is_text_and_never_markup(opened: Opener) -> None:
    visit = opened()
    visit.sign_in()
    for place in ("/vms", "/vms/hostile", "/branches/master"):
        visit.go(place)
        assert visit.page.evaluate("window.hacked") is None
        assert visit.page.locator("main img, main script").count() == 0
    visit.go("/vms")
    expect(visit.page.locator(visit.row("hostile"))).to_contain_text("<script>window.hacked=1</script>")


@every_width
def test_the_colours_follow_the_system_until_somebody_chooses(opened: Opener, width: int) -> None:
    visit = opened(width=width, theme="dark")
    visit.sign_in()

    def ground() -> str:
        return str(visit.page.evaluate("getComputedStyle(document.body).backgroundColor"))

    assert ground() == "rgb(15, 20, 22)"
    visit.page.get_by_role("button", name="Colours: as the system").click()
    assert ground() == "rgb(246, 247, 247)"
    visit.page.reload()
    visit.page.wait_for_selector(".body > .row")
    assert ground() == "rgb(246, 247, 247)"
    visit.page.emulate_media(color_scheme="light")
    visit.page.get_by_role("button", name="Colours: light").click()
    assert ground() == "rgb(15, 20, 22)"


def test_a_refusal_is_said_with_its_hint(opened: Opener, api: FakeWebApi) -> None:
    visit = opened()
    visit.sign_in()
    api.is_down = True
    visit.page.get_by_role("button", name="Start forum").click()
    expect(visit.page.locator(".note.wrong")).to_contain_text("vmd does not answer")
    expect(visit.page.locator(".note.wrong")).to_contain_text("is jitsu-vmd running?")
    visit.page.get_by_role("button", name="Put this message away").first.click()
    visit.page.goto(f"{visit.url}#/vms/git")
    expect(visit.page.get_by_role("region", name="Why")).to_contain_text("vmd does not answer")
    api.is_down = False
    visit.page.get_by_role("region", name="Why").get_by_role("button", name="Try again").click()
    expect(visit.page.get_by_role("region", name="Why")).to_contain_text("198.51.100.0/24")
