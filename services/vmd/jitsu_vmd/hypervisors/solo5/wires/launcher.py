"""The launcher: the process whose children the tenders are. It starts them, sends them signals, and sees them end.

It is a process of its own for three reasons. It is small, so that its fork(2) takes 0.2 ms. It has rights that vmd does
not need otherwise. And it outlives vmd, as the tenders do: a vmd that returns connects to it and learns what runs.
The other way round, tenders outlive a launcher that dies: the next one finds them by their records (records.py).

Requests and answers are lines of JSON on a Unix socket that only root may connect to. A new vmd is answered after
everything that an earlier one had written was carried out: what it learns is complete, and nothing is started after.

    vmd                                       launcher
    {"id": 1, "call": "list"}                 {"id": 1, "error": "", "guests": [...]}
    {"id": 2, "call": "start", "uuid": ...}   {"id": 2, "error": ""}      when the tender has been executed, or was not
    {"id": 3, "call": "kill", "uuid": ...}    {"id": 3, "error": ""}      when it has ended
                                              {"ended": UUID}             when one has ended, for whatever reason

As part of a `jitsu up`, it ends with that, and all tenders end too. On its own (`--stay`), it ends on SIGTERM, and the
tenders run on. Otherwise it ends when it has had neither guests nor a vmd for `IDLE_S`.
"""

from __future__ import annotations

import fcntl
import json
import os
import signal
import socket
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from jitsu_runtime.settings.help import Group, HelpPage, Parser, version_text
from jitsu_vmd.hypervisors.shared import taps
from jitsu_vmd.hypervisors.shared.rules.users import USERS
from jitsu_vmd.hypervisors.solo5.wires import disks
from jitsu_vmd.hypervisors.solo5.wires.confinement import Command, confine_children
from jitsu_vmd.hypervisors.solo5.wires.loop import Loop, now
from jitsu_vmd.hypervisors.solo5.wires.names import LOCK, PID, SOCKET, tap_prefix
from jitsu_vmd.hypervisors.solo5.wires.records import TenderRecord
from jitsu_vmd.hypervisors.solo5.wires.tenders import TenderFault, Tenders

IDLE_S = 30.0
LOOK_S = 5.0
MAX_LINE_BYTES = 1 << 20
MAX_UNSENT_BYTES = 16 << 20
END_LIMIT_S = 5.0
LOCK_LIMIT_S, LOCK_LOOK_S = 3.0, 0.005
LIFELINE_VARIABLE = "JITSU_LIFELINE_FD"
"""As in jitsu_runtime.service, which is too large to be imported here."""


class Launcher:
    """The socket, and what is asked on it."""

    def __init__(self, directory: Path, listening: socket.socket, lock: int) -> None:
        self.loop = Loop()
        self._listening = listening
        self._connections: list[VmdConnection] = []
        self.tenders = Tenders(directory, self.loop, lock, self._ended)
        self._needed_at = now()
        self.loop.watch(listening.fileno(), self._accept)

    def _accept(self) -> None:
        try:
            connected, _ = self._listening.accept()
        except OSError:
            return
        uid = int.from_bytes(connected.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)[4:8], sys.byteorder)
        if uid != os.geteuid():
            connected.close()
            return
        for connection in list(self._connections):
            connection.read()  # what an earlier vmd has asked for comes first
        self._connections.append(VmdConnection(self, connected))

    def closed(self, connection: VmdConnection) -> None:
        """Forget a connection."""
        self._connections.remove(connection)
        self._needed_at = now()

    def _ended(self, uuid: str) -> None:
        for connection in list(self._connections):
            connection.say({"ended": uuid})

    def carry_out(self, request: dict[str, Any], answer: Any) -> None:
        """Do what a request asks for; `answer` is called with the reason why not, or ""."""
        uuid = str(request.get("uuid", ""))
        try:
            match request.get("call"):
                case "start":
                    self.tenders.start(Command(**request["command"]), TenderRecord(**request["record"]), answer)
                case "kill":
                    self.tenders.kill(uuid, answer)
                case "pause":
                    self.tenders.pause(uuid, answer)
                case "continue":
                    self.tenders.go_on(uuid)
                    answer("")
                case "forget":
                    self.tenders.forget(uuid)
                    for path in request.get("disks", ()):
                        disks.take_back(path, request["user"])
                    answer("")
                case call:
                    answer(f"the launcher knows no call {call!r}")
        except TenderFault as fault:
            answer(str(fault))
        except OSError as error:
            answer(f"{error.strerror}{f': {error.filename}' if error.filename else ''}")
        except (KeyError, TypeError) as error:
            answer(f"the launcher does not understand the call {request.get('call')!r}: {error}")

    def stop_at(self, descriptor: int) -> None:
        """Stop the loop when a descriptor can be read: a signal has come, or the lifeline is cut."""

        def stop() -> None:
            self.loop.unwatch(descriptor)  # what is done at the end needs the loop once more
            self._stop()

        self.loop.watch(descriptor, stop)

    def stop_when_idle(self) -> None:
        """Stop the loop when there have been neither guests nor a vmd for a while."""
        if self._connections or self.tenders.running():
            self._needed_at = now()
        if now() - self._needed_at >= IDLE_S:
            self.loop.is_stopped = True
        self.loop.later(LOOK_S, self.stop_when_idle)

    def end_all(self) -> None:
        """End all guests, and wait for that; nothing is started any more."""
        self.loop.unwatch(self._listening.fileno())
        for connection in list(self._connections):
            connection.close()
        for uuid in list(self.tenders.all):
            self.tenders.kill(uuid, lambda _: None)
        self.loop.is_stopped = not self.tenders.all
        self.loop.later(END_LIMIT_S, self._stop)
        self._stop_when_empty()
        self.loop.run()

    def _stop(self) -> None:
        self.loop.is_stopped = True

    def _stop_when_empty(self) -> None:
        if self.tenders.all:
            self.loop.later(0.01, self._stop_when_empty)
        else:
            self._stop()


class VmdConnection:
    """A vmd."""

    def __init__(self, launcher: Launcher, connected: socket.socket) -> None:
        self._launcher = launcher
        self._socket = connected
        self._read, self._unsent = b"", b""
        self._is_open = True
        connected.setblocking(False)
        launcher.loop.watch(connected.fileno(), self.read)

    def read(self) -> None:
        """Carry out what can be read."""
        while self._is_open:
            try:
                data = self._socket.recv(1 << 16)
            except BlockingIOError:
                return
            except OSError:
                data = b""
            if not data or len(self._read) > MAX_LINE_BYTES:
                self.close()
                return
            *lines, self._read = (self._read + data).split(b"\n")
            for line in lines:
                self._take(line)

    def _take(self, line: bytes) -> None:
        try:
            request = json.loads(line)
        except ValueError:
            self.close()
            return
        number = request.get("id")
        if request.get("call") == "list":
            wanted = request.get("uuids")
            listed = [
                tender.view() for uuid, tender in self._launcher.tenders.all.items() if not wanted or uuid in wanted
            ]
            self.say({"id": number, "error": "", "guests": listed})
        else:
            self._launcher.carry_out(request, lambda error: self.say({"id": number, "error": error}))

    def say(self, what: dict[str, Any]) -> None:
        """Send a line; who does not read for long is cut off."""
        if self._is_open:
            self._unsent += json.dumps(what).encode() + b"\n"
            self._send()

    def _send(self) -> None:
        try:
            sent = self._socket.send(self._unsent)
        except BlockingIOError:
            sent = 0
        except OSError:
            self.close()
            return
        self._unsent = self._unsent[sent:]
        if len(self._unsent) > MAX_UNSENT_BYTES:
            self.close()
        else:
            self._launcher.loop.watch_both(self._socket.fileno(), self.read, self._send if self._unsent else None)

    def close(self) -> None:
        """Close the connection."""
        if self._is_open:
            self._is_open = False
            self._launcher.loop.unwatch(self._socket.fileno())
            self._socket.close()
            self._launcher.closed(self)


def lock(directory: Path) -> int | None:
    """Return the lock of a directory, None if another launcher has it.

    Spares inherit it and lose it as they become tenders. So whoever gets it after a launcher has died finds the records
    of all that it has started.
    """
    path = directory / LOCK
    ends = now() + LOCK_LIMIT_S
    while now() < ends:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        with suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.fstat(descriptor).st_ino == path.stat().st_ino:
                return descriptor
        os.close(descriptor)
        time.sleep(LOCK_LOOK_S)
    return None


def listen(directory: Path) -> socket.socket:
    """Return the listening socket; what a dead launcher has left is removed."""
    path = directory / SOCKET
    path.unlink(missing_ok=True)
    listening = socket.socket(socket.AF_UNIX)
    mask = os.umask(0o177)
    try:
        listening.bind(str(path))
    finally:
        os.umask(mask)
    listening.listen()
    listening.setblocking(False)
    return listening


def run(directory: Path, *, stays: bool) -> int:
    """Serve until the launcher is to end; returns its exit status."""
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    with suppress(OSError):
        directory.chmod(0o700)
    descriptor = lock(directory)
    if descriptor is None:
        print(f"jitsu-solo5: another launcher serves {directory}", file=sys.stderr)
        return 2
    confine_children()
    launcher = Launcher(directory, listen(directory), descriptor)
    (directory / PID).write_text(str(os.getpid()))
    reading, writing = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
    signal.set_wakeup_fd(writing)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: None)
    launcher.stop_at(reading)
    lifeline = os.environ.get(LIFELINE_VARIABLE, "")
    if lifeline.isdecimal():
        os.set_inheritable(int(lifeline), False)
        launcher.stop_at(int(lifeline))
    elif not stays:
        launcher.stop_when_idle()
    launcher.loop.run()
    launcher.tenders.close()
    _end(launcher, directory, with_guests=lifeline.isdecimal())
    return 0


def _end(launcher: Launcher, directory: Path, *, with_guests: bool) -> None:
    """Leave nothing behind but guests that are to run on, and their taps."""
    if with_guests:
        launcher.end_all()
    used = {name for tender in launcher.tenders.running() for name in tender.record.taps}
    for name in taps.names(tap_prefix(directory)):
        if name not in used:
            with suppress(OSError):
                taps.remove(name)
    for name in (SOCKET, PID, LOCK, *([USERS] if with_guests else ())):
        (directory / name).unlink(missing_ok=True)
    with suppress(OSError):
        directory.rmdir()


HELP = HelpPage(
    "jitsu-solo5 --directory DIRECTORY [--stay]",
    ("Starts the tenders of Solo5 unikernels for jitsu-vmd, and gives each a user of its own. It needs root.",),
    (
        Group(
            "Options",
            (
                ("--directory DIRECTORY", "Where its socket and its records are; hypervisor.connect names it too."),
                ("--stay", "Go on even without guests and without a jitsu-vmd."),
                ("--version", "Print the version, and exit."),
                ("-h, --help", "Show this message and exit."),
            ),
        ),
    ),
    (
        ("jitsu-solo5 --directory /run/jitsu/solo5 --stay", "Serve the vmd of this machine, as the systemd unit does."),
        ("jitsu-solo5 --directory /tmp/solo5", "Serve until nobody needs it any longer."),
    ),
    "docs/tutorials/first-unikernel.md",
)


def main() -> None:
    """Run the launcher."""
    parser = Parser(prog="jitsu-solo5")
    parser.page = HELP
    parser.add_argument("--directory", type=Path, required=True)
    parser.add_argument("--stay", action="store_true")
    parser.add_argument("--version", action="version", version=version_text("jitsu-solo5"))
    given = parser.parse_args()
    if os.geteuid():
        print("jitsu-solo5: it needs root, to give each tender a user of its own", file=sys.stderr)
        sys.exit(2)
    sys.exit(run(given.directory.absolute(), stays=given.stay))


if __name__ == "__main__":
    main()
