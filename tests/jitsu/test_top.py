"""`jitsu top` with a suite that is played, steered by Textual's pilot."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from textual.widgets import DataTable, Static

from jitsu.top_screen import TopScreen, cells, shown_rows
from jitsu.top_suite import TopView

if TYPE_CHECKING:
    from textual.pilot import Pilot

pytestmark = pytest.mark.wires


def row(name: str, state: str = "off", **more: Any) -> dict[str, Any]:
    return {
        "name": name,
        "uuid": f"uuid-of-{name}",
        "state": state,
        "host": "",
        "names": [f"{name}.example.org"],
        "address": "192.0.2.1",
        "queries": 0,
        "idle_s": None,
        "uptime_s": None,
        "waits_for": "",
        "hold": "",
        "last_error": "",
        **more,
    }


class PlayedSource:
    def __init__(self) -> None:
        self.seen = TopView(
            [
                row("www", "ready", queries=7, idle_s=3.0),
                row("git", queries=9),
                row("mail", "failed", last_error="no disk"),
            ],
            ["store     up 4 s"],
        )
        self.asked: list[tuple[str, str]] = []

    async def view(self) -> TopView:
        return self.seen

    async def start(self, name: str) -> str:
        self.asked.append(("start", name))
        return f"{name} is ready"

    async def stop(self, name: str) -> str:
        self.asked.append(("stop", name))
        return f"{name} is stopped"


def names(screen: TopScreen) -> list[str]:
    table = screen.query_one("#vms", DataTable)
    return [str(table.get_row_at(at)[1]) for at in range(table.row_count)]


async def settled(pilot: Pilot[None]) -> None:
    await pilot.app.workers.wait_for_complete()
    await pilot.pause()


async def test_it_shows_every_vm_and_the_services() -> None:
    screen = TopScreen(PlayedSource())
    async with screen.run_test(size=(120, 30)) as pilot:
        await settled(pilot)
        assert names(screen) == ["git", "mail", "www"]
        assert "store     up 4 s" in str(screen.query_one("#services", Static).render())
        assert screen.sub_title == "3 of 3 VMs by name"


async def test_vms_are_filtered_and_ordered() -> None:
    screen = TopScreen(PlayedSource())
    async with screen.run_test(size=(120, 30)) as pilot:
        await settled(pilot)
        await pilot.press("slash", *"fail", "enter")
        assert names(screen) == ["mail"]
        await pilot.press("escape", "o", "o")
        assert names(screen) == ["git", "www", "mail"]
        assert screen.sub_title == "3 of 3 VMs by queries"


async def test_a_vm_is_started_at_once_and_stopped_after_a_second_press() -> None:
    source = PlayedSource()
    screen = TopScreen(source)
    async with screen.run_test(size=(120, 30)) as pilot:
        await settled(pilot)
        await pilot.press("s")
        await settled(pilot)
        assert source.asked == [("start", "git")]
        await pilot.press("down", "down", "x")
        await settled(pilot)
        assert source.asked == [("start", "git")]
        await pilot.press("x")
        await settled(pilot)
        assert source.asked[1:] == [("stop", "www")]


async def test_the_first_press_for_one_vm_does_not_count_for_another() -> None:
    source = PlayedSource()
    screen = TopScreen(source)
    async with screen.run_test(size=(120, 30)) as pilot:
        await settled(pilot)
        await pilot.press("x", "down", "x")
        await settled(pilot)
        assert source.asked == []


async def test_what_was_known_stays_when_nobody_answers() -> None:
    source = PlayedSource()
    screen = TopScreen(source)
    async with screen.run_test(size=(120, 30)) as pilot:
        await settled(pilot)
        source.seen = TopView(trouble="store does not answer")
        screen.look()
        await settled(pilot)
        assert names(screen) == ["git", "mail", "www"]
        assert "store does not answer" in str(screen.query_one("#services", Static).render())


async def test_it_begins_with_the_words_of_the_command() -> None:
    screen = TopScreen(PlayedSource(), "example ready")
    async with screen.run_test(size=(120, 30)) as pilot:
        await settled(pilot)
        assert names(screen) == ["www"]


async def test_the_cursor_stays_on_its_vm() -> None:
    source = PlayedSource()
    screen = TopScreen(source)
    async with screen.run_test(size=(120, 30)) as pilot:
        await settled(pilot)
        await pilot.press("down", "down")
        assert screen.chosen == "www"
        source.seen = TopView([row("aaa"), *source.seen.rows])
        screen.look()
        await settled(pilot)
        assert screen.chosen == "www"


def test_what_others_have_written_is_text() -> None:
    shown = cells(row("[red]x[/red]", "failed", last_error="a\x1b[2Jb"))
    assert shown[1].plain == "[red]x[/red]"
    assert "\x1b" not in shown[-1].plain


def test_a_vm_without_queries_comes_last_by_when_it_was_used() -> None:
    rows = [row("a"), row("b", idle_s=9.0), row("c", idle_s=1.0)]
    assert [each["name"] for each in shown_rows(rows, "", "idle_s")] == ["c", "b", "a"]
