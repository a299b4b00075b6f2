"""Processes that wait to become tenders, so that a start costs neither a fork(2) nor the copying of pages after it.

    launcher                         spare
    forks it                         gives up what it can (confinement.py), and waits
    a command, and the console  ->   becomes the tender: the channel closes by itself
                                     or it cannot, and writes why
    dies                             the channel closes: it ends

From the command to the execve(2), a spare takes about half as long as a fork: 2.2 against 4.0 ms (median of 60, on two
processors with a load of 5).
"""

from __future__ import annotations

import json
import os
import signal
import socket
from contextlib import suppress
from dataclasses import asdict, dataclass

from jitsu_vmd.hypervisors.shared.process_ids import process_stat
from jitsu_vmd.hypervisors.solo5.wires import records
from jitsu_vmd.hypervisors.solo5.wires.confinement import Command, become, prepare

KEPT = 2
"""Processes that wait to become a tender. When more are wanted at once, they are forked then."""
MAX_COMMAND_BYTES = 64 * 1024


@dataclass
class Spare:
    """One process that waits."""

    pid: int
    process: int
    """Its pidfd."""
    channel: socket.socket

    def become(self, command: Command, record: records.TenderRecord, directory: str, console: int) -> None:
        """Tell it what to become; `channel` closes when it has, or has the reason why not. Raises OSError."""
        body = {"command": asdict(command), "path": f"{directory}/{record.uuid}{records.SUFFIX}"}
        text = json.dumps(body | {"record": records.prepared(record)}).encode()
        if len(text) > MAX_COMMAND_BYTES:
            raise OSError(7, "the command line is too long")
        socket.send_fds(self.channel, [text], [console])

    def end(self) -> None:
        """End one that is not needed, or has failed."""
        with suppress(ProcessLookupError):
            signal.pidfd_send_signal(self.process, signal.SIGKILL)
        with suppress(ChildProcessError):
            os.waitpid(self.pid, 0)
        os.close(self.process)
        self.channel.close()


class Spares:
    """Those that wait."""

    def __init__(self, lock: int) -> None:
        """`lock` is a descriptor that they keep until they have become tenders."""
        self._lock = lock
        self._waiting: list[Spare] = []

    def take(self) -> Spare:
        """Return one that waits, or fork one; raises OSError."""
        while self._waiting:
            spare = self._waiting.pop()
            with suppress(BlockingIOError):
                spare.channel.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
                spare.end()  # it is gone: the channel is closed
                continue
            return spare
        return _forked(self._lock)

    def refill(self) -> None:
        """Have as many as are to wait; raises OSError."""
        while len(self._waiting) < KEPT:
            self._waiting.append(_forked(self._lock))

    def end_all(self) -> None:
        """Keep none."""
        while self._waiting:
            self._waiting.pop().end()


def _forked(lock: int) -> Spare:
    here, there = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    try:
        pid = os.fork()
    except OSError:
        here.close()
        there.close()
        raise
    if pid == 0:
        try:
            _wait(there, lock)
        finally:
            os._exit(127)
    there.close()
    return Spare(pid, os.pidfd_open(pid), here)


def _wait(channel: socket.socket, lock: int) -> None:
    """Be a spare."""
    prepare({channel.fileno(), lock})
    _, ticks = process_stat(os.getpid())
    _rehearse()
    text, descriptors, *_ = socket.recv_fds(channel, MAX_COMMAND_BYTES, 1)
    if not text:
        return
    os.set_inheritable(descriptors[0], False)  # Python's recv_fds does not
    order = json.loads(text)
    record = (order["path"], ticks, order["record"].encode())
    channel.send(become(Command(**order["command"]), record, descriptors[0]).encode())


def _rehearse() -> None:
    """Do once what will be done in haste: the pages that it writes to are copied now (fork(2))."""
    text = json.dumps({"command": asdict(Command(["/"], 0, 0)), "path": "/", "record": "{}"})
    order = json.loads(text)
    become(Command(**order["command"]), ("/", 0, order["record"].encode()), 0)  # "/" is no file: it fails there
