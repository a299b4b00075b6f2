"""Commits as bytes, and what the store writes into them besides Git's own fields.

A commit says in trailers, lines at the end of its message, which request made it and which serial the zones have from
then on. So a store that starts knows both from the history alone, and a request that is sent again after a crash is not
carried out twice. Only commits that this store made are believed.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from jitsu_store.git.objects import ID_BYTES, GitObject, Id, ObjectKind, make

TRAILER = "Request-Id: "
SERIAL_TRAILER = "Zone-Serial: "
FOREIGN_TRAILER = "First-Parent: pulled"
"""In the first commit of a store that began with a pull: the trailers of its first parent are not believed."""
_LIKE_TRAILER = re.compile(r"^(?=(?:Request-Id|Zone-Serial|First-Parent)\s*:)", re.MULTILINE | re.IGNORECASE)
MAX_SERIAL = 2**32 - 1
MAX_AHEAD_S = 86_400
"""A store that changes more often than once a second counts ahead of the clock."""
MAX_NUMBER_DIGITS = 12
"""Digits of a time or a serial. Other programs may have written anything."""


@dataclass(frozen=True)
class Trailers:
    """What the store writes into a commit besides Git's own fields."""

    request: str = ""
    """The id of the request that makes it."""
    serial: int = 0
    """The serial of the zones from this commit on; 0 on branches where there is none."""
    is_on_foreign: bool = False
    """Its first parent comes from another store."""


NO_TRAILERS = Trailers()


@dataclass(frozen=True)
class CommitDraft:
    """A commit that has no tree yet."""

    parents: tuple[Id, ...]
    author: str
    message: str
    ts: float
    """When it is made, in seconds since 1970."""
    trailers: Trailers = NO_TRAILERS


def make_commit(tree: Id, draft: CommitDraft) -> GitObject:
    """Return the commit with this tree.

    The id of the request stands in a trailer (git-interpret-trailers(1)), and the serial of the zones if it is ahead of
    the time. A line of the message that looks like one of these is indented: whoever chooses the message must not
    choose them.
    """
    ts, author = int(draft.ts), _plain(draft.author)
    who = f"{author} <{author.replace(' ', '.')}@jitsu> {ts} +0000"
    lines = [f"tree {tree.hex()}", *(f"parent {parent.hex()}" for parent in draft.parents)]
    text = _LIKE_TRAILER.sub(" ", "\n".join(draft.message.replace("\0", "").splitlines())).rstrip("\n")
    lines += [f"author {who}", f"committer {who}", "", text or "No message"]
    wanted = draft.trailers
    trailers = [FOREIGN_TRAILER] if wanted.is_on_foreign else []
    trailers += [SERIAL_TRAILER + str(wanted.serial)] if wanted.serial > ts else []
    trailers += [TRAILER + _plain(wanted.request)] if wanted.request else []
    if trailers:
        lines += ["", *trailers]
    return make(ObjectKind.COMMIT, ("\n".join(lines) + "\n").encode("utf-8", "replace"))


@dataclass(frozen=True)
class CommitRecord:
    """One commit."""

    id: Id
    tree: Id
    parents: tuple[Id, ...]
    author: str
    ts: float
    message: str

    @property
    def request(self) -> str:
        """The id of the request that made it, or nothing. Believe it only of commits that this store made."""
        last = self.message.rstrip("\n").rpartition("\n")[2]
        return last.removeprefix(TRAILER) if last.startswith(TRAILER) else ""

    @property
    def serial(self) -> int:
        """The serial of the zones from this commit on (RFC 1035, 3.3.13): its time, in seconds, if it says no more.

        Believe it only of commits that this store made.
        """
        serial = int(self.ts)
        for line in self._last_lines():
            number = line.removeprefix(SERIAL_TRAILER)
            if line.startswith(SERIAL_TRAILER) and number.isdecimal() and len(number) <= MAX_NUMBER_DIGITS:
                serial = max(int(number), serial)
        return serial if serial <= MAX_SERIAL else 0

    @property
    def is_on_foreign(self) -> bool:
        """Its first parent was pulled: this is the first commit of its store."""
        return FOREIGN_TRAILER in self._last_lines()

    def _last_lines(self) -> list[str]:
        return self.message.rstrip("\n").split("\n")[-3:]


def credible_serial(serial: int, now: float) -> int:
    """Return a serial that another repository claims; 0 if it is too far ahead of the clock to be believed."""
    return serial if serial <= now + MAX_AHEAD_S else 0


def parse_commit(id: Id, data: bytes) -> CommitRecord:
    """Read a commit, whoever wrote it; raises ValueError if it is not one."""
    head, _, message = data.decode("utf-8", "replace").partition("\n\n")
    tree, parents, author, ts = b"", [], "", 0.0
    for line in head.split("\n"):
        key, _, value = line.partition(" ")
        if key == "tree":
            tree = bytes.fromhex(value)
        elif key == "parent":
            parents.append(bytes.fromhex(value))
        elif key == "author":
            name, _, rest = value.rpartition(" <")
            stamp = rest.rpartition("> ")[2].split(" ")[0]
            author, ts = name, float(stamp) if stamp.isdecimal() and len(stamp) <= MAX_NUMBER_DIGITS else 0.0
    if len(tree) != ID_BYTES:
        raise ValueError("the commit names no tree")
    return CommitRecord(id, tree, tuple(parents), author, ts, message)


def _plain(text: str) -> str:
    return "".join(c for c in text if c.isprintable() and c not in "<>").strip() or "unknown"
