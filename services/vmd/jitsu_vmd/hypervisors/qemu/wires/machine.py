"""One QEMU process: started, or found again; what it says, and why it has ended."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from jitsu_protocol.model.errors import BootFailed, Unavailable
from jitsu_vmd.hypervisors.qemu.rules.command_line import QMP, SERIAL
from jitsu_vmd.hypervisors.qemu.rules.launch import launch_from_json
from jitsu_vmd.hypervisors.qemu.rules.reasons import LOOP, RESETS, has_panicked, only_resets, reason
from jitsu_vmd.hypervisors.qemu.wires.monitor import CONNECT_LIMIT_S, RETRY_S, QmpMonitor, connected, peer
from jitsu_vmd.hypervisors.qemu.wires.spawn import END_LIMIT_S, MARK, end_orphan, spawn
from jitsu_vmd.hypervisors.shared.process_ids import boot_id, process_stat

if TYPE_CHECKING:
    import socket
    import subprocess
    from collections.abc import Callable
    from pathlib import Path

    from jitsu_vmd.hypervisors.qemu.rules.launch import Launch
    from jitsu_vmd.hypervisors.qemu.wires.reserved_taps import ReservedTaps
    from jitsu_vmd.hypervisors.qemu.wires.scopes import Scopes
    from jitsu_vmd.hypervisors.qemu.wires.spawn import Spawned

MAX_PRINTED_BYTES = 16 << 10
ENDING_S = 0.5
TOLD = ("STOP", "RESUME", "SHUTDOWN", "GUEST_PANICKED", "BLOCK_IO_ERROR")
"""The events of QMP after which a VM is to be looked at."""


@dataclass(frozen=True)
class Around:
    """What processes get from outside of QEMU."""

    taps: ReservedTaps
    scopes: Scopes


class QemuProcess:
    """A process, and what is known of it."""

    def __init__(self, directory: Path, launch: Launch, changed: Callable[[str], None]) -> None:
        self.directory = directory
        self.launch = launch
        self.pid = 0
        self.cause = ""
        """What QEMU's own event says of its end."""
        self.ended = asyncio.Event()
        self.monitor = QmpMonitor(launch.name)
        self._process: subprocess.Popen[bytes] | None = None
        self._changed = changed
        self._printed = bytearray()
        self._resets: list[float] = []
        """When the guest has reset itself, in Unix time."""
        self._tasks: list[asyncio.Task[None]] = []
        self._pidfd = -1

    # --- starting and finding ---

    async def start(self, spawned: Spawned, around: Around) -> None:
        """Start the process, as `spawn` does, and connect to it; raises BootFailed."""
        try:
            await end_orphan(self.directory, spawned.runs_as.user)
            nics = [replace(nic, bridge="") if spawned.launch.template else nic for nic in self.launch.nics]
            self._process = spawn(self.directory, spawned, around.taps.take(self.launch.uuid, nics))
        except OSError as error:
            what = f"{error.filename}: " if error.filename else ""
            raise BootFailed(f"QEMU cannot be started: {what}{error.strerror}") from None
        except ValueError as error:  # of a disk
            raise BootFailed(f"QEMU cannot be started: {error}") from None
        self.pid = self._process.pid
        is_there = False
        try:
            self._write_record(process_stat(self.pid)[1])
            self.watch()
            await around.scopes.place(self.launch.uuid, self.launch.name, self.pid)
            await self.connect()
            is_there = True
        except (OSError, Unavailable) as error:
            said = self.reason() if await self.ends_now() else str(error)
            await self.kill()
            raise BootFailed(said) from None
        finally:
            if not is_there and not self.ended.is_set():
                self._process.kill()  # the start was cancelled: nobody waits for it

    async def connect(self) -> None:
        """Connect, to one that an earlier vmd has started too; raises Unavailable."""
        await self._disconnect()
        self.monitor = QmpMonitor(self.launch.name)
        await self.monitor.connect(await self.connected(QMP))
        serial = await self.connected(SERIAL)
        self._tasks = [
            asyncio.ensure_future(self.monitor.follow(self._happened)),
            asyncio.ensure_future(self._read(serial)),
        ]

    async def connected(self, name: str) -> socket.socket:
        """Return a connection to a socket of this very process; raises Unavailable."""
        with suppress(TimeoutError):
            async with asyncio.timeout(CONNECT_LIMIT_S):
                while not self.ended.is_set():
                    with suppress(OSError):
                        made = connected(self.directory, name)
                        if peer(made) == self.pid:
                            return made
                        made.close()
                    await asyncio.sleep(RETRY_S)
        raise Unavailable(f"QEMU of {self.launch.name} does not listen")

    def _write_record(self, start: int) -> None:
        record = {"pid": self.pid, "start": start, "boot": boot_id(), "launch": self.launch.to_json()}
        new = self.directory / "record.new"
        new.write_text(json.dumps(record))
        new.chmod(0o600)
        new.rename(self.directory / "record")

    @property
    def child(self) -> subprocess.Popen[bytes] | None:
        """Its process, if it is a child of this vmd that has not ended."""
        return None if self.ended.is_set() else self._process

    def adopt(self, child: subprocess.Popen[bytes] | None) -> None:
        """Take in the process of one that was found again: this vmd has started it, and reaps it."""
        self._process = child

    def watch(self) -> None:
        """Notice when it ends; raises OSError if it has."""
        self._pidfd = os.pidfd_open(self.pid)
        asyncio.get_running_loop().add_reader(self._pidfd, self._has_ended)

    def _has_ended(self) -> None:
        if self._process is not None:
            self._process.poll()
        self._unwatch()
        self.ended.set()
        self._changed(self.launch.uuid)

    async def ends_now(self) -> bool:
        """Say whether it has ended, or does so in a moment: its connections end before it does."""
        with suppress(TimeoutError):
            async with asyncio.timeout(ENDING_S):
                await self.ended.wait()
        return self.ended.is_set()

    def _unwatch(self) -> None:
        if self._pidfd >= 0:
            asyncio.get_running_loop().remove_reader(self._pidfd)
            os.close(self._pidfd)
            self._pidfd = -1

    # --- what it says ---

    def _happened(self, event: dict[str, Any]) -> None:
        name = event.get("event")
        data, stamp = ({} if not isinstance(event.get(key), dict) else event[key] for key in ("data", "timestamp"))
        if name == "SHUTDOWN":
            self.cause = self.cause or str(data.get("reason") or "")
        elif name == "GUEST_PANICKED":
            self.cause = "guest-panic"
        elif name == "RESET" and data.get("guest") and isinstance(seconds := stamp.get("seconds"), int):
            self._resets = [*self._resets[1 - RESETS :], float(seconds)]
            self._look_for_failure()
        if name in TOLD:
            self._changed(self.launch.uuid)

    async def _read(self, serial: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        with serial, suppress(OSError):
            while got := await loop.sock_recv(serial, 4096):
                self._printed += got
                del self._printed[:-MAX_PRINTED_BYTES]
                self._look_for_failure()

    def _look_for_failure(self) -> None:
        """End a guest that will only fail again: what it has printed says why, and not what it prints next time."""
        if self._resets and has_panicked(self._printed):
            self.cause = "guest-panic"
        elif only_resets(self._resets):
            self.cause = LOOP
        else:
            return
        self._signal()

    def reason(self) -> str:
        """Return why it has ended."""
        try:
            errors = (self.directory / "errors").read_bytes()[-MAX_PRINTED_BYTES:]
        except OSError:
            errors = b""
        return reason(self.status, self.cause, errors, bytes(self._printed))

    @property
    def status(self) -> int | None:
        """Its exit status, None if nobody knows."""
        return self._process.returncode if self._process is not None else None

    @property
    def is_unfinished(self) -> bool:
        """Whether it is a clone that has no identity of its own yet, or never got one."""
        return bool(self.launch.template) and not (self.directory / MARK).exists()

    def finish(self) -> None:
        """Set the mark of a clone that has an identity of its own; raises OSError."""
        (self.directory / MARK).touch()

    # --- ending ---

    def _signal(self) -> None:
        if not self.ended.is_set() and self._pidfd >= 0:
            with suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)

    async def kill(self) -> None:
        """End the process, and return when it has ended; raises Unavailable."""
        self._signal()
        if self._pidfd >= 0:
            try:
                async with asyncio.timeout(END_LIMIT_S):
                    await self.ended.wait()
            except TimeoutError:
                raise Unavailable(f"QEMU of {self.launch.name} does not end, though it was killed") from None
        await self.close()
        (self.directory / "record").unlink(missing_ok=True)

    async def close(self) -> None:
        """End the connections; the process goes on, if it has not ended."""
        await self._disconnect()
        self._unwatch()

    async def _disconnect(self) -> None:
        for task in self._tasks:
            task.cancel()
        self._tasks = []
        await self.monitor.close()


def found_again(directory: Path, changed: Callable[[str], None]) -> QemuProcess | None:
    """Return the process of a directory's record, None if it has ended."""
    try:
        record = json.loads((directory / "record").read_text())
        machine = QemuProcess(directory, launch_from_json(record["launch"]), changed)
        machine.pid = int(record["pid"])
        state, start = process_stat(machine.pid)
        if record["boot"] != boot_id() or start != record["start"] or state == "Z":
            return None
        machine.watch()
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return machine
