"""Writes the journal of statistics, and commits them once in the interval; rules/statistics.py has the states."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import structlog

from jitsu_protocol.model.errors import Invalid, JitsuError
from jitsu_store.rules.statistics import PendingStatistics, line, read

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from jitsu_runtime.clock import Clock
    from jitsu_store.rules.statistics import Recorded
    from jitsu_store.wires.storage import FileStore, Worker

JOURNAL = "jitsu-statistics.journal"
JOURNAL_S = 1.0
"""Statistics are on the disk within this time."""
MAX_JOURNAL_BYTES = 8 * 1024 * 1024
"""A longer journal is rewritten with only the latest value of each path."""

log = structlog.get_logger("store")


class JournalFile:
    """The journal. Its methods block: they are for the store's disk worker."""

    def __init__(self, files: FileStore) -> None:
        self._files = files

    def read(self) -> dict[str, Recorded]:
        """Return what it has, nothing if there is no journal; raises OSError."""
        try:
            return read(self._files.read(JOURNAL))
        except FileNotFoundError:
            return {}

    def append(self, recorded: Mapping[str, Recorded]) -> int:
        """Add a line, bring it to the disk, and return how long the journal is; raises OSError."""
        return self._files.append(JOURNAL, line(recorded))

    def rewrite(self, recorded: Mapping[str, Recorded]) -> None:
        """Keep only this; raises OSError."""
        if recorded:
            self._files.replace(JOURNAL, line(recorded))
        else:
            self._files.remove(JOURNAL)


class StatisticsKeeper:
    """Keeps statistics in the journal, and commits them once in a while."""

    def __init__(
        self,
        file: JournalFile,
        worker: Worker,
        clock: Clock,
        commit: Callable[[Mapping[str, str], str], Awaitable[None]],
        interval_s: float,
    ) -> None:
        """Read what an earlier start left. `commit` is given values and the services that recorded them."""
        self.statistics = PendingStatistics()
        self._file = file
        self._worker = worker
        self._clock = clock
        self._commit = commit
        self._interval_s = interval_s
        self._commits = asyncio.Lock()
        self._has_dropped = False
        self._is_written = True
        """The last attempt to write the journal succeeded."""
        try:
            self.statistics.restore(file.read())
            file.rewrite(self.statistics.pending())
        except (OSError, ValueError) as error:
            log.error("cannot use the statistics' journal; some statistics may be lost", error=str(error))

    async def run(self) -> None:
        """Write the journal each second, and commit once in the interval, until cancelled."""
        due: float | None = None
        while True:
            await asyncio.sleep(JOURNAL_S)
            await self.journal()
            if not len(self.statistics):
                due = None
            elif due is None:
                due = self._clock.now() + self._interval_s - JOURNAL_S
            if due is not None and self._clock.now() >= due:
                due = None
                await self.try_to_flush()

    async def stop(self) -> None:
        """Bring all of it to the disk."""
        await self.journal()
        await self.try_to_flush()

    async def try_to_flush(self) -> None:
        """Commit all that waits; if that fails, log it and let it go on waiting."""
        try:
            await self.flush()
        except JitsuError as error:
            log.error("statistics are not committed yet", error=str(error))

    async def journal(self) -> None:
        """Bring what has been recorded since the last time to the disk."""
        unwritten = self.statistics.unwritten()
        if not unwritten:
            return

        def write() -> None:
            if self._file.append(unwritten) > MAX_JOURNAL_BYTES:
                self._file.rewrite(pending)

        pending = self.statistics.pending()
        await self._on_disk(write, unwritten)

    async def flush(self) -> None:
        """Commit all that waits; raises JitsuError, and then it goes on waiting."""
        async with self._commits:
            recorded = self.statistics.pending()
            if not recorded:
                return
            try:
                await self._commit_all(recorded)
            except Invalid:
                await self._commit_each(recorded)
            self.statistics.committed(recorded)
            newer = self.statistics.pending()
            self.statistics.unwritten()
            await self._on_disk(lambda: self._file.rewrite(newer), newer)

    async def _commit_all(self, recorded: Mapping[str, Recorded]) -> None:
        services = "+".join(sorted({service for _, service in recorded.values()}))
        await self._commit({path: value for path, (value, _) in recorded.items()}, services)

    async def _commit_each(self, recorded: Mapping[str, Recorded]) -> None:
        """Commit each VM's statistics alone, and drop what is refused: it would be refused each time."""
        by_vm: dict[str, dict[str, Recorded]] = {}
        for path, each in recorded.items():
            by_vm.setdefault("/".join(path.split("/")[:3]), {})[path] = each
        for path, theirs in by_vm.items():
            try:
                await self._commit_all(theirs)
            except Invalid as error:
                if not self._has_dropped:  # once: whoever records it may do so each minute
                    log.error("statistics were refused and dropped", path=path[:100], reason=error.message[:200])
                self._has_dropped = True

    async def _on_disk(self, write: Callable[[], None], recorded: Mapping[str, Recorded]) -> None:
        try:
            await self._worker.run(write)
        except OSError as error:
            self.statistics.not_written(recorded)
            if self._is_written:  # once, not each second
                log.error("the statistics' journal cannot be written; statistics stay in memory", error=str(error))
            self._is_written = False
        else:
            self._is_written = True
