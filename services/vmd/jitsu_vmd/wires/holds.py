"""Which VMs are held and kept up (protocol's model/holds.py): follows the store, and notices when one of them is over.

The store's feed `heads` says that a branch has moved. They are a handful of leaves, so all are read again then.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

import structlog

from jitsu_protocol.messages import Leaves, List
from jitsu_protocol.model.errors import BadRequest, JitsuError
from jitsu_protocol.model.holds import ALL, HOLD_ROOT, KEEP_ROOT, Hold, hold_of, holds_in

if TYPE_CHECKING:
    from collections.abc import Callable

    from jitsu_protocol.messages import FeedItem
    from jitsu_runtime.clock import Clock, Timer
    from jitsu_runtime.world import Caller, Snapshot, World

CALL_LIMIT_S = 5.0
RETRY_S = 1.0
MAX_SLEEP_S = 60.0
"""The clock may be set, so the end of a hold is looked for at least that often."""

log = structlog.get_logger("vmd")


class Holds:
    """The holds and keeps that are there now."""

    def __init__(self, store: Caller, changed: Callable[[], None], clock: Clock) -> None:
        """`changed` is called when other VMs are held or kept up than before."""
        self._store, self._changed, self._clock = store, changed, clock
        self._timer: Timer | None = None
        self._leaves: dict[str, str] = {}
        self._holds: dict[str, Hold] = {}
        self._keeps: dict[str, Hold] = {}
        self._moved = asyncio.Event()
        self.known = asyncio.Event()
        """The store has said which there are: before that, nothing may be started automatically."""

    def reason(self, vm: str) -> str:
        """Return why a VM is held, as a client and an operator are told; "" if it is not."""
        hold = hold_of(self._holds, vm)
        return "" if hold is None else _described("held", hold)

    def kept_reason(self, vm: str) -> str:
        """Return why a VM is kept up, as an operator is told; "" if it is not."""
        keep = self._keeps.get(vm)
        return "" if keep is None else _described("kept up", keep)

    def notes(self) -> list[str]:
        """Return what an operator should know."""
        if ALL in self._holds:
            return [f"all VMs are {_described('held', self._holds[ALL])}"]
        return []

    def follow(self, world: World) -> None:
        """Follow the store from now on."""
        world.subscribe("store", "heads", ask=self._ask, reset=self.heard, apply=self._head_moved)
        world.spawn(self._read_for_ever(), "holds")

    async def _ask(self) -> Snapshot:
        try:
            listed = await self._store.call(List(prefix=HOLD_ROOT, topic="heads"), Leaves, CALL_LIMIT_S)
            keeps = await self._store.call(List(prefix=KEEP_ROOT), Leaves, CALL_LIMIT_S)
        except BadRequest:  # a store of an older release: without holds, VMs start as they did
            self.known.set()
            raise
        return listed.epoch, listed.number, listed.leaves | keeps.leaves

    def heard(self, leaves: dict[str, str]) -> None:
        """Take what is below jitsu/hold and jitsu/keep now."""
        self._leaves = dict(leaves)
        self.look()
        self.known.set()

    def _head_moved(self, _: FeedItem) -> None:
        self._moved.set()

    async def _read_for_ever(self) -> None:
        while True:
            await self._moved.wait()
            self._moved.clear()
            try:
                self.heard((await self._ask())[2])
            except JitsuError as error:
                log.warning("it is not known which VMs are held or kept up", reason=str(error))
                self._clock.call_in(RETRY_S, self._moved.set)

    def _next_look_s(self) -> float:
        now = self._clock.wall()
        both = (*self._holds.values(), *self._keeps.values())
        ends = [hold.until - now for hold in both if hold.until]
        return max(0.0, min([MAX_SLEEP_S, *ends]))

    def look(self) -> None:
        """See which VMs are held and kept up now, and look again when that may be over."""
        before, now = (self._holds, self._keeps), self._clock.wall()
        self._holds, self._keeps = holds_in(self._leaves, now), holds_in(self._leaves, now, KEEP_ROOT)
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._clock.call_in(self._next_look_s(), self.look)
        if before != (self._holds, self._keeps):
            self._changed()


def _described(what: str, hold: Hold) -> str:
    """Return `held until 2026-11-28 14:00:00 CET by operator:anna: new disk`; `what` is its first word."""
    until = time.strftime(" until %Y-%m-%d %H:%M:%S %Z", time.localtime(min(hold.until, 2**40))) if hold.until else ""
    by = f" by {hold.by}" if hold.by else ""
    return f"{what}{until}{by}{f': {hold.reason}' if hold.reason else ''}"
