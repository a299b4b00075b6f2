"""Wake-on-LAN on a real bridge: a magic packet for the MAC address of a VM that is off starts it."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from typing import TYPE_CHECKING

import pytest

from jitsu_vmd.hypervisors.command.programs.wake import magic_packet
from tests.support.lan import guest_toml, lan_suite
from tests.support.suite import wait_for

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

pytestmark = [
    pytest.mark.net,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root: network namespaces and raw sockets"),
]
MAC = "02:00:5e:00:53:0a"


def etherwake(to: bytes) -> None:
    """Send what etherwake(8) does, from the client's interface."""
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as raw:
        name = next(each for _, each in socket.if_nameindex() if each != "lo")
        raw.bind((name, 0))
        source = raw.getsockname()[4][:6]
        raw.send(to + source + (0x0842).to_bytes(2, "big") + magic_packet(MAC))


def wakeonlan() -> None:
    """Send what wakeonlan(1) does: a datagram to the broadcast address of the network, port 9."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sends:
        sends.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
        sends.sendto(magic_packet(MAC), ("10.77.0.255", 9))


def jitsu_wake() -> None:
    """Run our own program without naming an interface."""
    program = [sys.executable, "-m", "jitsu_vmd.hypervisors.command.programs.wake"]
    subprocess.run([*program, MAC, "--near", "10.77.0.10"], check=True, timeout=20)


def test_magic_packets_of_all_tools_start_a_vm_that_is_off_and_none_that_is_not_named(tmp_path: Path) -> None:
    toml = guest_toml("www", 10, wake_on_lan="true", mac=MAC, boot_time=0.05, use_synjitsu="false")
    toml += guest_toml("other", 11, wake_on_lan="true", boot_time=0.05)
    toml += guest_toml("deaf", 12, boot_time=0.05)
    with lan_suite(tmp_path, toml) as (lan, suite):
        tools: list[Callable[[], None]] = [
            lambda: etherwake(bytes.fromhex(MAC.replace(":", ""))),
            lambda: etherwake(b"\xff" * 6),
            wakeonlan,
            jitsu_wake,
        ]
        for count, tool in enumerate(tools, 1):
            time.sleep(1.1)  # magic.AGAIN_S
            lan.run(0, tool)
            wait_for(lambda: suite.state("www") == "ready", 10, "the VM runs")
            assert suite.status()["www"]["starts"] == count
            suite.jitsu("stop", "www")
            wait_for(lambda: suite.state("www") == "off", 10, "the VM is off")
        assert "(traffic)" in suite.jitsu("trace", "www")
        assert (suite.status()["other"]["starts"], suite.status()["deaf"]["starts"]) == (0, 0)
