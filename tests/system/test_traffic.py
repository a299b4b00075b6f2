"""Traffic on the bridge: it wakes VMs that are off, and keeps those up that are in use."""

from __future__ import annotations

import os
import signal
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from jitsu_runtime.clock import SYSTEM_CLOCK
from jitsu_synjitsu.rules.frames import checked, read
from jitsu_synjitsu.wires.memory import Memory
from tests.support.frames import CLIENT_MAC, tcp
from tests.support.lan import guest_toml, lan_suite, retransmitted
from tests.support.suite import wait_for
from tests.system.test_first_packets import ECHO, LIMIT_S, datagram, http, summon

if TYPE_CHECKING:
    from tests.support.lan import Lan
    from tests.support.suite import RunningSuite

pytestmark = [
    pytest.mark.net,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root: network namespaces and raw sockets"),
]
WAKES = {"wake_on_traffic": "true", "boot_time": 0.2}


def served(address: str) -> str:
    """Fetch a page without a query; the client's own timer must have no part in that."""
    before = retransmitted()
    page = http(address)
    assert retransmitted() == before
    return page


@pytest.mark.parametrize("number", ["10.77.0.10", "fd77::10"])
def test_a_connection_to_a_vm_that_is_off_wakes_it_and_completes(tmp_path: Path, number: str) -> None:
    with lan_suite(tmp_path, guest_toml("www", 10, **WAKES)) as (lan, suite):
        for _ in range(2):
            assert "This is the VM <b>www</b>" in lan.run(0, lambda: served(number))
            assert "(traffic)" in suite.jitsu("trace", "www")
            suite.jitsu("stop", "www")
        assert suite.status()["www"]["starts"] == 2


def test_a_datagram_to_a_vm_that_is_off_wakes_it_and_is_answered(tmp_path: Path) -> None:
    with lan_suite(tmp_path, guest_toml("www", 10, **WAKES)) as (lan, suite):
        assert lan.run(0, lambda: datagram("10.77.0.10", b"hello")) == b"hello"
        assert suite.status()["www"]["starts"] == 1


def test_a_vm_that_does_not_use_synjitsu_for_queries_is_woken_too(tmp_path: Path) -> None:
    toml = guest_toml("www", 10, **WAKES, use_synjitsu="false", wait_for_port=80)
    with lan_suite(tmp_path, toml) as (lan, suite):
        assert "This is the VM" in lan.run(0, lambda: served("10.77.0.10"))
        suite.jitsu("stop", "www")
        assert "This is the VM" in lan.run(0, lambda: served(summon("www", suite.port)))


def test_g4_a_client_of_a_vm_that_cannot_boot_is_told_at_once(tmp_path: Path) -> None:
    with lan_suite(tmp_path, guest_toml("www", 10, **WAKES, boot_failure="start")) as (lan, suite):

        def refused() -> float:
            begun = time.monotonic()
            with pytest.raises(ConnectionRefusedError):
                http("10.77.0.10")
            return time.monotonic() - begun

        for _ in range(3):  # it backs off meanwhile
            lan.run(0, refused)
        assert suite.state("www") == "failed"


def test_a_scan_of_the_network_does_not_boot_the_network(tmp_path: Path) -> None:
    guests = 12
    toml = "".join(guest_toml(f"g{n}", 10 + n, **WAKES) for n in range(guests))
    with lan_suite(tmp_path, toml) as (lan, suite):

        def scan() -> None:
            sockets = []
            for n in range(guests):
                sockets.append(socket.socket())
                sockets[-1].setblocking(False)
                with suppress(BlockingIOError):
                    sockets[-1].connect((f"10.77.0.{10 + n}", 80))
            time.sleep(0.5)
            for each in sockets:
                each.close()

        lan.run(0, scan)

        def woken() -> int:
            return sum(bool(status["starts"]) for status in suite.status().values())

        wait_for(lambda: woken() >= 5, 10, "as many as may are started")
        time.sleep(1.0)
        assert woken() == 5, "and no more"


def idle_toml(**keys: object) -> str:
    """Return a guest that is stopped after two idle seconds."""
    return guest_toml("www", 10, **{"idle_timeout": 2, "ttl": 1, "boot_time": 0.05} | keys)


def connected(lan: Lan, suite: RunningSuite) -> socket.socket:
    """Return a connection to the guest over which something has gone."""

    def connect() -> socket.socket:
        connection = socket.create_connection((summon("www", suite.port), ECHO), timeout=LIMIT_S)
        connection.sendall(b"hello")
        assert connection.recv(100) == b"hello"
        return connection

    connection = lan.run(0, connect)
    assert isinstance(connection, socket.socket)
    return connection


def stays_up(suite: RunningSuite, seconds: float) -> None:
    begun = time.monotonic()
    while time.monotonic() < begun + seconds:
        assert suite.state("www") in ("booting", "ready", "draining")
        time.sleep(0.2)


def stopped(suite: RunningSuite) -> bool:
    return suite.state("www") == "off"


def test_g3_a_vm_with_an_open_but_silent_connection_is_not_stopped_and_without_it_it_is(tmp_path: Path) -> None:
    with lan_suite(tmp_path, idle_toml()) as (lan, suite):
        with connected(lan, suite):
            assert "1 connections open" in suite.jitsu("status")
            stays_up(suite, 6.0)
        begun = time.monotonic()
        wait_for(lambda: stopped(suite), LIMIT_S, "the VM is stopped")
        assert time.monotonic() - begun > 1.9, "not before its idle timeout"


@pytest.mark.parametrize("how", ["a reset", "a client that vanished"])
def test_a_connection_that_died_keeps_a_vm_up_no_longer_than_it_must(tmp_path: Path, how: str) -> None:
    limit = 60 if how == "a reset" else 4
    with lan_suite(tmp_path, idle_toml(max_idle_connection=limit)) as (lan, suite):
        connection = connected(lan, suite)
        if how == "a reset":
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        else:
            lan.unplug(0)
        connection.close()
        if how != "a reset":
            stays_up(suite, 3.0)
        wait_for(lambda: stopped(suite), LIMIT_S, "the VM is stopped")


def test_g3_datagrams_keep_a_vm_up(tmp_path: Path) -> None:
    with lan_suite(tmp_path, idle_toml()) as (lan, suite):
        lan.run(0, lambda: datagram(summon("www", suite.port), b"x"))
        for _ in range(6):
            assert lan.run(0, lambda: datagram("10.77.0.10", b"x")) == b"x"
            stays_up(suite, 1.0)
        wait_for(lambda: stopped(suite), LIMIT_S, "the VM is stopped")


def asked_every_second(stop: threading.Event, server: str) -> int:
    """Ask a server from one port, as a guest's NTP client does, and ping it; return how many answers came."""
    answers = 0
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
        asking.settimeout(1.0)
        asking.connect((server, 123))
        while not stop.wait(0.5):
            with suppress(OSError):
                asking.send(b"what time is it?")
                answers += bool(asking.recv(100))
    return answers


def test_what_a_vm_asks_others_does_not_keep_it_up_and_a_client_does(tmp_path: Path) -> None:
    with lan_suite(tmp_path, idle_toml(idle_timeout=3, tap="false"), clients=2) as (lan, suite):
        stop = threading.Event()

        def served() -> None:
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as serving:
                serving.bind(("", 123))
                serving.settimeout(0.2)
                while not stop.is_set():
                    with suppress(TimeoutError):
                        serving.sendto(*serving.recvfrom(100))

        # Synjitsu knows its VMs and their bridge: of a VM that ran before, each flow might be a client's.
        wait_for(lambda: "holds no address" in suite.jitsu("status"), LIMIT_S, "Synjitsu is at the bridge")
        serving = lan.start(1, served)
        try:
            lan.run(0, lambda: datagram(summon("www", suite.port), b"x"))
            asking = lan.start_in_guest("10.77.0.10", lambda: asked_every_second(stop, "10.77.0.101"))
            for _ in range(5):
                assert lan.run(0, lambda: datagram("10.77.0.10", b"x")) == b"x"
                stays_up(suite, 1.0)
            wait_for(lambda: stopped(suite), LIMIT_S, "the VM is stopped")
        finally:
            stop.set()
        serving.result()
        assert asking.result() >= 5


def test_g7_synjitsu_dies_and_a_silent_connection_still_keeps_the_vm_up(tmp_path: Path) -> None:
    with lan_suite(tmp_path, idle_toml()) as (lan, suite):
        with connected(lan, suite):
            time.sleep(1.5)  # what is open is saved about once a second
            for _ in range(2):
                suite.kill("synjitsu")
                stays_up(suite, 5.0)
        wait_for(lambda: stopped(suite), LIMIT_S, "the VM is stopped")


def test_g8_while_synjitsu_is_away_nothing_is_stopped(tmp_path: Path) -> None:
    with lan_suite(tmp_path, idle_toml()) as (lan, suite):
        connected(lan, suite).close()
        pid = suite.pid("synjitsu")
        assert pid
        os.kill(pid, signal.SIGSTOP)
        try:
            stays_up(suite, 7.0)
            assert "synjitsu is silent, and a client may be connected" in suite.jitsu("status", check=False)
        finally:
            os.kill(pid, signal.SIGCONT)
        wait_for(lambda: stopped(suite), LIMIT_S, "the VM is stopped")


def flood(address: bytes, mac: bytes, seconds: float) -> int:
    """Send SYNs of ever other clients as fast as one core can; returns how many.

    Their checksums are right: where bridged packets pass through iptables, the kernel drops others before the bridge.
    """
    frames, sent = [], 0
    for n in range(20_000):
        sender = bytes([10, 77, 1 + n % 200, n // 200])
        frame = tcp(1024, 80, addresses=(sender, address), to=mac, source=CLIENT_MAC)
        frames.append(checked(frame, read(frame)))
    begun = time.monotonic()
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as raw:
        raw.bind(("eth0", 0))
        while time.monotonic() < begun + seconds:
            for _ in range(100):
                raw.send(frames[sent % len(frames)])
                sent += 1
    return sent


def resident_kb(pid: int) -> int:
    status = dict(line.split(":", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines())
    return int(status["VmRSS"].split()[0])


def test_g9_a_flood_costs_bounded_memory_and_neither_its_victim_nor_others_their_clients(tmp_path: Path) -> None:
    toml = guest_toml("victim", 10, boot_time=4, mac="02:00:5e:00:53:10") + guest_toml("other", 11, boot_time=0.3)
    with lan_suite(tmp_path, toml, clients=3) as (lan, suite), ThreadPoolExecutor(2) as threads:
        pid = suite.pid("synjitsu")
        assert pid
        lan.run(0, lambda: summon("victim", suite.port))
        before = resident_kb(pid)
        flooding = threads.submit(lan.run, 0, lambda: flood(b"\x0a\x4d\0\x0a", b"\x02\0\x5e\0\x53\x10", 3.0))
        time.sleep(0.5)
        victim = threads.submit(lan.run, 2, lambda: http("10.77.0.10"))
        for _ in range(3):
            assert "This is the VM <b>other</b>" in lan.run(1, lambda: served(summon("other", suite.port)))
            suite.jitsu("stop", "other")
        sent = flooding.result()
        assert resident_kb(pid) - before < 32 * 1024
        assert "This is the VM <b>victim</b>" in victim.result(), f"after {sent} SYNs"


def test_g3_connections_that_are_opened_while_another_vm_that_runs_is_flooded_are_all_seen(tmp_path: Path) -> None:
    victim = guest_toml("victim", 11, boot_time=0.05, mac="02:00:5e:00:53:11")
    with (
        lan_suite(tmp_path, idle_toml() + victim, clients=2) as (lan, suite),
        ThreadPoolExecutor(1) as threads,
        ExitStack() as open_connections,
    ):
        lan.run(1, lambda: summon("victim", suite.port))
        wait_for(lambda: suite.state("victim") == "ready", LIMIT_S, "the victim runs")
        flooding = threads.submit(lan.run, 1, lambda: flood(b"\x0a\x4d\0\x0b", b"\x02\0\x5e\0\x53\x11", 3.0))
        time.sleep(1.0)
        for _ in range(50):
            open_connections.enter_context(connected(lan, suite))
        assert not flooding.done()
        assert flooding.result() > 20_000
        vm = suite.status()["www"]["uuid"]

        def saved() -> int:
            known = Memory(tmp_path / "run" / "synjitsu.connections", SYSTEM_CLOCK).take(vm, up_since=0.0)
            return 0 if known is None else len(known[0])

        wait_for(lambda: saved() == 50, LIMIT_S, "all connections to the other VM were seen")
