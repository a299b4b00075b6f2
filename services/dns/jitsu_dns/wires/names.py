"""Follows the store's VMs for rules/names.py: from the file of an earlier run, the store's rpc, and its feed.

replica                               store
   | reads its file: REMEMBERED
   |-- List(limit=1) ------------------->| head: epoch, number, serial
   |   the serial is that of the file: all is as it was, TOLD
   |-- ChangesSince(commit of the file) >| else: what has changed; TOLD
   |-- List, page by page -------------->| where that cannot be had: everything; TOLD
   |<-- feed: Committed -----------------| from the head's number on
"""

from __future__ import annotations

import asyncio
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import structlog

from jitsu_dns.rules.events import NamesRemembered, NamesTold, TurnCame
from jitsu_dns.wires.names_file import NamesFile
from jitsu_protocol.messages import ChangesList, ChangesSince, Committed, Leaves, List
from jitsu_protocol.model.errors import JitsuError
from jitsu_protocol.model.vm import VM_ROOT
from jitsu_protocol.wire.codec import body_as
from jitsu_runtime.service_manager import notify

if TYPE_CHECKING:
    from jitsu_dns.rules.names import Names
    from jitsu_protocol.messages import FeedItem
    from jitsu_runtime.settings.load import Settings
    from jitsu_runtime.world import Snapshot, World

SNAPSHOT_TIMEOUT_S = 5.0
PAGE_LEAVES = 2000
"""Leaves in a page of a snapshot; the store does its other work between two pages."""
MAX_CHANGE_PAGES = 5
"""A replica that has missed more than this many times MAX_COMMITS reads everything again."""
MAX_COMMITS = 1000
SAVE_AFTER_S = 2.0
"""Changes within this time are written together."""
PATIENCE_S = 2.0
"""A wait that lasts longer is logged."""

log = structlog.get_logger("dns")


@dataclass(frozen=True)
class _Same:
    """The store has exactly what is known here."""

    head: Leaves


@dataclass(frozen=True)
class _Changed:
    """The store has something else: these changes or, if they are None, what was read page by page."""

    head: Leaves
    changes: list[tuple[str, str | None]] | None


class HandlesNames(Protocol):
    """What drives the rules."""

    def handle(self, event: NamesRemembered | NamesTold | TurnCame) -> None:
        """Handle that more is known about the names, or that there is time to make some of the VMs."""


class NamesFollower:
    """Keeps what a replica knows of the store's VMs up to date, in memory and on disk."""

    def __init__(self, world: World, rules: HandlesNames, names: Names) -> None:
        """`names` is what the rules know; `rules` handle that it has changed."""
        self._world, self._rules, self._names = world, rules, names
        self._store = world.client("store")
        self._file = NamesFile(_kept_in(world.settings))
        self._commit, self._serial = "", 0
        self._unsaved = asyncio.Event()
        self._to_make = asyncio.Event()
        self._is_known = asyncio.Event()
        self.completed = asyncio.Event()
        """Set when all VMs have been made for the first time."""

    async def start(self) -> None:
        """Read the file, begin to follow the store; returns when there is something to answer with."""
        before = self._file.read()
        if before is not None and before.leaves:
            self._commit, self._serial = before.commit, before.serial
            self._rules.handle(NamesRemembered(before.leaves, before.serial))
            self._is_known.set()
        self._world.subscribe("store", "vm", ask=self._ask, reset=self._reset, apply=self._apply)
        self._world.spawn(self._make_for_ever(), "names")
        self._world.spawn(self._save_for_ever(), "names file")
        waits = False
        while not self._is_known.is_set():
            try:
                async with asyncio.timeout(PATIENCE_S):
                    await self._is_known.wait()
            except TimeoutError:
                if not waits:
                    log.info("waiting for the store")
                    notify("STATUS=waiting for the store")
                waits = True

    # --- the store ---

    async def _ask(self) -> Snapshot:
        head = await self._page("", 1)
        if self._serial > 1 and head.serial == self._serial and self._names.leaves:
            return head.epoch, head.number, _Same(head)
        if self._commit and self._names.leaves:
            try:
                return head.epoch, head.number, _Changed(head, await self._changes())
            except JitsuError as error:
                log.debug("reading all names again", reason=str(error))
        head = page = await self._page("", PAGE_LEAVES)
        self._names.begin_reset()
        self._names.take(page.leaves)
        while page.upto:
            page = await self._page(page.upto, PAGE_LEAVES)
            self._names.take(page.leaves)
        return head.epoch, head.number, _Changed(head, None)

    async def _page(self, after: str, limit: int) -> Leaves:
        asked = List(prefix=VM_ROOT, topic="vm", after=after, limit=limit)
        return await self._store.call(asked, Leaves, SNAPSHOT_TIMEOUT_S)

    async def _changes(self) -> list[tuple[str, str | None]]:
        """Return what has changed since the commit that is known; raises JitsuError if that cannot be said."""
        found: list[tuple[str, str | None]] = []
        since = self._commit
        for _ in range(MAX_CHANGE_PAGES):
            asked = ChangesSince(since=since, prefix=VM_ROOT, limit=MAX_COMMITS)
            page = await self._store.call(asked, ChangesList, SNAPSHOT_TIMEOUT_S)
            found += [(change.path, change.value) for commit in page.commits for change in commit.changes]
            since = page.upto
            if not page.more:
                return found
        raise JitsuError("too much has changed")

    def _reset(self, state: Any) -> None:
        match state:
            case _Same():
                self._names.confirm()
            case _Changed(_, list() as changes):
                self._names.apply(changes)
                self._names.confirm()
            case _:
                self._names.end_reset()
        self._note(state.head.commit, state.head.serial)
        self._is_known.set()

    def _apply(self, item: FeedItem) -> None:
        committed = body_as(Committed, item.body_kind, item.body or {})
        self._names.apply((change.path, change.value) for change in committed.changes)
        self._note(committed.commit, committed.serial)

    def _note(self, commit: str, serial: int) -> None:
        self._commit, self._serial = commit, serial
        self._rules.handle(NamesTold(serial))
        self._unsaved.set()
        self._to_make.set()

    # --- what follows ---

    async def _make_for_ever(self) -> None:
        """Make the VMs that nobody has asked for, a few between the queries of two turns of the event loop."""
        while True:
            await self._to_make.wait()
            self._to_make.clear()
            self._rules.handle(TurnCame())
            while self._names.left:
                await asyncio.sleep(0)
                self._rules.handle(TurnCame())
            if self._names.is_complete:
                self.completed.set()

    async def _save_for_ever(self) -> None:
        while True:
            await self._unsaved.wait()
            await asyncio.sleep(SAVE_AFTER_S)
            self._unsaved.clear()
            await self._file.write(self._commit, self._serial, self._names.leaves)


def _kept_in(settings: Settings) -> Path:
    """Return the file for names, in the directory of the service manager (systemd.exec(5)) or else the suite's."""
    return Path(os.environ.get("CACHE_DIRECTORY") or settings.bus.directory) / f"{settings.dns.replica}.names"
