"""`jitsu up`: the five processes as children of one, on this machine.

A child that dies is started again: at once, then after 0.5, 1, 2, ... s. A child that says that it cannot run as it is
configured (status 2 and above) ends the whole. Children, and what they start, hold one end of a socket pair, the
lifeline: when this process dies, however it does, they see it close and stop; when the last of them is gone, this
process sees it.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import secrets
import shutil
import signal
import socket
import sys
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING

from jitsu.apply import changes_for, commit, operator
from jitsu.link import connect
from jitsu_protocol.errors import JitsuError, SetupFault
from jitsu_protocol.process import EXIT_SETUP, LIFELINE_VARIABLE
from jitsu_protocol.settings import SECTIONS, Settings
from jitsu_protocol.vm import VM_ROOT, as_text

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

FIRST_BACKOFF_S = 0.5
MAX_BACKOFF_S = 10.0
STABLE_S = 10.0
"""A child that lived that long is started again at once."""
READY_LIMIT_S = 30.0
STOP_ORDER = (("dns",), ("reaper", "vmd", "synjitsu"), ("store",))
"""Who says goodbye to whom decides who stops first."""
STOP_LIMIT_S = 0.8
"""For each group of STOP_ORDER: all are gone within 3 s."""


@dataclass
class Child:
    """One process of the suite."""

    name: str
    service: str
    environment: dict[str, str]
    process: asyncio.subprocess.Process | None = None
    ready: asyncio.Event = field(default_factory=asyncio.Event)
    started_at: float = 0.0
    failures: int = 0


class Suite:
    """All children."""

    def __init__(self, settings: Settings, say: Callable[[str], None]) -> None:
        self._settings = settings
        self._say = say
        self._directory = settings.bus.directory
        self._status = 0
        self._lifeline, self._lifeline_held = socket.socketpair()
        self._lifeline_held.setblocking(False)
        base = _environment(settings)
        base["JITSU_BUS_RUNTIME_DIR"] = str(self._directory)
        base["JITSU_STORE_PATH"] = settings.store.path or str(self._directory / "store.git")
        base["JITSU_DNS_COOKIE_SECRET"] = settings.dns.cookie_secret or secrets.token_hex(16)
        base[LIFELINE_VARIABLE] = str(self._lifeline.fileno())
        self._children = [Child(service, service, dict(base)) for service in ("store", "vmd", "synjitsu", "reaper")]
        replicas = settings.dns.replicas
        for number in range(replicas):
            own = {"JITSU_DNS_REPLICA": f"dns-{number}"}
            if replicas > 1:
                own["JITSU_DNS_REUSE_PORT"] = "true"
            if number:
                own["JITSU_DNS_METRICS"] = ""
            self._children.append(Child(f"dns-{number}" if replicas > 1 else "dns", "dns", base | own))

    async def run(self, next_steps: Callable[[], Sequence[str]]) -> int:
        """Run until a signal; returns the exit status. Raises SetupFault if the directory is in use."""
        stop = asyncio.Event()
        for number in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().add_signal_handler(number, stop.set)
        lock = self._claim()
        try:
            self._say(f"jitsu up: {len(self._children)} processes in {self._directory}")
            async with asyncio.TaskGroup() as group:
                watchers = [group.create_task(self._keep(child, stop)) for child in self._children]
                starting = group.create_task(self._start(next_steps, stop))
                await stop.wait()
                starting.cancel()
                await self._stop()
                for watcher in watchers:
                    watcher.cancel()
        finally:
            await self._until_all_are_gone()
            self._clean()
            os.close(lock)
        return self._status

    async def _start(self, next_steps: Callable[[], Sequence[str]], stop: asyncio.Event) -> None:
        try:
            async with asyncio.timeout(READY_LIMIT_S):
                await self._children[0].ready.wait()
                await self._configure()
                for child in self._children:
                    await child.ready.wait()
        except TimeoutError:
            waiting = ", ".join(child.name for child in self._children if not child.ready.is_set())
            self._say(f"not ready after {READY_LIMIT_S:g} s: {waiting}; see the log above")
            self._fail(1, stop)
        except JitsuError as error:
            self._say(f"the configuration is refused: {error}")
            self._fail(EXIT_SETUP, stop)
        else:
            for line in next_steps():
                self._say(line)

    async def _configure(self) -> None:
        if self._settings.vms:
            async with connect(self._settings.bus) as link:
                changes = changes_for(self._settings.vms, await link.leaves(VM_ROOT))
                if changes:
                    await commit(link, changes, "Configuration given to jitsu up", operator())

    def _fail(self, status: int, stop: asyncio.Event) -> None:
        self._status = self._status or status
        stop.set()

    # --- one child ---

    async def _keep(self, child: Child, stop: asyncio.Event) -> None:
        """Run a child for as long as the suite runs."""
        while not stop.is_set():
            await self._spawn(child)
            assert child.process is not None
            status = await child.process.wait()
            if stop.is_set():
                return
            if status >= EXIT_SETUP:
                self._fail(status, stop)
                return
            wait = self._backoff(child)
            how = f"status {status}" if status >= 0 else signal.Signals(-status).name
            self._say(f"  {child.name:<9} died ({how}); started again{f' in {wait:g} s' if wait else ''}")
            await asyncio.sleep(wait)

    def _backoff(self, child: Child) -> float:
        if monotonic() - child.started_at >= STABLE_S:
            child.failures = 0
        child.failures += 1
        if child.failures == 1:
            return 0.0
        return float(min(FIRST_BACKOFF_S * 2 ** (child.failures - 2), MAX_BACKOFF_S))

    async def _spawn(self, child: Child) -> None:
        child.ready.clear()
        child.started_at = monotonic()
        address = f"@jitsu-up-{os.getpid()}-{child.name}"
        notified = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        notified.bind("\0" + address[1:])
        loop = asyncio.get_running_loop()

        def read() -> None:
            with contextlib.suppress(OSError):
                if b"READY=1" in notified.recv(4096):
                    loop.remove_reader(notified)
                    notified.close()
                    child.ready.set()
                    self._say(f"  {child.name:<9} ready  {monotonic() - child.started_at:.2f} s")

        loop.add_reader(notified, read)
        child.process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            f"jitsu_{child.service}.main",
            env={**os.environ, **child.environment, "NOTIFY_SOCKET": address},
            pass_fds=(self._lifeline.fileno(),),
            stdin=asyncio.subprocess.DEVNULL,
            start_new_session=True,  # Ctrl-C reaches this process alone, which stops the others in order
        )

        def forget(_: object) -> None:
            if notified.fileno() >= 0:
                loop.remove_reader(notified)
                notified.close()

        ended = asyncio.ensure_future(child.process.wait())
        ended.add_done_callback(forget)

    async def _stop(self) -> None:
        self._say("stopping")
        for services in STOP_ORDER:
            group = [child.process for child in self._children if child.service in services and child.process]
            for process in group:
                with contextlib.suppress(ProcessLookupError):
                    process.terminate()
            await self._reap(group)

    async def _reap(self, processes: Sequence[asyncio.subprocess.Process]) -> None:
        try:
            async with asyncio.timeout(STOP_LIMIT_S):
                for process in processes:
                    await process.wait()
        except TimeoutError:
            for process in processes:
                if process.returncode is None:
                    process.kill()
            for process in processes:
                await process.wait()

    # --- the runtime directory ---

    def _claim(self) -> int:
        self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._is_ours()
        lock = os.open(self._directory / "up.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(lock)
            raise SetupFault(
                f"another jitsu up runs in {self._directory}",
                hint="stop it, or give this one a directory of its own with --runtime-dir",
            ) from None
        return lock

    def _is_ours(self) -> None:
        """Refuse a directory that somebody else has made: in /tmp anybody can make one."""
        if self._directory.stat().st_uid != os.geteuid():
            raise SetupFault(f"{self._directory} belongs to another user", hint="choose another with --runtime-dir")

    def _clean(self) -> None:
        """Leave no file behind."""
        for name in ("store", "vmd", "synjitsu", "reaper", "mock"):
            for kind in ("rpc", "feed"):
                for suffix in ("", ".lock"):
                    (self._directory / f"{name}.{kind}{suffix}").unlink(missing_ok=True)
        if not self._settings.store.path:
            shutil.rmtree(self._directory / "store.git", ignore_errors=True)
        (self._directory / "up.lock").unlink(missing_ok=True)
        with contextlib.suppress(OSError):
            self._directory.rmdir()

    async def _until_all_are_gone(self) -> None:
        """Cut the lifeline, and wait for who held it: the mock hypervisor's host is no child of ours."""
        self._lifeline.close()
        self._lifeline_held.shutdown(socket.SHUT_WR)
        try:
            async with asyncio.timeout(STOP_LIMIT_S):
                await asyncio.get_running_loop().sock_recv(self._lifeline_held, 1)
        except TimeoutError:
            self._kill_mock_host()
        self._lifeline_held.close()

    def _kill_mock_host(self) -> None:
        pid_file = self._directory / "mock.pid"
        with contextlib.suppress(OSError, ValueError):
            pid = int(pid_file.read_text())
            if b"jitsu_vmd.mock.host" in Path(f"/proc/{pid}/cmdline").read_bytes():
                os.kill(pid, signal.SIGKILL)
        pid_file.unlink(missing_ok=True)


def _environment(settings: Settings) -> dict[str, str]:
    """Return all settings as environment variables, so that children need no file and no flags."""
    environment = {}
    for section in SECTIONS:
        for key, value in getattr(settings, section):
            if value is not None:
                text = "\n".join(map(str, value)) if isinstance(value, list) else as_text(value)
                environment[f"JITSU_{section}_{key}".upper()] = text
    return environment
