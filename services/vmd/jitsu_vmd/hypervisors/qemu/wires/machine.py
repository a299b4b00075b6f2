"""One QEMU process: started with a user of its own, or found again; its serial port, and why it has ended."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from jitsu_protocol.model.errors import BootFailed, Unavailable
from jitsu_vmd.hypervisors.qemu.rules.command_line import QMP, SERIAL, opened
from jitsu_vmd.hypervisors.qemu.rules.launch import launch_from_json
from jitsu_vmd.hypervisors.qemu.rules.reasons import reason
from jitsu_vmd.hypervisors.qemu.wires.monitor import CONNECT_LIMIT_S, RETRY_S, QmpMonitor, connected, peer
from jitsu_vmd.hypervisors.shared import taps
from jitsu_vmd.hypervisors.shared.process_ids import boot_id, process_stat

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable
    from pathlib import Path

    from jitsu_vmd.hypervisors.qemu.rules.command_line import Opened
    from jitsu_vmd.hypervisors.qemu.rules.launch import Launch

MAX_PRINTED_BYTES = 16 << 10
END_LIMIT_S = 5.0
ENDING_S = 0.5
STATE_LIMIT_S = 300.0
"""The memory of a guest that is not in a file is written to a slow disk."""


@dataclass(frozen=True)
class Identity:
    """As whom a process runs."""

    user: int
    groups: list[int]
    """That of /dev/kvm, if the guest needs it."""


class QemuProcess:
    """A process, and what is known of it."""

    def __init__(self, directory: Path, launch: Launch, changed: Callable[[str], None]) -> None:
        self.directory = directory
        self.launch = launch
        self.pid = 0
        self.cause = ""
        """What QEMU's own event says of its end."""
        self.ended = asyncio.Event()
        self._process: subprocess.Popen[bytes] | None = None
        self._changed = changed
        self._printed = bytearray()
        self._tasks: list[asyncio.Task[None]] = []
        self._pidfd = -1
        self.monitor = QmpMonitor(launch.name)

    # --- starting and finding ---

    async def start(self, identity: Identity, words: Callable[[list[int]], list[str]], ram: str) -> None:
        """Start the process and connect to it; raises BootFailed.

        `words` makes the command line of descriptors, and `ram` is the path of the RAM file.
        """
        try:
            await self._end_orphan(identity.user)
            self._spawn(identity, words, ram)
        except OSError as error:
            what = f"{error.filename}: " if error.filename else ""
            raise BootFailed(f"QEMU cannot be started: {what}{error.strerror}") from None
        self._watch()
        try:
            await self._connect()
        except Unavailable as error:
            with suppress(TimeoutError):  # its connection ends a moment before it does
                async with asyncio.timeout(ENDING_S):
                    await self.ended.wait()
            said = self.reason() if self.ended.is_set() else str(error)
            await self.kill()
            raise BootFailed(said) from None

    async def _end_orphan(self, user: int) -> None:
        """End a process of this VM that has no record: vmd died before it could write one, so the guest never ran."""
        try:
            made = connected(self.directory, QMP)
        except OSError:
            return
        with made:
            orphan = peer(made)
        with suppress(OSError):
            pidfd = os.pidfd_open(orphan)
            try:
                if os.stat(f"/proc/{orphan}").st_uid == user:
                    signal.pidfd_send_signal(pidfd, signal.SIGKILL)
                    await _end_of(pidfd)
            finally:
                os.close(pidfd)

    def _spawn(self, identity: Identity, words: Callable[[list[int]], list[str]], ram: str) -> None:
        own = self.directory / "own"
        own.mkdir(mode=0o700, parents=True, exist_ok=True)
        self.directory.chmod(0o711)  # QEMU starts there; what it may change is in `own`
        os.chown(own, identity.user, identity.user)
        for name in (QMP, SERIAL):
            (self.directory / name).unlink(missing_ok=True)
        descriptors: list[int] = []
        try:
            for each in opened(self.launch, ram):
                descriptors.append(_descriptor(each))
            with (self.directory / "errors").open("wb") as errors:
                self._process = subprocess.Popen(
                    words(descriptors),
                    stdin=subprocess.DEVNULL,
                    stdout=errors,
                    stderr=errors,
                    cwd=self.directory,
                    env={"PATH": "/usr/bin:/bin"},
                    pass_fds=descriptors,
                    start_new_session=True,
                    user=identity.user,
                    group=identity.user,
                    extra_groups=identity.groups,
                    umask=0o077,
                )
        finally:
            for descriptor in descriptors:
                os.close(descriptor)
        self.pid = self._process.pid
        self._write_record(process_stat(self.pid)[1])

    async def _connect(self) -> None:
        made = await self._connected(QMP)
        await self.monitor.connect(made)
        serial = await self._connected(SERIAL)
        self._tasks = [
            asyncio.ensure_future(self.monitor.follow(self._happened)),
            asyncio.ensure_future(self._read(serial)),
        ]

    async def connect_again(self) -> None:
        """Connect to a process that was started by an earlier vmd; raises Unavailable."""
        self._watch()
        await self._connect()

    async def _connected(self, name: str) -> socket.socket:
        """Return a connection to a socket of this very process; raises Unavailable."""
        try:
            async with asyncio.timeout(CONNECT_LIMIT_S):
                while not self.ended.is_set():
                    with suppress(OSError):
                        made = connected(self.directory, name)
                        if peer(made) == self.pid:
                            return made
                        made.close()
                    await asyncio.sleep(RETRY_S)
        except TimeoutError:
            pass
        raise Unavailable(f"QEMU of {self.launch.name} does not listen")

    def _write_record(self, start: int) -> None:
        record = {"pid": self.pid, "start": start, "boot": boot_id(), "launch": self.launch.to_json()}
        new = self.directory / "record.new"
        new.write_text(json.dumps(record))
        new.chmod(0o600)
        new.rename(self.directory / "record")

    def _watch(self) -> None:
        self._pidfd = os.pidfd_open(self.pid)
        asyncio.get_running_loop().add_reader(self._pidfd, self._has_ended)

    def _has_ended(self) -> None:
        if self._process is not None:
            self._process.poll()
        self.forget_process()
        self.ended.set()
        self._changed(self.launch.uuid)

    def forget_process(self) -> None:
        """Stop watching it: it has ended, or vmd does."""
        if self._pidfd >= 0:
            asyncio.get_running_loop().remove_reader(self._pidfd)
            os.close(self._pidfd)
            self._pidfd = -1

    # --- what it says ---

    def _happened(self, event: dict[str, Any]) -> None:
        name, data = event.get("event"), event.get("data") or {}
        if name == "SHUTDOWN":
            self.cause = str(data.get("reason") or "")
        elif name == "GUEST_PANICKED":
            self.cause = "guest-panic"
        if name in ("STOP", "RESUME", "SHUTDOWN", "GUEST_PANICKED", "BLOCK_IO_ERROR"):
            self._changed(self.launch.uuid)

    async def _read(self, serial: socket.socket) -> None:
        loop = asyncio.get_running_loop()
        with serial, suppress(OSError):
            while got := await loop.sock_recv(serial, 4096):
                self._printed += got
                del self._printed[:-MAX_PRINTED_BYTES]

    def reason(self) -> str:
        """Return why it has ended."""
        status = self._process.returncode if self._process is not None else None
        try:
            errors = (self.directory / "errors").read_bytes()[-MAX_PRINTED_BYTES:]
        except OSError:
            errors = b""
        return reason(status, self.cause, errors, bytes(self._printed))

    @property
    def status(self) -> int | None:
        """Its exit status, None if nobody knows."""
        return self._process.returncode if self._process is not None else None

    # --- ending ---

    async def kill(self) -> None:
        """End the process, and return when it has ended; raises Unavailable."""
        if not self.ended.is_set() and self._pidfd >= 0:
            with suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)
            try:
                async with asyncio.timeout(END_LIMIT_S):
                    await self.ended.wait()
            except TimeoutError:
                raise Unavailable(f"QEMU of {self.launch.name} does not end, though it was killed") from None
        await self.close()
        (self.directory / "record").unlink(missing_ok=True)

    async def close(self) -> None:
        """End the connections; the process goes on, if it has not ended."""
        for task in self._tasks:
            task.cancel()
        self._tasks = []
        await self.monitor.close()
        self.forget_process()

    # --- its state ---

    async def ignore_shared(self) -> None:
        """Leave memory that is in a file out of what is saved and loaded."""
        if self.launch.shares_memory:
            capability = {"capability": "x-ignore-shared", "state": True}
            await self.monitor.call("migrate-set-capabilities", capabilities=[capability])

    async def save(self, user: int) -> bytes:
        """Return the state of a guest that is stopped; raises Unavailable."""
        path = self.directory / "save"  # only root may put anything there
        path.unlink(missing_ok=True)
        got: list[bytes] = []
        done = asyncio.Event()

        async def receive(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            if peer(writer.get_extra_info("socket")) == self.pid:
                while part := await reader.read(1 << 20):
                    got.append(part)
                done.set()
            writer.close()

        at = os.open(path.parent, os.O_PATH | os.O_CLOEXEC)
        try:
            server = await asyncio.start_unix_server(receive, f"/proc/self/fd/{at}/save")
        finally:
            os.close(at)
        os.chown(path, user, user)
        try:
            await self.ignore_shared()
            await self.monitor.call("migrate-set-parameters", **{"max-bandwidth": 10 << 30})
            await self.monitor.call("migrate", uri="unix:save")
            await self._migrated()
            async with asyncio.timeout(END_LIMIT_S):
                await done.wait()
        except TimeoutError:
            raise Unavailable(f"{self.launch.name}: QEMU has not closed what it saved to") from None
        finally:
            server.close()
            path.unlink(missing_ok=True)
        return b"".join(got)

    async def load(self, state: bytes) -> None:
        """Give a process that waits for it the state of a guest; raises Unavailable."""
        await self.ignore_shared()
        await self.monitor.call("migrate-incoming", uri="unix:own/load")
        made = await self._connected("own/load")
        with made:
            await asyncio.get_running_loop().sock_sendall(made, state)
        await self._migrated()

    async def _migrated(self) -> None:
        try:
            async with asyncio.timeout(STATE_LIMIT_S):
                while (said := await self.monitor.call("query-migrate")).get("status") != "completed":
                    if said.get("status") in ("failed", "cancelled"):
                        why = said.get("error-desc", said["status"])
                        raise Unavailable(f"{self.launch.name}: QEMU could not move the state: {why}")
                    await asyncio.sleep(RETRY_S)
        except TimeoutError:
            raise Unavailable(f"{self.launch.name}: QEMU has not moved the state in time") from None


async def _end_of(pidfd: int) -> None:
    """Return when a process has ended, or END_LIMIT_S later."""
    ended = asyncio.Event()
    loop = asyncio.get_running_loop()
    loop.add_reader(pidfd, ended.set)
    try:
        async with asyncio.timeout(END_LIMIT_S):
            await ended.wait()
    except TimeoutError:
        pass
    finally:
        loop.remove_reader(pidfd)


def _descriptor(wanted: Opened) -> int:
    """Open a file, or make a tap that is there for as long as it is open; raises OSError."""
    if wanted.kind == "file":
        return os.open(wanted.path, os.O_RDWR | os.O_CLOEXEC)
    descriptor = taps.attach(wanted.path)
    try:
        taps.join(wanted.path, wanted.bridge)
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


def found_again(directory: Path, changed: Callable[[str], None]) -> QemuProcess | None:
    """Return the process of a directory's record, None if it has ended."""
    try:
        record = json.loads((directory / "record").read_text())
        machine = QemuProcess(directory, launch_from_json(record["launch"]), changed)
        machine.pid = int(record["pid"])
        is_same = record["boot"] == boot_id() and machine.pid and process_stat(machine.pid)[1] == record["start"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    if not is_same or process_stat(machine.pid)[0] == "Z":
        return None
    return machine
