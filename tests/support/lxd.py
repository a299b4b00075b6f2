"""An LXD of our own, in a network namespace and a directory that the test makes, with an image that it builds.

LXD needs the control groups, which `ip netns exec` hides behind a /sys of its own, so they are bound there again.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.support.debian import program
from tests.support.engine_bench import MACHINES, BenchMachine, EngineBench, address_of, mac_of
from tests.support.lan import BRIDGE as LAN_BRIDGE
from tests.support.lan import ip

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.lan import Lan

IMAGE, BRIDGE = "jitsu-test", "jtlxd0"
GATEWAY = "10.79.0.1/24"
START_LIMIT_S, CALL_LIMIT_S = 30.0, 60.0
INSIDE = (
    'mount --rbind /sys/fs/cgroup "$1/cg"; '
    'exec ip netns exec "$2" sh -c \'mount --rbind "$1/cg" /sys/fs/cgroup; shift 2; exec "$@"\' sh "$@"'
)
RC = """#!/bin/sh
ip link set lo up
ip link set eth0 up
[ -n "$ADDRESS" ] && exec ip address add "$ADDRESS/24" dev eth0
udhcpc -i eth0 -s /etc/udhcpc -q -n -t 5 -T 1 >/dev/null 2>&1 &
"""
INITTAB = """::sysinit:/etc/rc
::respawn:/bin/httpd -f -p 80 -h /www
::shutdown:/bin/true
"""
UDHCPC = """#!/bin/sh
[ "$1" = bound ] && ip address add "$ip/${mask:-24}" dev "$interface"
exit 0
"""
APPLETS = "sh ip udhcpc httpd sleep cat init poweroff reboot halt kill true"
PRESEED = f"""
storage_pools:
- {{name: default, driver: dir}}
networks:
- name: {BRIDGE}
  type: bridge
  config: {{ipv4.address: {GATEWAY}, ipv4.nat: "false", ipv4.firewall: "false", ipv6.address: none}}
profiles:
- name: default
  devices:
    root: {{type: disk, path: /, pool: default}}
    eth0: {{type: nic, name: eth0, network: {BRIDGE}}}
"""
CLUSTER_PRESEED = """
config: {core.https_address: "10.99.0.1:8443"}
cluster: {enabled: true, server_name: h1}
storage_pools:
- {name: default, driver: dir}
profiles:
- name: default
  devices:
    root: {type: disk, path: /, pool: default}
    eth0: {type: nic, name: eth0, nictype: bridged, parent: br0}
"""
CLUSTERLESS_PRESEED = """
storage_pools:
- {{name: default, driver: dir}}
profiles:
- name: default
  devices:
    root: {{type: disk, path: /, pool: default}}
    eth0: {{type: nic, name: eth0, nictype: bridged, parent: {bridge}}}
"""
JOIN_PRESEED = """
cluster:
  enabled: true
  server_name: h{number}
  server_address: "10.99.0.{number}:8443"
  cluster_token: {token}
"""


def image(directory: Path) -> Path:
    """Build an image of a megabyte: busybox, which takes an address by DHCP and serves HTTP."""
    busybox = shutil.which("busybox") or program("busybox", "busybox-static", "/bin")
    root = directory / "image" / "rootfs"
    for name in ("bin", "sbin", "etc", "proc", "sys", "dev", "tmp", "run", "www"):
        (root / name).mkdir(parents=True)
    shutil.copy(busybox, root / "bin/busybox")
    for name in APPLETS.split():
        (root / "bin" / name).symlink_to("busybox")
    (root / "sbin/init").symlink_to("../bin/busybox")
    for name, text in {"etc/rc": RC, "etc/udhcpc": UDHCPC, "etc/inittab": INITTAB, "www/index.html": "here\n"}.items():
        (root / name).write_text(text)
        (root / name).chmod(0o755)
    about = "architecture: x86_64\ncreation_date: 1700000000\nproperties: {description: jitsu's tests}\n"
    (directory / "image/metadata.yaml").write_text(about)
    made = directory / "image.tar.gz"
    subprocess.run(["tar", "-C", directory / "image", "-czf", made, "metadata.yaml", "rootfs"], check=True)
    return made


def _run(*command: str, environment: dict[str, str], given: str = "", check: bool = True) -> str:
    done = subprocess.run(
        command, env=environment, input=given, capture_output=True, text=True, timeout=CALL_LIMIT_S, check=False
    )
    assert not check or done.returncode == 0, f"{command}: {done.stderr}"
    return done.stdout


def lxc(*arguments: str, check: bool = True) -> str:
    """Run lxc(1) with the server of LXD_DIR."""
    return _run("lxc", *arguments, check=check, environment=dict(os.environ))


def remove(name: str) -> None:
    """Delete an instance; one that has just stopped is busy for a moment."""
    ends = time.monotonic() + CALL_LIMIT_S
    while name in lxc("list", "-c", "n", "-f", "csv").split():
        assert time.monotonic() < ends, lxc("delete", "-f", name)
        lxc("delete", "-f", name, check=False)


class LxdServer:
    """A daemon, which can be killed and started again; its instances run on."""

    def __init__(self, directory: Path, namespace: str) -> None:
        self.directory = directory
        self.namespace = namespace
        self.home = directory / "lxd"
        self.socket = self.home / "unix.socket"
        self.process: subprocess.Popen[bytes] | None = None
        self._environment = {**os.environ, "LXD_DIR": str(self.home), "HOME": str(directory)}

    def inside(self, *command: str) -> list[str]:
        """Return a command as it is run in the daemon's namespace."""
        words = ["unshare", "-m", "--propagation", "private", "sh", "-c", INSIDE, "sh"]
        return [*words, str(self.directory), self.namespace, *command]

    def start(self) -> None:
        self.home.mkdir(exist_ok=True)
        (self.directory / "cg").mkdir(exist_ok=True)
        with (self.directory / "lxd.out").open("ab") as said:
            self.process = subprocess.Popen(
                self.inside("lxd", f"--logfile={self.directory}/lxd.log"),
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=said,
                stderr=said,
                start_new_session=True,
            )
        self._run("lxd", "waitready", f"--timeout={START_LIMIT_S:g}")

    def kill(self, number: int = signal.SIGKILL) -> None:
        """End the daemon, or send it another signal."""
        assert self.process is not None
        self.process.send_signal(number)
        if number in (signal.SIGKILL, signal.SIGTERM):
            self.process.wait(START_LIMIT_S)
            self.process = None

    def _run(self, *command: str, given: str = "", check: bool = True) -> str:
        return _run(*command, given=given, check=check, environment=self._environment)

    def lxc(self, *arguments: str, check: bool = True) -> str:
        """Run lxc(1)."""
        return self._run("lxc", *arguments, check=check)

    def preseed(self, text: str) -> None:
        """Configure the daemon; in its namespace, as it listens there."""
        self._run(*self.inside("lxd", "init", "--preseed"), given=text)

    def make(self, name: str, *options: str) -> None:
        """Make an instance."""
        self.lxc("init", "-q", IMAGE, name, *options)

    def pid(self, name: str) -> int:
        """Return the process id of an instance's init, 0 if it does not run."""
        said = self.lxc("query", f"/1.0/instances/{name}/state")
        found = next(line for line in said.splitlines() if '"pid"' in line)
        return int(found.partition(":")[2].strip(" ,"))

    def kill_instances(self) -> None:
        """End all instances at once: what runs them, and their processes."""
        self._kill(b"[lxc monitor] ")

    def _kill(self, begins: bytes) -> None:
        """End the processes of this daemon whose command begins so, and their children."""
        for process in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                command = (process / "cmdline").read_bytes()
                if command.startswith(begins) and str(self.home).encode() + b"/" in command:
                    for child in (process / f"task/{process.name}/children").read_text().split():
                        os.kill(int(child), signal.SIGKILL)
                    os.kill(int(process.name), signal.SIGKILL)

    def remove_instances(self) -> None:
        for name in self.lxc("list", "-c", "n", "-f", "csv", check=False).split():
            self.lxc("delete", "--force", name, check=False)

    def close(self) -> None:
        """Leave nothing behind: no instance, no daemon, no server of a network."""
        if self.process is None:
            self.start()
        self.process.send_signal(signal.SIGCONT)  # type: ignore[union-attr]
        self.remove_instances()
        self.kill(signal.SIGTERM)
        self._kill(b"dnsmasq\0")


class LxdCluster:
    """Three members, each with a bridge br0 in a namespace of its own, on one switch, which is a bridge br0 too."""

    def __init__(self, directory: Path) -> None:
        self._prefix = f"jl{os.getpid()}"
        self.switch = f"{self._prefix}-sw"
        self.members = {}
        for name in ("h1", "h2", "h3"):
            (directory / name).mkdir()
            self.members[name] = LxdServer(directory / name, f"{self._prefix}-{name}")

    def make(self) -> None:
        ip("netns", "add", self.switch)
        _bridge(self.switch, "10.99.0.254/24")
        for name, member in self.members.items():
            ip("netns", "add", member.namespace)
            _bridge(member.namespace, f"10.99.0.{name[1:]}/24")
            link = ("link", "add", name, "type", "veth", "peer", "name", "up0", "netns", member.namespace)
            ip("-n", self.switch, *link)
            ip("-n", self.switch, "link", "set", name, "master", "br0", "up")
            ip("-n", member.namespace, "link", "set", "up0", "master", "br0", "up")
            member.start()
        first = self.members["h1"]
        first.preseed(CLUSTER_PRESEED)
        for number in (2, 3):
            token = first.lxc("cluster", "add", f"h{number}").split()[-1]
            self.members[f"h{number}"].preseed(JOIN_PRESEED.format(number=number, token=token))

    def cut(self, name: str) -> None:
        """Let nothing through between a member and the others."""
        ip("-n", self.switch, "link", "set", name, "down")

    def join(self, name: str) -> None:
        """End what `cut` did."""
        ip("-n", self.switch, "link", "set", name, "up")

    def kill(self, name: str) -> None:
        """End a member as a loss of power does: the daemon, its instances, and the link."""
        self.cut(name)
        member = self.members[name]
        member.kill()
        member.kill_instances()

    def close(self) -> None:
        for member in self.members.values():
            if member.process is not None:
                member.kill()
            member.kill_instances()
        for namespace in [self.switch, *(member.namespace for member in self.members.values())]:
            subprocess.run(["ip", "netns", "delete", namespace], capture_output=True, check=False)


def _bridge(namespace: str, address: str) -> None:
    ip("-n", namespace, "link", "set", "lo", "up")
    ip("-n", namespace, "link", "add", "br0", "type", "bridge", "forward_delay", "0")
    ip("-n", namespace, "address", "add", address, "dev", "br0")
    ip("-n", namespace, "link", "set", "br0", "up")


@contextmanager
def running_cluster() -> Iterator[LxdCluster]:
    """Run a cluster of three, with the image; a member is offline after 11 s without a heartbeat, the least."""
    need_lxd()
    directory = Path(tempfile.mkdtemp(prefix="jl-", dir="/tmp"))
    directory.chmod(0o755)
    cluster = LxdCluster(directory)
    try:
        cluster.make()
        first = cluster.members["h1"]
        first.lxc("config", "set", "cluster.offline_threshold", "11")
        first.lxc("image", "import", str(image(directory)), "--alias", IMAGE)
        yield cluster
    finally:
        cluster.close()
        time.sleep(0.2)
        shutil.rmtree(directory, ignore_errors=True)
        remove_groups()


def remove_groups() -> None:
    """Remove the control groups that LXC leaves behind, which are empty."""
    for group in sorted(Path("/sys/fs/cgroup").glob("*/lxc.*"), reverse=True):
        with contextlib.suppress(OSError):
            group.rmdir()


def need_lxd() -> None:
    """Have LXD installed, or leave the test out."""
    if os.geteuid():
        pytest.skip("needs root")
    program("lxd", "lxd")
    program("lxc", "lxd-client")
    program("dnsmasq", "dnsmasq-base")


@contextmanager
def running_lxd(namespace: str = "", preseed: str = PRESEED) -> Iterator[LxdServer]:
    """Run an LXD with the image, in a namespace that is there, or in one of its own with a managed bridge."""
    need_lxd()
    directory = Path(tempfile.mkdtemp(prefix="jl-", dir="/tmp"))
    directory.chmod(0o755)  # the containers' users look into it
    own = "" if namespace else f"jl{os.getpid()}"
    server = LxdServer(directory, namespace or own)
    if own:
        ip("netns", "add", own)
        ip("-n", own, "link", "set", "lo", "up")
    try:
        server.start()
        server.preseed(preseed)
        server.lxc("image", "import", str(image(directory)), "--alias", IMAGE)
        yield server
    finally:
        server.close()
        if own:
            ip("netns", "delete", own)
        time.sleep(0.2)  # mounts of the daemon go with its last process
        shutil.rmtree(directory, ignore_errors=True)
        remove_groups()


class _Api(http.client.HTTPConnection):
    """LXD's own calls, as its client makes them: without the fifth of a second that lxc(1) takes to start."""

    def __init__(self, path: Path) -> None:
        super().__init__("lxd")
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.connect(str(self._path))

    def change(self, name: str, action: str) -> None:
        """Have an instance started or stopped, and return when it is."""
        body = json.dumps({"action": action, "force": True, "timeout": 30})
        self.request("PUT", f"/1.0/instances/{name}/state", body)
        operation = json.load(self.getresponse())["operation"]
        self.request("GET", f"{operation}/wait")
        assert json.load(self.getresponse())["metadata"]["status"] == "Success"


@contextmanager
def bench_engine(lan: Lan, _: Path) -> Iterator[EngineBench]:
    """Yield containers on the Lan's bridge, for `make bench-engines`."""
    preseed = CLUSTERLESS_PRESEED.format(bridge=LAN_BRIDGE)
    with running_lxd(lan.host, preseed) as server:
        machines = []
        for number in range(MACHINES):
            name, address = f"m{number}", address_of(number)
            device = f"eth0,hwaddr={mac_of(number)}"
            server.make(name, "-c", f"environment.ADDRESS={address}", "-d", device)
            start = partial(_changed, server.socket, name, "start")
            stop = partial(_changed, server.socket, name, "stop")
            machines.append(BenchMachine(name, address, "", start, stop))
        yield EngineBench(f'[hypervisor]\nkind = "lxd"\nconnect = "{server.socket}"\n', machines)


def _changed(path: Path, name: str, action: str) -> None:
    api = _Api(path)
    api.change(name, action)
    api.close()
