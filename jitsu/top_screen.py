"""The screen of `jitsu top`, made with Textual; only that command imports this module."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from rich.text import Text
from textual import work
from textual.app import App
from textual.binding import Binding
from textual.widgets import DataTable, Footer, Header, Input, Static

from jitsu.durations import duration
from jitsu.printable import printable
from jitsu.top_suite import TopView
from jitsu_runtime.clock import SYSTEM_CLOCK

if TYPE_CHECKING:
    from textual.app import ComposeResult
    from textual.binding import BindingType

    from jitsu.top_suite import TopSource

EVERY_S = 1.0
AGREED_S = 5.0
"""A notice stays in sight for so long; after that, a second press is another question."""
COLUMNS = ("state", "vm", "address", "up", "queries", "idle for", "now")
TONES = {"ready": "green", "failed": "red", "invalid": "red", "unknown": "yellow"}
STEADY = frozenset({"off", "suspended", "paused"})
SORTS: tuple[str, ...] = ("name", "state", "queries", "idle_s")


def tone(state: str) -> str:
    """Return the colour of a state; the word itself says the same."""
    return TONES.get(state, "bright_black" if state in STEADY else "cyan")


def cells(row: dict[str, Any]) -> tuple[Text, ...]:
    """Return what a row of the table shows: text, and never markup or control characters, whoever has written it."""
    now = row["waits_for"] or row["hold"] or row.get("kept", "") or row["last_error"]
    texts = (
        row["name"],
        row["address"],
        "-" if row["uptime_s"] is None else duration(row["uptime_s"]),
        str(row["queries"]),
        "-" if row["idle_s"] is None else duration(row["idle_s"]),
        now,
    )
    return (Text(row["state"], style=tone(row["state"])), *(Text(printable(each)) for each in texts))


def shown_rows(rows: list[dict[str, Any]], typed: str, sort: str) -> list[dict[str, Any]]:
    """Return the rows that have every word that was typed, in the order that was chosen."""
    words = typed.lower().split()
    found = []
    for row in rows:
        text = " ".join([row["name"], row["state"], row["address"], row["host"], *row["names"]]).lower()
        if all(word in text for word in words):
            found.append(row)
    if sort == "queries":
        return sorted(found, key=lambda row: (-row["queries"], row["name"]))
    if sort == "idle_s":
        return sorted(found, key=lambda row: (row["idle_s"] is None, row["idle_s"] or 0.0, row["name"]))
    return sorted(found, key=lambda row: (row[sort], row["name"]))


class TopScreen(App[None]):
    """Every VM, and the services below them."""

    TITLE: str | None = "Jitsu"
    ENABLE_COMMAND_PALETTE = False
    CSS = "DataTable { height: 1fr; } #services { height: auto; max-height: 8; padding: 0 1; color: $text-muted; }"
    BINDINGS: ClassVar[list[BindingType]] = [
        Binding("q", "quit", "Quit"),
        Binding("slash", "filter", "Filter"),
        Binding("o", "sort", "Order"),
        Binding("s", "start", "Start"),
        Binding("x", "stop", "Stop"),
        Binding("escape", "clear", "Clear the filter", show=False),
    ]

    def __init__(self, source: TopSource, typed: str = "") -> None:
        """`source` is asked once a second; `typed` is in the filter at first."""
        super().__init__()
        self._source, self._typed = source, typed
        self._view = TopView()
        self._order = SORTS[0]
        self._stopping = ("", 0.0)
        """The VM of which somebody has asked once to stop it, and when."""

    def compose(self) -> ComposeResult:
        """Return the parts of the screen."""
        yield Header()
        yield Input(self._typed, placeholder="Filter: name, state, address, host", id="filter")
        table: DataTable[Text] = DataTable(cursor_type="row", zebra_stripes=True, id="vms")
        table.add_columns(*COLUMNS)
        yield table
        yield Static(id="services", markup=False)
        yield Footer()

    def on_mount(self) -> None:
        """Look at once, and then again and again."""
        self.query_one("#vms").focus()
        self.set_interval(EVERY_S, self.look)
        self.look()

    @work(exclusive=True, group="look")
    async def look(self) -> None:
        """Ask for what there is now; what was known stays if nobody answers."""
        view = await self._source.view()
        self._view = TopView(self._view.rows, self._view.services, view.trouble) if view.trouble else view
        self.draw()

    def draw(self) -> None:
        """Show what is known, with the cursor on the VM on which it was."""
        table = self.query_one("#vms", DataTable)
        chosen = self.chosen
        rows = shown_rows(self._view.rows, self.query_one("#filter", Input).value, self._order)
        table.clear()
        for row in rows:
            table.add_row(*cells(row), key=row["uuid"])
        names = [row["name"] for row in rows]
        if chosen in names:
            table.move_cursor(row=names.index(chosen))
        self.sub_title = f"{len(rows)} of {len(self._view.rows)} VMs by {self._order.removesuffix('_s')}"
        lines = [printable(each) for each in (self._view.trouble, *self._view.services) if each]
        self.query_one("#services", Static).update("\n".join(lines))

    @property
    def chosen(self) -> str:
        """The name of the VM on which the cursor is, "" if there is none."""
        table = self.query_one("#vms", DataTable)
        return str(table.get_row_at(table.cursor_row)[1]) if table.is_valid_row_index(table.cursor_row) else ""

    def on_input_changed(self) -> None:
        """Filter while somebody types."""
        self.draw()

    def on_input_submitted(self) -> None:
        """Go back to the VMs."""
        self.query_one("#vms").focus()

    def action_filter(self) -> None:
        """Go to the filter."""
        self.query_one("#filter").focus()

    def action_clear(self) -> None:
        """Clear the filter, and go back to the VMs."""
        self._stopping = ("", 0.0)
        self.query_one("#filter", Input).value = ""
        self.query_one("#vms").focus()

    def action_sort(self) -> None:
        """Take the next order."""
        self._order = SORTS[(SORTS.index(self._order) + 1) % len(SORTS)]
        self.draw()

    def action_start(self) -> None:
        """Start the chosen VM."""
        if self.chosen:
            self.notify(f"{self.chosen} is being started", markup=False)
            self.steer(self.chosen, is_start=True)

    def action_stop(self) -> None:
        """Stop the chosen VM when this is asked for twice within a moment."""
        name, asked_at = self._stopping
        now = SYSTEM_CLOCK.now()
        if self.chosen and name == self.chosen and now - asked_at < AGREED_S:
            self._stopping = ("", 0.0)
            self.steer(name, is_start=False)
        elif self.chosen:
            self._stopping = (self.chosen, now)
            self.notify(f"Press x again to stop {self.chosen}, whoever uses it.", markup=False)

    @work(group="steer")
    async def steer(self, name: str, *, is_start: bool) -> None:
        """Do it, and say what came of it."""
        self.notify(await (self._source.start(name) if is_start else self._source.stop(name)), markup=False)
        self.look()
