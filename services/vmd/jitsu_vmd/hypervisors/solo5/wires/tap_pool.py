"""The taps of one vmd: those that tenders have, and some that are kept, ready for the next.

    kept       port of a bridge, up, nobody has it open, the bridge has learned nothing behind it
    taken      belongs to the user of one VM; its tender has it open or is about to

Which taps there are is not written down anywhere: their names begin alike for all taps of one runtime directory, and
which of them are taken follows from the tenders that run. So a vmd that dies at any point leaves no tap behind: the
next one finds it by its name.
"""

from __future__ import annotations

import errno
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from jitsu_protocol.model.errors import BootFailed
from jitsu_vmd.hypervisors.shared import taps

if TYPE_CHECKING:
    from asyncio import Future
    from collections.abc import Callable, Iterable, Sequence


@dataclass(frozen=True)
class KeptTap:
    """A tap that is ready for a tender."""

    name: str
    user: int
    bridge: str


class TapPool:
    """All taps of one vmd. Its calls that change taps run on a thread: they wait for a lock of the kernel."""

    def __init__(self, prefix: str, keep: int, on_thread: Callable[[Callable[[], None]], Future[None]]) -> None:
        self._prefix = prefix
        self._keep = keep
        self._on_thread = on_thread
        self._kept: list[KeptTap] = []
        self._taken: set[str] = set()

    async def open(self, taken: Iterable[str], bridge: str) -> None:
        """Find the taps that an earlier vmd has left, and make as many as are to be kept on the usual bridge."""
        self._taken = set(taken)
        left = [name for name in taps.names(self._prefix) if name not in self._taken]
        for name in left[self._keep :]:
            await self._on_thread(partial(_remove, name))
        for name in left[: self._keep]:
            with suppress(OSError):
                await self._on_thread(partial(taps.flush, name))
            self._kept.append(KeptTap(name, -1, ""))
        while len(self._kept) < self._keep and taps.exists(bridge):
            name = self._new_name()
            self._taken.add(name)
            try:
                await self._on_thread(partial(_make, KeptTap(name, 0, bridge)))
            except OSError:
                return  # the first start says what is wrong
            finally:
                self._taken.discard(name)
            self._kept.append(KeptTap(name, 0, bridge))

    async def take(self, user: int, bridge: str) -> str:
        """Return the name of a tap on a bridge that the user, and nobody else, can open; raises BootFailed."""
        while True:
            kept = self._best(user, bridge)
            name = self._new_name() if kept is None else kept.name
            wanted = KeptTap(name, user, bridge)
            self._taken.add(name)
            if kept == wanted:
                return name
            try:
                await self._on_thread(partial(_adapt, kept, wanted))
            except OSError as error:
                if kept is not None and error.errno == errno.EBUSY:
                    continue  # somebody has opened it: it stays taken, and another is made
                await self._removed(name)
                raise _fault(bridge, error) from None
            return name

    async def release(self, names: Sequence[str], user: int, bridges: Sequence[str]) -> None:
        """Take back the taps of a tender that has ended: keep them, or remove them if there are enough."""
        for name, bridge in zip(names, bridges, strict=True):
            if name not in self._taken:
                continue
            try:
                await self._on_thread(partial(taps.flush, name))
            except OSError:  # it is on no bridge any more, or gone: not one to keep
                await self._removed(name)
            else:
                if len(self._kept) < self._keep:
                    self._taken.discard(name)
                    self._kept.append(KeptTap(name, user, bridge))
                else:
                    await self._removed(name)

    async def _removed(self, name: str) -> None:
        """Remove a tap; its name is not used again before that is done."""
        with suppress(OSError):
            await self._on_thread(partial(_remove, name))
        self._taken.discard(name)

    def _best(self, user: int, bridge: str) -> KeptTap | None:
        """Take one out of those that are kept: the user's own on that bridge, else one of that bridge, else any."""
        if not self._kept:
            return None
        best = max(self._kept, key=lambda kept: (kept.bridge == bridge, kept.user == user))
        self._kept.remove(best)
        return best

    def _new_name(self) -> str:
        used = {*self._taken, *(kept.name for kept in self._kept)}
        return next(name for n in range(1_000_000) if (name := f"{self._prefix}{n}") not in used)


def _fault(bridge: str, error: OSError) -> BootFailed:
    if not taps.exists(bridge):
        return BootFailed(f"there is no bridge {bridge}", hint=f"make it: ip link add {bridge} type bridge")
    return BootFailed(f"no tap can be made on the bridge {bridge}: {error.strerror}")


def _make(wanted: KeptTap) -> None:
    taps.make(wanted.name, wanted.user)
    taps.join(wanted.name, wanted.bridge)


def _adapt(kept: KeptTap | None, wanted: KeptTap) -> None:
    """Make a tap what it is wanted to be."""
    if kept is None or not taps.exists(kept.name):
        _make(wanted)
        return
    if kept.user != wanted.user:
        taps.give(wanted.name, wanted.user)
    if kept.bridge != wanted.bridge:
        taps.join(wanted.name, wanted.bridge)


def _remove(name: str) -> None:
    with suppress(OSError):
        taps.remove(name)
