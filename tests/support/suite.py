"""A whole suite for a test: `jitsu up` in a directory of its own, stopped afterwards, with nothing left behind."""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import tomllib
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from time import monotonic, sleep, time
from typing import TYPE_CHECKING, Any

from jitsu.link import connect
from jitsu_protocol.rows import status_rows
from jitsu_runtime.settings.schema import BusSettings

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

FIRST_PORT, PORTS_EACH = 20_000, 4_000
_PORTS = itertools.count(os.getpid() % PORTS_EACH)
READY_LINE = "Ctrl-C stops "
SLOWER = float(os.environ.get("JITSU_TESTS_SLOWER", "1"))
"""Under emulation all takes that many times as long."""
START_LIMIT_S = 40.0 * SLOWER
JITSU = [sys.executable, "-m", "jitsu.main"]


def free_port() -> int:
    """Return a port that is free for UDP and TCP on loopback, and that nobody else is given.

    It is below those that the kernel gives to clients (ip(7), ip_local_port_range), and each worker has its own.
    """
    worker = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
    for number in _PORTS:
        port = FIRST_PORT + worker * PORTS_EACH + number % PORTS_EACH
        with (
            socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp,
            socket.socket(socket.AF_INET, socket.SOCK_STREAM) as tcp,
        ):
            tcp.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                udp.bind(("127.0.0.1", port))
                tcp.bind(("127.0.0.1", port))
            except OSError:
                continue
        return port
    raise AssertionError("no free port")


def vm_toml(name: str, address: str, **keys: object) -> str:
    """Return the [vm.NAME] section of a VM whose only name is NAME.jitsu.test."""
    lines = [f"[vm.{name}]", f'dns = "{name}.jitsu.test"', f'ip = "{address}"']
    return "\n".join([*lines, *(f"{key} = {json.dumps(value)}" for key, value in keys.items()), ""])


def wait_for(what: Callable[[], Any], limit_s: float, about: str) -> Any:
    """Return what a function returns as soon as that is true."""
    deadline = monotonic() + limit_s
    while True:
        found = what()
        if found:
            return found
        assert monotonic() < deadline, f"{about}: not within {limit_s} s"
        sleep(0.05)


class RunningSuite:
    """A `jitsu up` that runs."""

    def __init__(
        self, directory: Path, arguments: Sequence[str] = (), toml: str = "", inside: Sequence[str] = ()
    ) -> None:
        """`inside` are the words before the command, `ip netns exec NAME`."""
        self.directory = directory
        self._inside = inside
        self.port = free_port()
        self.output: list[str] = []
        self._bus = {"runtime_dir": str(directory / "run"), **tomllib.loads(toml).get("bus", {})}
        argv = [*inside, *JITSU, "up", "--runtime-dir", str(directory / "run"), "-l", str(self.port), *arguments]
        if toml:
            (directory / "jitsu.toml").write_text(toml)
            argv += ["--config", str(directory / "jitsu.toml")]
        # Nobody outside is asked for names, unless a test says whom.
        environment = {"JITSU_DNS_FORWARD": "off", **os.environ}
        if "zones" not in tomllib.loads(toml).get("dns", {}):
            environment["JITSU_DNS_ZONES"] = "jitsu.test"
        if not toml and not inside:
            environment["MOCK_GUEST"] = ""  # no test makes a bridge on this machine
        self.process = subprocess.Popen(
            argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, cwd=directory, env=environment
        )
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.output.append(line.rstrip("\n"))

    def __enter__(self) -> RunningSuite:
        try:
            wait_for(self._is_up, START_LIMIT_S, "jitsu up")
        except AssertionError:
            self.stop()
            raise AssertionError("jitsu up did not come up:\n" + "\n".join(self.output)) from None
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self.stop()
        if kind is not None:  # pytest shows what was printed with the failure
            print(f"{self.directory.name}: jitsu up said:", *self.output, sep="\n")

    def _is_up(self) -> bool:
        assert self.process.poll() is None, "\n".join(self.output)
        return any(READY_LINE in line for line in self.output)

    def stop(self) -> float:
        """Stop it as Ctrl-C does; returns how long that took."""
        begun = monotonic()
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGINT)
            self.process.wait(20)
        took = monotonic() - begun
        self._reader.join(5)
        if self.process.stdout is not None:
            self.process.stdout.close()
        return took

    def jitsu(self, *arguments: str, check: bool = True) -> str:
        """Run a jitsu command against it and return what it printed."""
        done = subprocess.run(
            [*self._inside, *JITSU, "--runtime-dir", str(self.directory / "run"), *arguments],
            env={**os.environ, **self._bus_environment()},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        if check:
            assert done.returncode == 0, done.stderr + done.stdout
        return done.stdout + done.stderr

    def bus(self) -> BusSettings:
        """Return where its sockets are."""
        return BusSettings.model_validate(self._bus)

    def _bus_environment(self) -> dict[str, str]:
        shown = {key: value if isinstance(value, list) else [value] for key, value in self._bus.items()}
        return {f"JITSU_BUS_{key.upper()}": "\n".join(map(str, values)) for key, values in shown.items()}

    def status(self) -> dict[str, dict[str, Any]]:
        """Return the rows of `jitsu status` by VM name, without the half second that a command costs."""

        async def ask() -> list[dict[str, Any]]:
            async with connect(self.bus()) as link:
                vms = await link.vms()
                known = {vm.uuid for vm in vms}
                return [row for row in status_rows(vms, await link.leaves(), time()) if row["uuid"] in known]

        with ThreadPoolExecutor(1) as thread:  # a test may have an event loop of its own
            rows = thread.submit(asyncio.run, ask()).result(60)
        return {row["name"]: row for row in rows}

    def state(self, vm: str) -> str:
        """Return a VM's state."""
        return str(self.status()[vm]["state"])

    def pid(self, service: str) -> int | None:
        """Return the pid of a child, None while there is none."""
        marker = f"jitsu_{service}.main".encode()
        for pid in self.processes():
            parts = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0") if _alive(pid) else []
            if marker in parts:
                return pid
        return None

    def kill(self, service: str) -> int:
        """kill -9 a child; returns the pid that it had."""
        pid = self.pid(service)
        assert pid is not None, f"no {service} runs"
        os.kill(pid, signal.SIGKILL)
        return pid

    def processes(self) -> list[int]:
        """Return every process of this suite: those that have its lifeline's runtime directory."""
        marker = f"JITSU_BUS_RUNTIME_DIR={self.directory / 'run'}".encode()
        found = []
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                try:
                    if marker in (entry / "environ").read_bytes().split(b"\0"):
                        found.append(int(entry.name))
                except OSError:
                    continue
        return sorted(found)


@contextmanager
def beside(
    suite: RunningSuite,
    service: str,
    inside: Sequence[str] = (),
    descriptors: Sequence[int] = (),
    stderr: int | None = None,
    /,
    **environment: str,
) -> Iterator[subprocess.Popen[bytes]]:
    """Run a further service on a suite's bus, ready when this returns; the test may have ended it.

    `inside` are the words before the command, `ip netns exec NAME`; `descriptors` are inherited, `stderr` gets its log.
    """
    directory = {"JITSU_BUS_RUNTIME_DIR": str(suite.directory / "run")}
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notified:
        address = str(suite.directory / f"notify-{next(_PORTS)}")  # not abstract: those are of one network namespace
        notified.bind(address)
        notified.settimeout(START_LIMIT_S)
        process = subprocess.Popen(
            [*inside, sys.executable, "-m", f"jitsu_{service}.main"],
            env={**os.environ, **directory, **environment, "NOTIFY_SOCKET": address},
            pass_fds=descriptors,
            stderr=stderr,
        )
        try:
            while b"READY=1" not in notified.recv(100):
                pass  # it says what it waits for
            yield process
        finally:
            process.terminate()
            process.wait(20)


def _alive(pid: int) -> bool:
    return Path(f"/proc/{pid}/cmdline").exists()


def http_get(address: str, port: int = 8080) -> str:
    """Return what a guest answers to GET /, "" if it refuses the connection."""
    try:
        with socket.create_connection((address, port), timeout=5) as connection:
            connection.sendall(b"GET / HTTP/1.1\r\nHost: guest\r\n\r\n")
            data = b""
            while part := connection.recv(65536):
                data += part
    except ConnectionRefusedError:
        return ""
    return data.decode()
