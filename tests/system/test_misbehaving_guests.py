"""Guests on taps that misbehave as real ones have been seen to: each packet of a client has the one right outcome.

The guest is the one in C (guests/README.md); what it does wrong is in the VM's `cmdline`.
"""

from __future__ import annotations

import os
import socket
import time
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import pytest

from jitsu_synjitsu.rules.presence import RISE_LIMIT_S
from tests.support.lan import guest_toml, lan_suite
from tests.support.suite import wait_for
from tests.support.unikernel import unikernel_programs
from tests.system.test_first_packets import datagram, http, summon
from tests.system.test_taps import one_of_each, shut_ports

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.lan import Lan
    from tests.support.suite import RunningSuite

pytestmark = [
    pytest.mark.net,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root: network namespaces, taps and raw sockets"),
]
ONCE = (0, 1, 1)
"""Nothing that the client sent again, one SYN+ACK, one answer to its datagram."""
QUIET_S = 0.3
"""Longer than a slow guest's last answer takes, and than Synjitsu watches for refusals."""

MASKED = {
    "late": "--late-link=300",
    "resets": "--late-link=100 --loses-queue",
    "deaf": "--late-link=150 --listen-after=300",
    "othermac": "--mac=02:00:5e:00:53:77",
    "mld": "--mld-first=300",
    "dhcp": "--dhcp-first=300",
    "mute": "--no-announce",
    "mutelate": "--no-announce --late-link=200 --listen-after=200",
    "mutemac": "--no-announce --mac=02:00:5e:00:53:78",
    "slow": "--slow=50",
    "emulated": "--slow-frame=20",
}
"""Misbehaviours that a client must not notice, each of a guest of its own."""
NOTICED = {
    "doubles": "--duplicates",
    "loses": "--loses-every=7",
    "dies": "--listen-after=60000 --die-after=300",
    "refuses": "--answers-rst",
    "elsewhere": "--address-other=10.77.0.99",
    "talks": "--opens=10.77.0.100:9 --sends=10.77.0.100:9 --late-link=150 --listen-after=200",
    "fades": "--die-after=1500",
}
ALL = MASKED | NOTICED


@pytest.fixture(scope="module", autouse=True)
def programs() -> None:
    unikernel_programs()


def bad_guest(name: str, number: int, arguments: str, **keys: object) -> str:
    """Return the section of a guest on a tap that boots at once and takes these arguments."""
    return guest_toml(name, number, **{"tap": "true", "boot_time": 0, "cmdline": arguments} | keys)


def number_of(name: str) -> int:
    """Return the last number of a guest's addresses."""
    return 10 + list(ALL).index(name)


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Lan, RunningSuite]]:
    sections = {name: bad_guest(name, number_of(name), arguments) for name, arguments in ALL.items()}
    # With IPv4 only: a guest that is there at one of its addresses does not fail its boot.
    sections["elsewhere"] = bad_guest("elsewhere", number_of("elsewhere"), ALL["elsewhere"], boot_limit=2).replace(
        f', "fd77::{number_of("elsewhere")}"', ""
    )
    with lan_suite(tmp_path_factory.mktemp("misbehaving"), "".join(sections.values())) as (lan, suite):
        yield lan, suite


@pytest.mark.parametrize("name", MASKED)
def test_the_client_of_a_misbehaving_guest_gets_each_answer_once(running: tuple[Lan, RunningSuite], name: str) -> None:
    lan, suite = running
    for boot in ("first", "second"):
        assert lan.run(0, lambda: one_of_each(suite, name, QUIET_S)) == ONCE, f"{boot} boot with {MASKED[name]}"
        wait_for(lambda: shut_ports(lan) == [], 5, "the bridge floods to its port again")
        suite.jitsu("stop", name)


def test_each_frame_that_the_guest_doubles_is_there_twice_and_no_more(running: tuple[Lan, RunningSuite]) -> None:
    lan, suite = running
    assert lan.run(0, lambda: one_of_each(suite, "doubles", QUIET_S)) == (0, 2, 2)


def test_a_guest_whose_path_loses_frames_gets_no_datagram_twice(running: tuple[Lan, RunningSuite]) -> None:
    lan, suite = running
    _, opened, answered = lan.run(0, lambda: one_of_each(suite, "loses", QUIET_S))
    assert opened >= 1
    assert answered <= 1


class Outcome:
    """Return what the TCP and the UDP client of a VM that is off receive, and after how long."""

    def __init__(self, suite: RunningSuite, name: str) -> None:
        address = summon(name, suite.port)
        began = time.monotonic()
        with ThreadPoolExecutor(2) as threads:
            asked: list[Future[Any]] = [threads.submit(http, address), threads.submit(datagram, address, b"x")]
            self.errors = [type(each.exception()).__name__ for each in asked]
        self.took_s = time.monotonic() - began


REFUSED = ["ConnectionRefusedError"] * 2


def test_if_the_guest_dies_while_it_boots_its_clients_are_refused_at_once(running: tuple[Lan, RunningSuite]) -> None:
    lan, suite = running
    outcome = lan.run(0, lambda: Outcome(suite, "dies"))
    assert outcome.errors == REFUSED
    assert outcome.took_s < 0.9, "it dies after 0.3 s, and the clients' own timers have no part in it"
    wait_for(lambda: "the guest's process has ended by itself" in suite.jitsu("status"), 5, "the reason is reported")
    assert shut_ports(lan) == []


def test_a_guest_that_refuses_everything_is_not_hidden_for_longer_than_it_may_take_to_listen(
    running: tuple[Lan, RunningSuite],
) -> None:
    lan, suite = running

    def connect() -> str:
        try:
            http(summon("refuses", suite.port))
        except OSError as error:
            return type(error).__name__
        return "connected"

    began = time.monotonic()
    assert lan.run(0, connect) == "ConnectionRefusedError"
    assert time.monotonic() - began < RISE_LIMIT_S + 1


def test_a_guest_with_another_address_fails_its_boot_and_the_reason_names_both(
    running: tuple[Lan, RunningSuite],
) -> None:
    lan, suite = running
    outcome = lan.run(0, lambda: Outcome(suite, "elsewhere"))
    assert outcome.errors == REFUSED
    expected = f"the guest announces 10.77.0.99, configured is 10.77.0.{number_of('elsewhere')}"
    wait_for(lambda: expected in " ".join(suite.jitsu("status").split()), 5, "the reason is reported")


def test_what_the_guest_itself_opens_while_it_is_masked_arrives_once(running: tuple[Lan, RunningSuite]) -> None:
    lan, suite = running

    def hear() -> tuple[list[bytes], list[bytes]]:
        heard: tuple[list[bytes], list[bytes]] = [], []
        with socket.create_server(("", 9)) as server, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as datagrams:
            datagrams.bind(("", 9))
            assert one_of_each(suite, "talks", QUIET_S) == ONCE
            for each in (server, datagrams):
                each.settimeout(QUIET_S)
            with suppress(TimeoutError):
                while True:
                    with server.accept()[0] as connection:
                        heard[0].append(connection.recv(100))
            with suppress(TimeoutError):
                while True:
                    heard[1].append(datagrams.recv(100))
        return heard

    assert lan.run(0, hear) == ([b"hello from talks\n"], [b"hello from talks"])


def test_a_guest_that_dies_later_is_booted_again_by_the_next_query(running: tuple[Lan, RunningSuite]) -> None:
    lan, suite = running
    assert lan.run(0, lambda: one_of_each(suite, "fades", 0.1)) == ONCE
    wait_for(lambda: suite.state("fades") != "ready", 5, "it is noticed")
    time.sleep(1)  # a VM that has ended by itself is not started again at once (rules/backoff.py)
    assert lan.run(0, lambda: one_of_each(suite, "fades", 0.1)) == ONCE
