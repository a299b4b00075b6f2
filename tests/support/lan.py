"""A bridge with a suite, guests and clients on it, each in a network namespace that the test makes."""

from __future__ import annotations

import ctypes
import itertools
import os
import re
import subprocess
import threading
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.support.debian import program
from tests.support.suite import RunningSuite

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

BRIDGE = "jt0"
BRIDGE_MAC = "02:00:5e:00:53:01"
"""One that was given stays the same, whatever ports come and go."""
CLONE_NEWNET = 0x40000000
_NUMBERS = itertools.count()
_libc = ctypes.CDLL(None, use_errno=True)


def ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True)


class Lan:
    """The namespaces: `host`, where the suite runs, and a number of clients."""

    def __init__(self, clients: int, host_pid: int = 0) -> None:
        """`host_pid` is a process whose namespace is that of the host; else one is made."""
        self._host_pid = host_pid
        self.name = f"jt{os.getpid()}-{next(_NUMBERS)}"
        self.host = f"{self.name}-h"
        self.clients = [f"{self.name}-c{n}" for n in range(clients)]

    def make(self) -> None:
        program("ip", "iproute2")
        ip(*(["netns", "attach", self.host, str(self._host_pid)] if self._host_pid else ["netns", "add", self.host]))
        ip("-n", self.host, "link", "set", "lo", "up")
        ip("-n", self.host, "link", "add", BRIDGE, "address", BRIDGE_MAC, "type", "bridge", "forward_delay", "0")
        ip("-n", self.host, "address", "add", "10.77.0.1/24", "dev", BRIDGE)
        ip("-n", self.host, "address", "add", "fd77::1/64", "dev", BRIDGE, "nodad")
        ip("-n", self.host, "link", "set", BRIDGE, "up")
        for n, client in enumerate(self.clients):
            ip("netns", "add", client)
            ip("-n", self.host, "link", "add", f"c{n}", "type", "veth", "peer", "name", "eth0", "netns", client)
            ip("-n", self.host, "link", "set", f"c{n}", "master", BRIDGE, "up")
            ip("-n", client, "address", "add", f"10.77.0.{100 + n}/24", "dev", "eth0")
            ip("-n", client, "address", "add", f"fd77::{100 + n}/64", "dev", "eth0", "nodad")
            for link in ("lo", "eth0"):
                ip("-n", client, "link", "set", link, "up")

    def remove(self) -> None:
        if self._host_pid:
            subprocess.run(["ip", "-n", self.host, "link", "delete", BRIDGE], capture_output=True, check=False)
        for namespace in [self.host, *self.clients]:
            subprocess.run(["ip", "netns", "delete", namespace], capture_output=True, check=False)

    def unplug(self, client: int) -> None:
        """Take a client off the bridge: nothing is heard from it any longer."""
        ip("-n", self.host, "link", "set", f"c{client}", "down")

    def cut(self, client: int) -> None:
        """Let nothing through between a client and the bridge; both see a link that is up.

        A bridge without any port would see that it is alone, and take up to a second to notice that it is not any more.
        """
        assert len(self.clients) > 1, "the bridge needs another port"
        ip("-n", self.host, "link", "set", f"c{client}", "nomaster")

    def join(self, client: int) -> None:
        """End what `cut` did."""
        ip("-n", self.host, "link", "set", f"c{client}", "master", BRIDGE)

    def tcp_connections(self, client: int) -> list[str]:
        """Return the host kernel's connections with a client, with those that it is still ending."""
        inside = ["ip", "netns", "exec", self.host]
        command = [*inside, "ss", "-Htn", "state", "connected", "dst", f"10.77.0.{100 + client}"]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()

    def start(self, client: int, work: Callable[[], Any]) -> Future[Any]:
        """Run a function as this client, on a thread of its own."""
        return self._start(Path("/run/netns", self.clients[client]), work)

    def run_on_host(self, work: Callable[[], Any]) -> Any:
        """Return what a function returns that runs in the host's namespace; threads that it starts are there too."""
        return self._start(Path("/run/netns", self.host), work).result()

    def start_in_guest(self, address: str, work: Callable[[], Any]) -> Future[Any]:
        """Run a function in the namespace of the mock's guest that has this address."""
        for namespace in Path("/proc").glob("[0-9]*/ns/net"):
            with suppress(OSError):  # the process has ended
                local = namespace.parents[1] / "net/fib_trie"
                if re.search(rf"\b{re.escape(address)}\n\s+/32 host LOCAL", local.read_text()):
                    return self._start(namespace, work)
        raise AssertionError(f"no guest has the address {address}")

    @staticmethod
    def _start(path: Path, work: Callable[[], Any]) -> Future[Any]:
        return _begin(path, work)

    def run(self, client: int, work: Callable[[], Any]) -> Any:
        """Return what a function returns that runs as this client."""
        return self.start(client, work).result()


def _begin(path: Path, work: Callable[[], Any]) -> Future[Any]:
    outcome: Future[Any] = Future()

    def begun() -> None:
        try:
            with path.open("rb") as namespace:
                assert not _libc.setns(namespace.fileno(), CLONE_NEWNET)
            outcome.set_result(work())
        except BaseException as error:
            outcome.set_exception(error)

    threading.Thread(target=begun).start()
    return outcome


def inside(namespace: str, work: Callable[[], Any]) -> Any:
    """Return what a function returns that runs in a network namespace."""
    return _begin(Path("/run/netns", namespace), work).result()


@contextmanager
def made_lan(clients: int, host_pid: int = 0) -> Iterator[Lan]:
    """Make the namespaces, and remove them."""
    lan = Lan(clients, host_pid)
    try:
        lan.make()
        yield lan
    finally:
        lan.remove()


def retransmitted() -> int:
    """Return how many TCP segments have been sent again in the namespace of this thread."""
    names, values = (
        line.split() for line in Path("/proc/thread-self/net/snmp").read_text().splitlines() if line.startswith("Tcp:")
    )
    return int(values[names.index("RetransSegs")])


def guest_toml(name: str, number: int, **keys: object) -> str:
    """Return the [vm.NAME] section of a guest at 10.77.0.NUMBER and fd77::NUMBER that Synjitsu masks."""
    shown = {"port": 80, "ttl": 1, "idle_timeout": 3600, "use_synjitsu": "true", "boot_time": 0.3} | keys
    lines = [f"[vm.{name}]", f'dns = "{name}.jitsu.test"', f'ip = ["10.77.0.{number}", "fd77::{number}"]']
    return "\n".join([*lines, *(f'{key} = "{value}"' for key, value in shown.items()), ""])


@contextmanager
def lan_suite(
    directory: Path, toml: str, clients: int = 1, lan: Lan | None = None
) -> Iterator[tuple[Lan, RunningSuite]]:
    """Run a suite on a bridge: one that is made for it, with mock guests; or on one that is there."""
    whole = '[dns]\nbind = "0.0.0.0"\nsummon_rate = 0\n'  # a test's clients are all of one network
    if lan is None:
        whole += f'[hypervisor]\nkind = "bridge"\nbridge = "{BRIDGE}"\n'
        # The bridge is not configured, which is how Synjitsu comes: it listens where vmd finds its guests.
    else:
        whole += f'[synjitsu]\nbridges = ["{BRIDGE}"]\n'
    whole += toml
    made = None
    try:
        if lan is None:
            lan = made = Lan(clients)
            made.make()
        with RunningSuite(directory, toml=whole, inside=["ip", "netns", "exec", lan.host]) as suite:
            yield lan, suite
    finally:
        if made is not None:
            made.remove()


def taken_macs(suite: RunningSuite) -> list[str]:
    """Return what was said of VMs that are off and whose MAC address is on the bridge."""
    return [line for line in suite.output if "has its MAC address on the bridge" in line]
