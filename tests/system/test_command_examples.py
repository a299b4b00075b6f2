"""The examples of deploy/examples, as they are shipped, with what they drive."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from jitsu_protocol.model.errors import Unavailable
from jitsu_protocol.model.vm_keys import StopMode
from jitsu_runtime.settings.load import load
from jitsu_vmd.rules.events import GuestState
from tests.support.fake_apis import PLAYED_KUBECTL, FakeKubernetes, FakeRedfish, served
from tests.support.hypervisors import running_command
from tests.support.lan import Lan, ip, lan_suite
from tests.support.pages import ROOT
from tests.support.suite import wait_for
from tests.system.test_first_packets import summon

if TYPE_CHECKING:
    from collections.abc import Iterator

EXAMPLES = ROOT / "deploy" / "examples"
INSTALLED = "/usr/share/jitsu/examples/"


def section(name: str, **changes: str) -> str:
    """Return the [command.NAME] of an example, with the paths of this checkout and what else a test changes."""
    text = (EXAMPLES / f"{name}.toml").read_text()
    text = text[text.index("[command.") : text.index("[vm.")].replace(INSTALLED, f"{EXAMPLES}/")
    for before, after in changes.items():
        assert before in text
        text = text.replace(before, after)
    return text.replace("appears_within", "interval = 1\nappears_within") if "interval" not in text else text


def quick(text: str) -> str:
    """Ask for states often: tests wait for them."""
    lines = [line for line in text.splitlines() if not line.startswith("interval")]
    return "\n".join([*lines, "interval = 0.5", ""])


def program(directory: Path, name: str, text: str) -> None:
    """Write a program that is found before the system's."""
    file = directory / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)
    file.chmod(0o755)


@pytest.mark.wires
@pytest.mark.parametrize("file", sorted(EXAMPLES.glob("*.toml")), ids=lambda file: file.stem)
def test_an_example_is_a_configuration(file: Path) -> None:
    settings = load(file, {}, {})
    (vm,) = settings.vms
    assert vm.key("command") in settings.command


# --- Redfish ---


@pytest.mark.suite
async def test_a_server_is_switched_by_its_controller(tmp_path: Path) -> None:
    api = FakeRedfish()
    with served(api):
        config = tmp_path / "redfish.ini"
        (tmp_path / "password").write_text("secret\n")
        config.write_text(
            f"[DEFAULT]\nuser = jitsu\npassword_file = {tmp_path}/password\n[build1]\nurl = {api.url}{api.PATH}\n"
        )
        text = quick(section("redfish", **{"/etc/jitsu/redfish.ini": str(config)}))
        keys = {"name": "build1", "command": "server", "stop_mode": "shutdown", "shutdown_limit": "10"}
        async with running_command(tmp_path, text, **keys) as made:
            assert await made.state() is GuestState.OFF
            await made.hypervisor.start(made.vm)
            assert (await made.state(), api.power) == (GuestState.RUNNING, "Off"), "its power follows late"
            await made.becomes(GuestState.RUNNING)
            await made.hypervisor.stop(made.vm, StopMode.SHUTDOWN)
            assert (await made.state(), api.power) == (GuestState.OFF, "Off")
            await made.hypervisor.start(made.vm)
            await _is_on(api)
            await made.hypervisor.stop(made.vm, StopMode.DESTROY)
            assert api.power == "Off"
            (tmp_path / "password").write_text("wrong")
            with pytest.raises(Unavailable, match=r"state: exit status 1: redfish: state: HTTP 401"):
                await made.hypervisor.stop(made.vm, StopMode.DESTROY)
            (tmp_path / "password").write_text("secret")


async def _is_on(api: FakeRedfish) -> None:
    """Wait until a server is really on; the backend believes it earlier."""
    while api.power != "On":
        await asyncio.sleep(0.05)  # the backend asks for its power meanwhile


# --- Kubernetes ---


@pytest.mark.suite
async def test_a_deployment_is_scaled_to_one_and_to_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    api = FakeKubernetes("shop", "other")
    if shutil.which("kubectl") is None:
        program(tmp_path / "bin", "kubectl", PLAYED_KUBECTL)
        monkeypatch.setenv("PATH", f"{tmp_path}/bin:{os.environ['PATH']}")
    monkeypatch.setenv("HOME", str(tmp_path))  # kubectl keeps what it has discovered there
    with served(api):
        config = str(api.config(tmp_path / "kubeconfig"))
        text = quick(section("kubernetes", **{"/etc/jitsu/kubeconfig": config}))
        async with running_command(tmp_path, text, name="shop", command="deployment") as made:
            assert await made.state() is GuestState.OFF
            await made.hypervisor.start(made.vm)
            assert api.replicas == {"shop": 1, "other": 0}
            await made.becomes(GuestState.RUNNING)
            await made.hypervisor.stop(made.vm, StopMode.DESTROY)
            assert api.replicas == {"shop": 0, "other": 0}
            assert await made.state() is GuestState.OFF


# --- systemd ---

SYSTEMCTL = """#!/bin/sh
# As much of systemctl as the example uses: a unit is a process.
file="{directory}/$2"
state=inactive
if read -r pid 2>/dev/null < "$file" && read -r line 2>/dev/null < "/proc/$pid/stat"; then
  case "${{line##*) }}" in Z* | X*) state=failed ;; *) state=active ;; esac
fi
case "$1" in
  start) [ "$state" = active ] || {{ setsid sleep 600 < /dev/null > /dev/null 2>&1 & echo $! > "$file"; }} ;;
  stop) [ "$state" != active ] || kill "$pid"; rm -f "$file" ;;
  is-active) echo "$state"; [ "$state" = active ] || exit 3 ;;
esac
"""


@pytest.mark.suite
async def test_a_unit_is_started_stopped_and_found_failed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program(tmp_path / "bin", "systemctl", SYSTEMCTL.format(directory=tmp_path))
    monkeypatch.setenv("PATH", f"{tmp_path}/bin:{os.environ['PATH']}")
    async with running_command(tmp_path, quick(section("systemd")), name="wiki", command="unit") as made:
        unit = tmp_path / "on-demand-wiki.service"
        assert await made.state() is GuestState.OFF
        await made.hypervisor.start(made.vm)
        await made.becomes(GuestState.RUNNING)
        os.kill(int(unit.read_text()), signal.SIGKILL)
        await made.becomes(GuestState.OFF)
        await made.hypervisor.start(made.vm)
        await made.hypervisor.stop(made.vm, StopMode.DESTROY)
        assert not unit.exists()


# --- a sleeping computer ---


class Computer:
    """A computer on the bridge: its network card listens while it sleeps, and it has an address while it is awake."""

    ADDRESS, MAC = "10.77.0.101", "02:00:5e:00:53:14"

    def __init__(self, lan: Lan) -> None:
        self.lan = lan
        self.wakes = 0
        self._namespace = lan.clients[1]
        self._ends = False
        self.sleep()
        self._threads = [lan.start(1, self._card), lan.start(1, self._server)]

    def sleep(self) -> None:
        """Answer nothing any longer."""
        with suppress(subprocess.CalledProcessError):
            ip("-n", self._namespace, "address", "delete", f"{self.ADDRESS}/24", "dev", "eth0")

    def _card(self) -> None:
        """Wake up when a magic packet comes."""
        magic = b"\xff" * 6 + bytes.fromhex(self.MAC.replace(":", "")) * 16
        with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3)) as card:
            card.settimeout(0.2)
            while not self._ends:
                with suppress(TimeoutError):
                    if magic in card.recv(65536):
                        self.wakes += 1
                        with suppress(subprocess.CalledProcessError):
                            ip("-n", self._namespace, "address", "add", f"{self.ADDRESS}/24", "dev", "eth0")

    def _server(self) -> None:
        """Be sshd and the file server; `suspend`, sent to the first, sends the computer to sleep."""
        listeners = [socket.create_server(("0.0.0.0", port)) for port in (22, 445)]
        for listener in listeners:
            listener.settimeout(0.05)
        while not self._ends:
            for listener in listeners:
                with suppress(TimeoutError):
                    client, _ = listener.accept()
                    with client:
                        client.settimeout(0.2)
                        with suppress(OSError):
                            if b"suspend" in client.recv(1000):
                                threading.Timer(0.3, self.sleep).start()
        for listener in listeners:
            listener.close()

    def end(self) -> None:
        """End it."""
        self._ends = True
        for thread in self._threads:
            thread.result(10)


SSH = """#!/usr/bin/env python3
import socket, sys
options = sys.argv[1:]
target = next(each for each in options if "@" in each)
with socket.create_connection((target.partition("@")[2], 22), 5) as client:
    client.sendall(" ".join(options).encode())
"""


@contextmanager
def computer_on(lan: Lan) -> Iterator[Computer]:
    computer = Computer(lan)
    try:
        yield computer
    finally:
        computer.end()


@pytest.mark.net
@pytest.mark.skipif(os.geteuid() != 0, reason="needs root: network namespaces")
def test_a_sleeping_computer_is_woken_by_a_query_and_sent_to_sleep_when_it_is_idle(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program(tmp_path / "bin", "ssh", SSH)
    programs = Path(sys.executable).parent
    monkeypatch.setenv("PATH", f"{tmp_path}/bin:{programs}:{os.environ['PATH']}")
    text = (EXAMPLES / "sleeping-computer.toml").read_text()
    for before, after in {
        "192.168.1.20": Computer.ADDRESS,
        "nas.home.example": "nas.jitsu.test",
        'interval = "30s"': "interval = 1",
        'idle_timeout = "30m"': "idle_timeout = 3\nttl = 1",
    }.items():
        assert before in text
        text = text.replace(before, after)
    lan = Lan(2)
    try:
        lan.make()
        with computer_on(lan) as computer, lan_suite(tmp_path, text, lan=lan) as (_, suite):
            wait_for(lambda: suite.state("nas") == "off", 20, "the computer sleeps")
            assert lan.run(0, lambda: summon("nas", suite.port)) == Computer.ADDRESS
            assert computer.wakes >= 1
            lan.run(0, lambda: socket.create_connection((Computer.ADDRESS, 445), 5).close())
            wait_for(lambda: suite.state("nas") == "ready", 20, "vmd sees that too")
            wait_for(lambda: suite.state("nas") == "off", 60, "it is idle and sleeps again")
            woken = computer.wakes
            assert lan.run(0, lambda: summon("nas", suite.port)) == Computer.ADDRESS
            assert computer.wakes > woken, "and again"
    finally:
        lan.remove()
