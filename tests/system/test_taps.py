"""Guests on taps, which have a queue: what is sent while they boot or are paused reaches them once."""

from __future__ import annotations

import os
import select
import signal
import socket
import struct
import subprocess
import time
from typing import TYPE_CHECKING

import pytest

from jitsu_synjitsu.rules import frames
from jitsu_synjitsu.rules.frames import ACK, SYN, Kind
from tests.support.lan import BRIDGE, guest_toml, lan_suite
from tests.support.suite import wait_for
from tests.system.test_first_packets import ECHO, LIMIT_S, summon

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.lan import Lan
    from tests.support.suite import RunningSuite

pytestmark = [
    pytest.mark.net,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root: network namespaces, taps and raw sockets"),
]
BOOTS = int(os.environ.get("TAP_BOOTS", "20"))
"""The whole measure is 300 (docs/explanation/synjitsu.md); each takes half a second."""
MAX_GUESTS = 50
QUIET_S = 0.15
"""A second answer comes within the time that Synjitsu watches for refusals."""
TOTAL_RETRANS_AT = 100  # struct tcp_info of linux/tcp.h, tcpi_total_retrans


class Captured:
    """The TCP segments and datagrams that a client is sent, as they pass its interface."""

    def __init__(self) -> None:
        self._raw = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
        self._raw.bind(("eth0", 0))

    def taken(self, address: str, quiet_s: float) -> list[frames.Seen]:
        """Return what has come from a VM until nothing more came for a while."""
        found = []
        while select.select([self._raw], [], [], quiet_s)[0]:
            seen = frames.read(self._raw.recv(65_536))
            if seen.sender == socket.inet_aton(address):
                found.append(seen)
        self._raw.close()
        return found


def one_of_each(suite: RunningSuite, name: str, quiet_s: float = QUIET_S, port: int = ECHO) -> tuple[int, int, int]:
    """Connect to a port of a VM that is off, and send it a datagram to be echoed.

    Returns how often the client has sent segments again, how many SYN+ACKs have come to that, and how many answers to
    the datagram.
    """
    captured = Captured()
    address = summon(name, suite.port)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        sender.connect((address, ECHO))
        sender.send(b"hello")
        with socket.create_connection((address, port), timeout=LIMIT_S) as connection:
            connection.sendall(b"GET / HTTP/1.0\r\n\r\n")
            assert connection.recv(100)
            info = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 256)
            ports = {Kind.TCP: connection.getsockname()[1], Kind.UDP: sender.getsockname()[1]}
            taken = [seen for seen in captured.taken(address, quiet_s) if seen.target_port == ports.get(seen.kind)]
    (again,) = struct.unpack_from("I", info, TOTAL_RETRANS_AT)
    opened = sum(seen.kind is Kind.TCP and seen.flags & (SYN | ACK) == SYN | ACK for seen in taken)
    return again, opened, sum(seen.kind is Kind.UDP for seen in taken)


def shut_ports(lan: Lan) -> list[str]:
    """Return the ports of the bridge to which it does not flood."""
    shown = subprocess.run(
        ["bridge", "-n", lan.host, "-d", "-o", "link", "show", "master", BRIDGE],
        check=True,
        capture_output=True,
        text=True,
    )
    return [line.split()[1].rstrip(":") for line in shown.stdout.splitlines() if " flood off" in line]


def tap_toml(name: str, number: int, **keys: object) -> str:
    return guest_toml(name, number, **{"tap": "true", "boot_time": 0.003} | keys)


@pytest.mark.timeout(60 + 3 * BOOTS)
def test_g4_each_syn_and_each_datagram_to_a_guest_that_is_up_in_3_ms_is_answered_once(tmp_path: Path) -> None:
    guests = min(BOOTS, MAX_GUESTS)
    toml = "".join(tap_toml(f"g{n}", 10 + n) for n in range(guests))
    with lan_suite(tmp_path, toml) as (lan, suite):
        found = []
        for n in range(BOOTS):
            name = f"g{n % guests}"
            if n >= guests:
                suite.jitsu("stop", name)
            found.append(lan.run(0, lambda name=name: one_of_each(suite, name)))  # type: ignore[misc]
        print(f"{BOOTS} boots: {sum(again for again, _, _ in found)} segments sent again,", end=" ")
        print(f"{sum(each[1:] != (1, 1) for each in found)} with another number of answers than one")
        assert found == [(0, 1, 1)] * BOOTS
        assert shut_ports(lan) == []


def test_no_client_hears_the_refusal_of_a_guest_on_a_tap_that_does_not_listen_yet(tmp_path: Path) -> None:
    with lan_suite(tmp_path, tap_toml("www", 10, boot_time=0.2, listen_after=0.4)) as (lan, suite):
        assert lan.run(0, lambda: one_of_each(suite, "www", 1.0)) == (0, 1, 1), "a datagram is sent again after 0.6 s"


def test_a_guest_that_is_paused_gets_what_is_sent_to_it_once(tmp_path: Path) -> None:
    with lan_suite(tmp_path, tap_toml("www", 10, stop_mode="pause")) as (lan, suite):
        assert lan.run(0, lambda: one_of_each(suite, "www")) == (0, 1, 1)
        for _ in range(3):
            suite.jitsu("stop", "www")
            wait_for(lambda: suite.state("www") == "paused", 5, "it is paused")
            wait_for(lambda: len(shut_ports(lan)) == 1, 5, "its port is shut: the bridge knows its MAC address")
            assert lan.run(0, lambda: one_of_each(suite, "www")) == (0, 1, 1)
            assert shut_ports(lan) == []


@pytest.mark.parametrize("end", ["the boot fails", "kill -9", "SIGTERM"])
def test_the_bridge_floods_to_the_port_again_however_the_boot_ends(tmp_path: Path, end: str) -> None:
    limit = 3 if end == "the boot fails" else 60
    with lan_suite(tmp_path, tap_toml("www", 10, boot_failure="hang", boot_limit=limit)) as (lan, suite):
        lan.run(0, lambda: summon("www", suite.port))
        wait_for(lambda: len(shut_ports(lan)) == 1, 5, "the port is shut while it boots")
        if end == "the boot fails":
            wait_for(lambda: suite.state("www") == "failed", 10, "it fails")
        else:
            pid = suite.pid("synjitsu")
            assert pid
            os.kill(pid, signal.SIGKILL if end == "kill -9" else signal.SIGTERM)
        wait_for(lambda: shut_ports(lan) == [], 5, "the port is open")


def test_status_says_where_duplicates_are_possible(tmp_path: Path) -> None:
    mac = "02:00:5e:00:53:77"
    with lan_suite(tmp_path, tap_toml("www", 10, mac=mac)) as (lan, suite):
        entry = ["bridge", "-n", lan.host, "fdb", "add", mac, "dev", "c0", "master", "static"]
        subprocess.run(entry, check=True)
        lan.run(0, lambda: summon("www", suite.port))
        time.sleep(0.2)
        status = " ".join(suite.jitsu("status").split())
        assert f"{BRIDGE} has a static entry for {mac}" in status
