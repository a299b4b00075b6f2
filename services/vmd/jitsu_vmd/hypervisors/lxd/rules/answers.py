"""What LXD's errors mean, which are told apart by their texts only: HTTP has the same status for most of them.

The texts are those of LXD 5.0, 5.21 and Incus 6, which word some of them differently.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from jitsu_vmd.hypervisors.shared.rules.texts import one_line


class Meaning(StrEnum):
    """What follows from an error."""

    IS_RUNNING = "is running"
    IS_STOPPED = "is stopped"
    BUSY = "busy"
    NO_LEADER = "no leader"
    EVACUATED = "evacuated"
    UNREACHABLE = "unreachable"
    CANNOT_SUSPEND = "cannot suspend"
    OTHER = "other"


_TEXTS: tuple[tuple[Meaning, tuple[str, ...]], ...] = (
    (Meaning.IS_RUNNING, ("already running", "already frozen")),
    (Meaning.IS_STOPPED, ("already stopped", "isn't running", "is not running")),
    (Meaning.BUSY, ("is busy running", "busy running a")),
    (
        Meaning.NO_LEADER,
        (
            "no available dqlite leader",
            "no available cowsql leader",
            "failed to begin transaction",
            "failed to create dqlite connection",
            "not leader",
            "database is locked",
            "leadership lost",
            "driver: bad connection",
            "checkpoint in progress",
        ),
    ),
    (Meaning.EVACUATED, ("member is evacuated", "currently evacuated")),
    (
        Meaning.UNREACHABLE,
        (
            "missing event connection with target",
            "failed connecting to",
            "failed to connect to",
            "unable to connect to",
            "no route to host",
            "connection refused",
            "i/o timeout",
        ),
    ),
    (
        Meaning.CANNOT_SUSPEND,
        ("criu", "stateful stop requires", "migration.stateful", "stateful start requires", "live migration"),
    ),
)


@dataclass(frozen=True)
class LxdError(Exception):
    """LXD has refused a request, or an operation has failed."""

    status: int
    """As in HTTP; that of an operation is 400."""
    message: str

    @property
    def meaning(self) -> Meaning:
        """What follows from it."""
        return meaning_of(self.message)

    @property
    def is_absence(self) -> bool:
        """Whether it says that there is no such thing."""
        return self.status == 404

    def __str__(self) -> str:
        """Return LXD's words on one line."""
        return one_line(self.message) or f"LXD has answered with status {self.status}"


def first_error(log: str) -> str:
    """Return the first error in the log of a container's last start: the others follow from it.

    A line is `lxc NAME TIME ERROR    module - file:function:line - TEXT`.
    """
    errors = (each.partition(" ERROR ")[2] for each in log.splitlines() if " ERROR " in each)
    return next((one_line(" - ".join(parts[2:])) for each in errors if len(parts := each.split(" - ")) > 2), "")


def meaning_of(text: str) -> Meaning:
    """Return what an error's text means."""
    lower = text.lower()
    return next((meaning for meaning, texts in _TEXTS if any(each in lower for each in texts)), Meaning.OTHER)
