"""Which VMs `jitsu status` shows, with which columns, and in which order."""

from __future__ import annotations

from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any

from jitsu_protocol.model.errors import BadRequest, NotFound
from jitsu_protocol.model.states import VmState
from jitsu_protocol.model.vm import nearest
from jitsu_protocol.rows import INVALID

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping, Sequence

COLUMNS = {
    "vm": "name",
    "state": "state",
    "host": "host",
    "names": "names",
    "address": "address",
    "up": "uptime_s",
    "starts": "starts",
    "queries": "queries",
    "idle": "idle_s",
    "error": "last_error",
}
"""What an operator writes for a column -> the field of a row."""
NUMBERS = frozenset({"up", "starts", "queries", "idle"})
STATES = (*(state.value for state in VmState), INVALID)
GLOB = frozenset("*?[")


@dataclass(frozen=True)
class Selection:
    """What an operator wants to see; everything, unless something is given."""

    words: tuple[str, ...] = ()
    """Names, UUIDs or DNS names of VMs; `*`, `?` and `[...]` stand for what they do in a shell."""
    states: tuple[str, ...] = ()
    hosts: tuple[str, ...] = ()
    columns: tuple[str, ...] = ()
    sort: str = "vm"
    reverse: bool = False

    @property
    def one(self) -> str:
        """The word for one VM of which everything is to be shown; "" if a table is wanted."""
        is_one = len(self.words) == 1 and not GLOB & set(self.words[0])
        return self.words[0] if is_one and not (self.states or self.hosts or self.columns) else ""

    @property
    def is_part(self) -> bool:
        """Whether some VMs may be left out."""
        return bool(self.words or self.states or self.hosts)

    def check(self, hosts: Collection[str]) -> None:
        """Raise BadRequest for a state, a host or a column that does not exist."""
        _all_known(self.states, STATES, "a state")
        _all_known(self.hosts, hosts, "a host that has a vmd")
        _all_known((*self.columns, self.sort), COLUMNS, "a column")

    def of(self, rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
        """Return the rows that are wanted, in order; raises NotFound for a word that means no VM."""
        for word in self.words:
            if not any(_means(word, row) for row in rows):
                names = [name for row in rows for name in (row["name"], *row["names"])]
                raise NotFound(f"no VM is called {word!r}{nearest(word.lower(), names)}")
        found = [row for row in rows if self._wants(row)]
        field, is_number = COLUMNS[self.sort], self.sort in NUMBERS
        empty = [row for row in found if row[field] is None]  # they are last, whichever way the others are sorted
        rest = [row for row in found if row[field] is not None]
        return sorted(rest, key=lambda row: row[field], reverse=is_number != self.reverse) + empty

    def _wants(self, row: Mapping[str, Any]) -> bool:
        return (
            (not self.words or any(_means(word, row) for word in self.words))
            and (not self.states or row["state"] in self.states)
            and (not self.hosts or row["host"] in self.hosts)
        )


def words_in(text: str) -> tuple[str, ...]:
    """Return the words of a list such as `ready,booting`."""
    return tuple(word.strip().lower() for word in text.split(",") if word.strip())


def _means(word: str, row: Mapping[str, Any]) -> bool:
    clean = word.lower().removesuffix(".")
    return any(fnmatchcase(name.lower(), clean) for name in (row["name"], row["uuid"], *row["names"]))


def _all_known(words: Iterable[str], known: Collection[str], what: str) -> None:
    for word in words:
        if word not in known:
            raise BadRequest(f"{word!r} is not {what}{nearest(word, known)}", hint=f"known: {', '.join(known)}")
