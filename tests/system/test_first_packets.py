"""What a client sends while a guest boots reaches the guest, once, when it is there."""

from __future__ import annotations

import os
import socket
import struct
import time
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dns.message
import dns.query
import dns.rcode
import pytest

from jitsu_synjitsu.rules import frames
from jitsu_synjitsu.rules.frames import Kind
from jitsu_synjitsu.rules.probes import FIRST_PROBE_PORT
from tests.support.frames import ACK, CLIENT_MAC, SYN, arp, ethernet, tcp
from tests.support.lan import guest_toml, ip, lan_suite, retransmitted, taken_macs
from tests.support.suite import wait_for

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.support.suite import RunningSuite

pytestmark = [
    pytest.mark.net,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root: network namespaces and raw sockets"),
]
LIMIT_S = 20.0
ECHO = 7


def summon(name: str, port: int, rdtype: str = "A") -> str:
    """Ask for a name; return the address, which is answered while the guest still boots."""
    reply = dns.query.udp(
        dns.message.make_query(f"{name}.jitsu.test", rdtype, use_edns=0), "10.77.0.1", port=port, timeout=LIMIT_S
    )
    assert reply.rcode() == dns.rcode.NOERROR, reply.to_text()
    return str(reply.answer[0][0].to_text())


def http(address: str) -> str:
    with socket.create_connection((address, 80), timeout=LIMIT_S) as connection:
        connection.sendall(b"GET / HTTP/1.0\r\n\r\n")
        return connection.recv(4096).decode()


def echoed(address: str, text: str) -> str:
    with socket.create_connection((address, ECHO), timeout=LIMIT_S) as connection:
        connection.sendall(text.encode())
        return connection.recv(4096).decode()


def datagram(address: str, data: bytes) -> bytes:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM) as sender:
        sender.settimeout(LIMIT_S)
        sender.connect((address, ECHO))
        sender.send(data)
        return sender.recv(4096)


def without_retransmission(suite: RunningSuite, name: str, rdtype: str = "A") -> str:
    """Fetch a page from a guest that is off; the client's own timer must have had no part in that."""
    before = retransmitted()
    page = http(summon(name, suite.port, rdtype))
    assert retransmitted() == before
    return page


@pytest.mark.parametrize("rdtype", ["A", "AAAA"])
def test_a_connection_completes_when_the_guest_is_there_not_when_the_client_tries_again(
    tmp_path: Path, rdtype: str
) -> None:
    with lan_suite(tmp_path, guest_toml("www", 10)) as (lan, suite):
        page = lan.run(0, lambda: without_retransmission(suite, "www", rdtype))
        assert "This is the VM <b>www</b>" in page
        wait_for(lambda: suite.state("www") == "ready", 5, "vmd has heard of it")
        assert "1 replayed" in suite.jitsu("status")
        stages = [line.split()[:2] for line in suite.jitsu("trace").splitlines() if "handed over" in line]
        assert stages == [["handed", "over"]]
        suite.jitsu("stop", "www")
        assert "This is the VM" in lan.run(0, lambda: without_retransmission(suite, "www", rdtype)), "and again"


@pytest.mark.parametrize(
    "keys",
    [{"listen_after": 0.2}, {"announces": "false"}, {"boot_mac": "02:00:5e:00:53:77"}, {"boot_time": 0}],
    ids=["its link is up before it listens", "it never announces itself", "it has another MAC", "it takes no time"],
)
def test_a_guest_of_another_kind_is_masked_as_well(tmp_path: Path, keys: dict[str, object]) -> None:
    with lan_suite(tmp_path, guest_toml("www", 10, **keys)) as (lan, suite):
        assert "This is the VM" in lan.run(0, lambda: without_retransmission(suite, "www"))


def test_attempts_of_vmd_to_connect_are_not_kept_for_a_guest_that_listens_late(tmp_path: Path) -> None:
    with lan_suite(tmp_path, guest_toml("www", 10, wait_for_port=80, listen_after=0.3)) as (lan, suite):
        for n in (1, 2, 3):
            assert "This is the VM" in lan.run(0, lambda: without_retransmission(suite, "www"))
            wait_for(lambda: suite.state("www") == "ready", 5, "vmd has connected too")
            assert f" {n} replayed" in suite.jitsu("status"), "the client's SYN alone"
            suite.jitsu("stop", "www")


@pytest.mark.parametrize("rdtype", ["A", "AAAA"])
def test_datagrams_are_kept_too(tmp_path: Path, rdtype: str) -> None:
    toml = guest_toml("one", 10) + guest_toml("two", 11)
    with lan_suite(tmp_path, toml) as (lan, suite):

        def ask(name: str, data: bytes) -> bytes:
            return datagram(summon(name, suite.port, rdtype), data)

        for name, data in (("one", b"hello"), ("two", b"q" * 1350)):
            assert lan.run(0, partial(ask, name, data)) == data


def test_g4_many_connections_of_many_clients_get_each_their_own_answer(tmp_path: Path) -> None:
    clients, each = 5, 60
    with lan_suite(tmp_path, guest_toml("www", 10, boot_time=0.6), clients) as (lan, suite):

        def connect(client: int) -> list[str]:
            address = summon("www", suite.port)
            before = retransmitted()
            with ThreadPoolExecutor(each) as threads:  # threads take the namespace of who starts them
                answers = list(threads.map(lambda n: echoed(address, f"{client}.{n}"), range(each)))
            assert retransmitted() == before
            return answers

        with ThreadPoolExecutor(clients) as threads:
            found = list(threads.map(lambda client: lan.run(client, lambda: connect(client)), range(clients)))
        assert found == [[f"{client}.{n}" for n in range(each)] for client in range(clients)]
        assert suite.status()["www"]["starts"] == 1


def test_guests_that_boot_at_once_get_each_what_is_theirs(tmp_path: Path) -> None:
    guests = 12
    toml = "".join(guest_toml(f"g{n}", 10 + n, boot_time=0.5) for n in range(guests))
    with lan_suite(tmp_path, toml) as (lan, suite):

        def fetch_all() -> list[str]:
            with ThreadPoolExecutor(guests) as threads:
                return list(threads.map(lambda n: http(summon(f"g{n}", suite.port)), range(guests)))

        pages = lan.run(0, fetch_all)
        assert all(f"<b>g{n}</b>" in page for n, page in enumerate(pages))


def test_g4_if_the_boot_fails_clients_are_told_at_once(tmp_path: Path) -> None:
    toml = guest_toml("www", 10, boot_failure="crash", boot_time=0.5)
    with lan_suite(tmp_path, toml) as (lan, suite):

        def ask() -> list[str]:
            address = summon("www", suite.port)
            with ThreadPoolExecutor(2) as threads:
                told: list[Future[Any]] = [threads.submit(http, address), threads.submit(datagram, address, b"x")]
                return [type(each.exception()).__name__ for each in told]

        assert lan.run(0, ask) == ["ConnectionRefusedError"] * 2


def test_g7_a_synjitsu_that_dies_costs_what_it_kept_and_no_more(tmp_path: Path) -> None:
    with lan_suite(tmp_path, guest_toml("www", 10, boot_time=0.6)) as (lan, suite):

        def fetch() -> str:
            address = summon("www", suite.port)
            with ThreadPoolExecutor(1) as thread:
                fetched = thread.submit(http, address)
                time.sleep(0.3)
                suite.kill("synjitsu")
                return fetched.result()

        assert "This is the VM" in lan.run(0, fetch)
        wait_for(lambda: suite.state("www") == "ready", 10, "www is ready")
        assert taken_macs(suite) == [], "Synjitsu that is back finds the guest itself on the bridge"
        suite.jitsu("stop", "www")
        assert "This is the VM" in lan.run(0, lambda: without_retransmission(suite, "www"))


def speak() -> None:
    """Send a frame from CLIENT_MAC (IEEE 802's type for experiments)."""
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as raw:
        raw.bind(("eth0", 0))
        raw.send(ethernet(0x88B5, b"somebody is here", to=b"\xff" * 6))


def test_a_vm_that_is_off_and_whose_mac_another_has_is_warned_of_once(tmp_path: Path) -> None:
    taken = CLIENT_MAC.hex(":")
    with lan_suite(tmp_path, guest_toml("www", 10, mac=taken)) as (lan, suite):
        lan.run(0, speak)
        for _ in range(2):
            lan.run(0, lambda: summon("www", suite.port))
            suite.jitsu("stop", "www")
        wait_for(lambda: taken_macs(suite), 5, "it is told")
        (line,) = taken_macs(suite)
        assert f"bridge fdb show br jt0 | grep {taken}; give one of them another (its key mac)" in line


def claim_the_guests_address() -> None:
    """Say once that 10.77.0.10 is at this machine's MAC address: a gratuitous ARP request (RFC 5227, section 3)."""
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as raw:
        raw.bind(("eth0", 0))
        address = socket.inet_aton("10.77.0.10")
        raw.send(arp(1, raw.getsockname()[4], address, address))


def knows_the_guests_mac() -> bool:
    """Say whether the namespace of this thread has a complete ARP entry for 10.77.0.10 (its flags are 0x2, arp(7))."""
    lines = Path("/proc/thread-self/net/arp").read_text().splitlines()
    return any(line.split()[0] == "10.77.0.10" and line.split()[2] == "0x2" for line in lines)


def test_a_machine_that_claims_the_address_of_a_booting_guest_gets_none_of_its_packets(tmp_path: Path) -> None:
    with lan_suite(tmp_path, guest_toml("www", 10, boot_time=0.6), clients=2) as (lan, suite):

        def fetch() -> str:
            address = summon("www", suite.port)
            before = retransmitted()
            with ThreadPoolExecutor(1) as thread:
                fetched = thread.submit(http, address)
                # Before that the client itself would believe whoever answers its question first.
                wait_for(knows_the_guests_mac, 5, "Synjitsu has answered the client")
                lan.run(1, claim_the_guests_address)
                page = fetched.result()
            assert retransmitted() == before
            return page

        assert "This is the VM" in lan.run(0, fetch)
        assert "10.77.0.10 is held by" in suite.jitsu("status")
        suite.jitsu("stop", "www")
        assert "This is the VM" in lan.run(0, lambda: without_retransmission(suite, "www")), "nothing was learned"


def test_nothing_is_left_of_a_suite_that_ended(tmp_path: Path) -> None:
    with lan_suite(tmp_path, guest_toml("www", 10, boot_time=0)) as (lan, suite):
        lan.run(0, lambda: without_retransmission(suite, "www"))
        suite.stop()
        wait_for(lambda: not suite.processes(), 5, "all processes are gone")


def test_g4_a_thousand_connections_of_fifty_clients_to_one_guest(tmp_path: Path) -> None:
    each, addresses = 20, 50
    # Not on a tap: its queue takes 1,000 frames, fewer than the clients' kernel sends at once when they are connected.
    with lan_suite(tmp_path, guest_toml("www", 10, boot_time=0.8, tap="false")) as (lan, suite):
        for n in range(addresses):
            ip("-n", lan.clients[0], "address", "add", f"10.77.0.{110 + n}/24", "dev", "eth0")

        def one(n: int) -> str:
            with socket.create_connection(
                ("10.77.0.10", ECHO), LIMIT_S, (f"10.77.0.{110 + n % addresses}", 0)
            ) as connection:
                connection.sendall(f"{n};".encode())
                connection.shutdown(socket.SHUT_WR)
                return b"".join(iter(lambda: connection.recv(100), b"")).decode()

        def connect() -> list[str]:
            summon("www", suite.port)
            before = retransmitted()
            with ThreadPoolExecutor(each * addresses) as threads:
                answers = list(threads.map(one, range(each * addresses)))
            assert retransmitted() == before
            return answers

        assert lan.run(0, connect) == [f"{n};" for n in range(each * addresses)], "each its own answer, once"
        assert suite.status()["www"]["starts"] == 1


def test_a_hundred_guests_boot_at_once_with_ten_clients_each(tmp_path: Path) -> None:
    guests, each = 100, 10
    # 1,000 clients and 100 guests share this machine with the suite: a start may take longer than 1.2 s to be accepted.
    toml = "".join(guest_toml(f"g{n}", 10 + n, boot_time=0.6, boot_limit=60, max_wait=4) for n in range(guests))
    with lan_suite(tmp_path, toml) as (lan, suite):
        ip("-n", lan.clients[0], "address", "flush", "dev", "eth0")
        ip("-n", lan.clients[0], "address", "add", "10.77.0.200/24", "dev", "eth0")

        def one(n: int) -> str:
            address = summon(f"g{n % guests}", suite.port)
            return echoed(address, f"{n}")

        def connect() -> list[str]:
            with ThreadPoolExecutor(guests * each) as threads:
                return list(threads.map(one, range(guests * each)))

        assert lan.run(0, connect) == [f"{n}" for n in range(guests * each)]
        assert {status["starts"] for status in suite.status().values()} == {1}


class Tagged:
    """Sends and takes whole frames on eth0, with their VLAN tags (packet(7), PACKET_AUXDATA)."""

    def __init__(self) -> None:
        self.raw = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3))
        self.raw.setsockopt(263, 8, 1)
        self.raw.bind(("eth0", 0))
        self.raw.settimeout(LIMIT_S)
        self.frame = b""
        """The frame that was taken last."""

    def takes(self, wanted: Callable[[frames.Seen], bool]) -> frames.Seen:
        """Return the next frame that is wanted."""
        while True:
            data, ancillary, _, _ = self.raw.recvmsg(2048, 64)
            for _, _, extra in ancillary:
                status, _, _, _, _, tci, _ = struct.unpack("IIIHHHH", extra)
                if status & 0x10:
                    data = data[:12] + struct.pack("!HH", 0x8100, tci) + data[12:]
            seen, self.frame = frames.read(data), data
            if wanted(seen):
                return seen


def test_clients_and_guests_on_a_tagged_vlan_are_served_as_others_are(tmp_path: Path) -> None:
    mac, theirs, vm = b"\x02\0\x5e\0\x53\x10", b"\x0a\x4d\7\x64", b"\x0a\x4d\7\x0a"
    toml = guest_toml("www", 10, boot_failure="hang", mac=mac.hex(":"))
    toml = toml.replace('"10.77.0.10", "fd77::10"', '"10.77.7.10"')
    tag = b"\x81\0\0\7"
    with lan_suite(tmp_path, toml, clients=2) as (lan, suite):
        lan.run(0, lambda: summon("www", suite.port))
        client, guest = lan.run(0, Tagged), lan.run(1, Tagged)
        client.raw.send(arp(1, CLIENT_MAC, theirs, vm, vlan=7))
        assert client.takes(lambda seen: seen.kind is Kind.TELLS and seen.target == theirs).vlan == tag
        client.raw.send(tcp(40_000, 80, addresses=(theirs, vm), to=mac, vlan=7))
        time.sleep(0.2)
        guest.raw.send(arp(1, mac, vm, vm, vlan=7))
        probe = guest.takes(lambda seen: seen.kind is Kind.TCP and seen.source_port >= FIRST_PROBE_PORT)
        (sequence,) = struct.unpack_from("!I", guest.frame, probe.payload_at + 4)
        acknowledged = (sequence + 1) % 2**32
        answer = tcp(80, probe.source_port, SYN | ACK, 9, acknowledged, (vm, theirs), to=CLIENT_MAC, source=mac, vlan=7)
        guest.raw.send(answer)
        replayed = guest.takes(lambda seen: seen.kind is Kind.TCP and seen.source_port == 40_000)
        assert (probe.vlan, replayed.vlan, replayed.source) == (tag, tag, CLIENT_MAC)
        wait_for(lambda: suite.state("www") == "ready", LIMIT_S, "it is handed over")
        client.raw.close()
        guest.raw.close()
