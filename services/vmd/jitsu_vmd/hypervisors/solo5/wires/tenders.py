"""The tenders that run, as their launcher has them: each is started, signalled, and seen to end.

    a guest        start        kill        pause      continue    ends by itself    forget
    (none)         starting     -           fault      fault                         -
    starting       fault        (none)      fault      fault       (none), fault     fault
    running        fault        (none)      paused     -           ended             fault
    paused         fault        (none)      -          running     ended             fault
    ended          starting     (none)      fault      fault                         (none)

"-": nothing is done, and that is no error. A guest of which there is none has no record either. One that has ended by
itself keeps its record and console until it is forgotten or started again, so that vmd can learn why.

A kill is answered when the process is gone. That is also when the kernel has closed its tap and its disks: a pidfd
becomes readable after that (exit(2) closes the descriptors first).
"""

from __future__ import annotations

import os
import signal
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

from jitsu_vmd.hypervisors.solo5.rules import console as console_rules
from jitsu_vmd.hypervisors.solo5.wires import disks, records
from jitsu_vmd.hypervisors.solo5.wires.consoles import REST_S, Console
from jitsu_vmd.hypervisors.solo5.wires.loop import now
from jitsu_vmd.hypervisors.solo5.wires.spares import Spares

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable
    from pathlib import Path

    from jitsu_vmd.hypervisors.solo5.wires.confinement import Command
    from jitsu_vmd.hypervisors.solo5.wires.loop import Loop
    from jitsu_vmd.hypervisors.solo5.wires.records import TenderRecord

    Answer = Callable[[str], None]
    """Called with "", or with the reason why a request could not be carried out."""

STOP_LIMIT_S = 1.0
"""SIGSTOP takes effect when the process is next scheduled, normally within a millisecond."""
STOP_LOOK_S = 0.0005
NICE, NICE_AFTER_S = 5, 2.0
"""A guest that never waits must not delay those that serve names and packets. While it boots, a client waits."""
SERVED_S = 0.02
"""After a start: by then the guest has answered, and does not wait for the processor that a fork takes, or the copying
of what it prints."""


class TenderFault(Exception):
    """A request cannot be carried out; says why."""


@dataclass
class Tender:
    """One that is starting, runs, is paused, or has ended."""

    record: TenderRecord
    console: Console
    is_child: bool = False
    process: int = -1
    """Its pidfd, for as long as it is there."""
    starting: socket.socket | None = None
    """While it is starting: the channel that the child closes by becoming the tender."""
    started: Answer | None = None
    has_ended: bool = False
    status: int | None = None
    reason: str = ""
    kills: list[Answer] = field(default_factory=list)
    """The callers that wait for it to end."""

    def view(self) -> dict[str, Any]:
        """Return what is reported to vmd."""
        record = self.record
        return {
            "uuid": record.uuid,
            "state": "ended" if self.has_ended else "paused" if record.is_stopped() else "running",
            "status": self.status,
            "reason": self.reason,
            "up_s": None if self.has_ended else record.up_s(),
            "user": record.user,
            "taps": record.taps,
            "bridges": record.bridges,
            "macs": record.macs,
            "disks": record.disks,
        }


class Tenders:
    """All tenders of one runtime directory; those that an earlier launcher has started are found by their records."""

    def __init__(self, directory: Path, loop: Loop, lock: int, ended: Callable[[str], None]) -> None:
        """`lock` is kept by processes that are not tenders yet.

        `ended` is called with the UUID of a guest that has ended, by itself or because it was killed.
        """
        self._directory = directory
        self._loop = loop
        self._says_ended = ended
        self._spares = Spares(lock)
        self._refill()
        self.all: dict[str, Tender] = {}
        for record in records.read_all(directory).values():
            self._adopt(record)

    def running(self) -> list[Tender]:
        """Return those that have not ended."""
        return [tender for tender in self.all.values() if not tender.has_ended]

    # --- requests ---

    def start(self, command: Command, record: TenderRecord, answer: Answer) -> None:
        """Start a tender, and answer when it has been executed or could not be. Raises TenderFault or OSError."""
        before = self.all.get(record.uuid)
        if before is not None and not before.has_ended:
            raise TenderFault("it runs already")
        if before is not None:
            self._drop(before)
        for path in record.disks:
            disks.give(path, record.user)
        console = Console(self._directory, record.uuid)
        descriptor = console.open()
        spare = self._spares.take()
        try:
            spare.become(command, record, str(self._directory), descriptor)
            tender = Tender(records.of_process(record, spare.pid), console, True, spare.process, spare.channel, answer)
        except OSError:
            spare.end()
            console.close()
            console.remove()
            raise
        self.all[record.uuid] = tender
        self._loop.watch(spare.channel.fileno(), partial(self._executed, tender))
        self._loop.watch(spare.process, partial(self._ended, tender))
        self._loop.later(SERVED_S, partial(self._watch_console, tender))
        self._loop.later(SERVED_S, self._refill)
        self._loop.later(NICE_AFTER_S, partial(self._be_nice, tender))

    @staticmethod
    def _be_nice(tender: Tender) -> None:
        if not tender.has_ended:
            with suppress(OSError):
                os.setpriority(os.PRIO_PROCESS, tender.record.pid, NICE)

    def _refill(self) -> None:
        with suppress(OSError):
            self._spares.refill()

    def close(self) -> None:
        """End the processes that wait; the tenders run on."""
        self._spares.end_all()

    def kill(self, uuid: str, answer: Answer) -> None:
        """End a guest; it is answered when it has ended, and at once if it does not run."""
        tender = self.all.get(uuid)
        if tender is None or tender.has_ended:
            if tender is not None:
                self._drop(tender)
            answer("")
            return
        tender.kills.append(answer)
        self._signal(tender, signal.SIGKILL)

    def pause(self, uuid: str, answer: Answer) -> None:
        """Stop a guest where it is; it is answered when it has stopped. Raises TenderFault."""
        tender = self._running(uuid)
        self._signal(tender, signal.SIGSTOP)
        self._stopped(tender, answer, now() + STOP_LIMIT_S)

    def _stopped(self, tender: Tender, answer: Answer, until: float) -> None:
        if tender.has_ended:
            answer("it has ended")
        elif tender.record.is_stopped():
            answer("")
        elif now() > until:
            answer("it has not stopped in time")
        else:
            self._loop.later(STOP_LOOK_S, partial(self._stopped, tender, answer, until))

    def go_on(self, uuid: str) -> None:
        """Let a paused guest run on; raises TenderFault if it has ended."""
        self._signal(self._running(uuid), signal.SIGCONT)

    def forget(self, uuid: str) -> None:
        """Remove what is left of a guest that has ended; raises TenderFault if it has not."""
        tender = self.all.get(uuid)
        if tender is not None and not tender.has_ended:
            raise TenderFault("it has not ended")
        if tender is not None:
            self._drop(tender)

    def _running(self, uuid: str) -> Tender:
        tender = self.all.get(uuid)
        if tender is None or tender.has_ended or tender.starting is not None:
            raise TenderFault("it does not run")
        return tender

    @staticmethod
    def _signal(tender: Tender, number: signal.Signals) -> None:
        with suppress(ProcessLookupError):
            signal.pidfd_send_signal(tender.process, number)

    # --- what happens ---

    def _executed(self, tender: Tender) -> None:
        """A child has become the tender, or has written why it could not."""
        assert tender.starting is not None
        fault = tender.starting.recv(4096).decode("utf-8", "replace")
        self._loop.unwatch(tender.starting.fileno())
        tender.starting.close()
        tender.starting = None
        answer, tender.started = tender.started, None
        if fault:
            with suppress(ChildProcessError):
                os.waitpid(tender.record.pid, 0)
            self._close(tender)
            self._drop(tender)
        if answer is not None:
            answer(fault)
        if fault:
            for each in tender.kills:
                each("")

    def _adopt(self, record: TenderRecord) -> None:
        """Find a tender that an earlier launcher has started."""
        tender = Tender(record, Console(self._directory, record.uuid))
        self.all[record.uuid] = tender
        with suppress(OSError):
            tender.process = os.pidfd_open(record.pid)  # before the look: the number may be used again until then
        if tender.process < 0 or not record.is_alive():
            self._close(tender)
            self._conclude(tender)
            return
        with suppress(OSError):
            tender.console.open()
        self._loop.watch(tender.process, partial(self._ended, tender))
        self._watch_console(tender)

    def _watch_console(self, tender: Tender) -> None:
        if not tender.has_ended and tender.console.descriptor >= 0:
            self._loop.watch(tender.console.descriptor, partial(self._printed, tender))

    def _printed(self, tender: Tender) -> None:
        """Copy what a guest has printed, and rest, so that one that prints without end costs little."""
        self._loop.unwatch(tender.console.descriptor)
        tender.console.drain()
        self._loop.later(REST_S, partial(self._watch_console, tender))

    def _ended(self, tender: Tender) -> None:
        """The process of a tender is gone."""
        if tender.starting is not None:
            self._executed(tender)  # what it has written about its start is read first
            if self.all.get(tender.record.uuid) is not tender:
                return
        if tender.is_child:
            with suppress(ChildProcessError):
                tender.status = os.waitstatus_to_exitcode(os.waitpid(tender.record.pid, 0)[1])
        self._close(tender)
        self._conclude(tender)

    def _conclude(self, tender: Tender) -> None:
        tender.has_ended = True
        tender.reason = console_rules.reason(tender.status, tender.console.tail())
        if tender.kills:
            self._drop(tender)
        self._says_ended(tender.record.uuid)
        for answer in tender.kills:
            answer("")

    def _close(self, tender: Tender) -> None:
        """Close the descriptors of a tender; what it has printed is read before that."""
        if tender.process >= 0:
            self._loop.unwatch(tender.process)
            os.close(tender.process)
            tender.process = -1
        self._loop.unwatch(tender.console.descriptor)
        tender.console.close()

    def _drop(self, tender: Tender) -> None:
        """Keep nothing of a tender."""
        if self.all.get(tender.record.uuid) is tender:
            del self.all[tender.record.uuid]
            records.remove(self._directory, tender.record.uuid)
            tender.console.remove()
