"""Mock guests on a bridge. Each is a process in a network namespace of its own, with an interface on a Linux bridge, a
MAC address and IP addresses. It announces itself, answers HTTP, and echoes TCP and UDP on port 7.

With the key `tap`, a guest is on a tap in the host's namespace and has a network stack of its own: that of the guest in
C (native.py) if it has been built, else that of tap.py.

One warm process, the zygote (`python -m jitsu_vmd.hypervisors.mock.bridge`), forks them all, so that a boot can take
milliseconds. A namespace ends with its process, and an interface with its namespace (network_namespaces(7)).

    host (asyncio)           zygote                     guest
    a line                   forks
                                                        unshares its network, makes its interface, which is down
      <- its pid             <-----------------------   "made"
                                                        after the boot time: link up, and it announces itself
      <- or an error         <-----------------------   "booted"
    kill -9 the guest, delete its interface      (the kernel reaps it)
"""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import fcntl
import json
import os
import signal
import socket
import struct
import subprocess
import sys
from ipaddress import ip_address
from pathlib import Path
from typing import Any

from jitsu_runtime.clock import SYSTEM_CLOCK
from jitsu_runtime.native_guest import native_guest
from jitsu_vmd.hypervisors.mock import native, tap
from jitsu_vmd.hypervisors.mock.bridges import ip
from jitsu_vmd.hypervisors.mock.guest import HttpGuest

ECHO_PORT = 7
CLONE_NEWNET = 0x40000000
MAX_LINE_BYTES = 64 * 1024
SIOCSIFFLAGS, IFF_UP = 0x8914, 1
DIE_WITH_PARENT = 1  # PR_SET_PDEATHSIG

_libc = ctypes.CDLL(None, use_errno=True)


class Zygote:
    """The warm process, as the host sees it."""

    def __init__(self) -> None:
        self._process: asyncio.subprocess.Process | None = None
        self._answers: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self._count = 0
        self._reader: asyncio.Task[None] | None = None
        self._starting = asyncio.Lock()

    async def _start(self) -> None:
        self._process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "jitsu_vmd.hypervisors.mock.bridge", stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        self._reader = asyncio.create_task(self._read())

    async def warm(self) -> None:
        """Start the process before the first guest is wanted."""
        async with self._starting:  # several guests that are wanted at once share one zygote
            if self._process is None:
                await self._start()

    async def fork(self, **request: Any) -> tuple[int, asyncio.Future[dict[str, Any]]]:
        """Make a guest; return its pid, and a future that is done when it has booted. Raises OSError."""
        await self.warm()
        assert self._process is not None
        assert self._process.stdin is not None
        loop = asyncio.get_running_loop()
        made, booted = self._count, self._count + 1
        self._count += 2
        self._answers[made], self._answers[booted] = loop.create_future(), loop.create_future()
        line = json.dumps(request | {"made": made, "booted": booted}).encode() + b"\n"
        self._process.stdin.write(line)
        future = self._answers[booted]
        answer = await self._answers[made]
        if answer.get("error"):
            raise OSError(0, answer["error"])
        return answer["pid"], future

    async def _read(self) -> None:
        assert self._process is not None
        assert self._process.stdout is not None
        while line := await self._process.stdout.readline():
            answer = json.loads(line)
            future = self._answers.pop(answer["number"], None)
            if future is not None and not future.done():
                future.set_result(answer)


class BridgeGuest:
    """The guest's power switch."""

    def __init__(self, zygote: Zygote, request: dict[str, Any]) -> None:
        self._zygote, self._request = zygote, request
        self._pid = 0
        self._booted: asyncio.Future[dict[str, Any]] | None = None

    async def prepare(self) -> None:
        """Return when it begins to boot; raises OSError if it cannot."""
        self._pid, self._booted = await self._zygote.fork(**self._request)

    @property
    def interface(self) -> str:
        """The end of its interface that is on the bridge; "" before it is made."""
        return _outside(self._pid) if self._pid else ""

    async def boot(self) -> None:
        """Return when it has booted; raises OSError if it cannot."""
        assert self._booted is not None
        answer = await self._booted
        if answer.get("error"):
            raise OSError(0, answer["error"])

    async def end(self) -> None:
        """Return when its process has ended by itself."""
        loop, ended = asyncio.get_running_loop(), asyncio.Event()
        try:
            descriptor = os.pidfd_open(self._pid)
        except ProcessLookupError:  # it has ended already
            return
        try:
            loop.add_reader(descriptor, ended.set)  # pidfd_open(2): readable when the process has ended
            await ended.wait()
        finally:
            loop.remove_reader(descriptor)
            os.close(descriptor)

    def pause(self) -> bool:
        """Stop the guest where it is; returns whether it can be: the kernel's stack of one without a tap goes on."""
        if self._request["tap"] and self._pid:
            os.kill(self._pid, signal.SIGSTOP)
            return True
        return False

    def unpause(self) -> None:
        """Let it go on."""
        os.kill(self._pid, signal.SIGCONT)

    def power_off(self) -> None:
        """Vanish, with its interface: the kernel ends a namespace late, and would answer for the guest until then."""
        if self._pid:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self._pid, signal.SIGKILL)
            with contextlib.suppress(OSError):
                ip("link", "delete", _outside(self._pid))


def _outside(pid: int) -> str:
    """Return the name of the end of a guest's interface that is on the bridge."""
    return f"jv{pid}"


# --- the zygote, and what it becomes -------------------------------------------------------------


def main() -> None:
    """Fork a guest for each line on standard input; end with it, and all guests too."""
    _libc.prctl(DIE_WITH_PARENT, signal.SIGKILL)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # the kernel reaps them
    zygote = os.getpid()
    for line in sys.stdin.buffer:
        request = json.loads(line)
        if os.fork() == 0:
            _be_guest(request, zygote)
            os._exit(0)


def _say(answer: dict[str, Any]) -> None:
    os.write(1, json.dumps(answer).encode() + b"\n")  # a line is one write, so that lines of many do not mix


def _be_guest(request: dict[str, Any], zygote: int) -> None:
    _libc.prctl(DIE_WITH_PARENT, signal.SIGKILL)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    os.close(0)
    waiting = "made"
    try:
        if request["tap"]:
            descriptor = _make_tap(request)
            _say({"number": request["made"], "pid": os.getpid()})
            waiting = "booted"
            if program := native_guest():
                _say({"number": request["booted"]})  # from here on the host watches its process
                native.become_native_guest(program, descriptor, request)
            for _ in tap.run(
                descriptor, request, SYSTEM_CLOCK.now() + request["boot_time"], HttpGuest(request["name"]).answer
            ):
                _say({"number": request["booted"]})
            return
        if _libc.unshare(CLONE_NEWNET):
            raise OSError(ctypes.get_errno(), f"unshare: {os.strerror(ctypes.get_errno())}")
        _make_interface(request, zygote)
        _say({"number": request["made"], "pid": os.getpid()})
        waiting = "booted"
        asyncio.run(_run(request, SYSTEM_CLOCK.now() + request["boot_time"]))
    except OSError as error:
        _say({"number": request[waiting], "error": error.strerror or str(error)})


def _make_tap(request: dict[str, Any]) -> int:
    """Make a tap on the bridge, up, and return its descriptor. From now on frames queue in it."""
    name = _outside(os.getpid())
    descriptor = tap.open_tap(name)
    native.join_bridge(name, request["bridge"])
    return descriptor


def _make_interface(request: dict[str, Any], zygote: int) -> None:
    """Make an interface on the bridge, down. The kernel will announce its addresses (arp_notify, ndisc_notify)."""
    outside = _outside(os.getpid())
    for family, name in (("ipv4", "arp_notify"), ("ipv6", "ndisc_notify")):
        for which in ("all", "default"):
            with contextlib.suppress(OSError):
                Path(f"/proc/sys/net/{family}/conf/{which}/{name}").write_text("1" if request["announces"] else "0")
    lines = [
        "link set lo up",
        f"link add eth0 address {request['mac']} type veth peer name {outside} netns {zygote}",
    ]
    for address in request["addresses"]:
        bits = 24 if ip_address(address).version == 4 else 64
        lines.append(f"address add {address}/{bits} dev eth0 nodad")
    ip("-batch", "-", lines=lines)
    ip("link", "set", outside, "master", request["bridge"], "up", namespace=zygote)


def _link_up() -> None:
    """Set eth0 up (netdevice(7)): a call, where ip(8) would cost milliseconds."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        fcntl.ioctl(any_socket, SIOCSIFFLAGS, struct.pack("16sh14x", b"eth0", IFF_UP))


async def _run(request: dict[str, Any], booted_at: float) -> None:
    """Have the link up at `booted_at`, with everything that takes time done before."""
    if request["listen_after"]:
        await asyncio.sleep(booted_at - SYSTEM_CLOCK.now())
        _link_up()
        await asyncio.sleep(request["listen_after"])
    guest = HttpGuest(request["name"])
    loop = asyncio.get_running_loop()
    for family, every in ((socket.AF_INET, "0.0.0.0"), (socket.AF_INET6, "::")):
        datagrams = socket.socket(family, socket.SOCK_DGRAM)
        if family == socket.AF_INET6:
            datagrams.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        datagrams.bind((every, ECHO_PORT))
        await loop.create_datagram_endpoint(_UdpEcho, sock=datagrams)
    await guest.listen(None, request["port"])
    await asyncio.start_server(_tcp_echo, None, ECHO_PORT, backlog=2048)
    if not request["listen_after"]:
        await asyncio.sleep(booted_at - SYSTEM_CLOCK.now())
        _link_up()
    _say({"number": request["booted"]})
    await asyncio.Event().wait()


class _UdpEcho(asyncio.DatagramProtocol):
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport: Any = transport

    def datagram_received(self, data: bytes, addr: Any) -> None:
        self._transport.sendto(data, addr)


async def _tcp_echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while data := await reader.read(MAX_LINE_BYTES):
            writer.write(data)
            await writer.drain()
    writer.close()


if __name__ == "__main__":
    main()
