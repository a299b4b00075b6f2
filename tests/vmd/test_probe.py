"""Waiting for a guest's port."""

from __future__ import annotations

import asyncio
import os
import socket
import subprocess
import threading
from time import monotonic, sleep
from typing import TYPE_CHECKING

import pytest

from jitsu_runtime.clock import SYSTEM_CLOCK
from jitsu_vmd.wires.probe import attempt_s, wait_for_port
from tests.support.lan import ip, made_lan
from tests.support.vms import make_vm

if TYPE_CHECKING:
    from tests.support.lan import Lan

pytestmark = pytest.mark.wires

UP_AFTER_S = 0.3


def appears(lan: Lan, address: str) -> None:
    """Have an address on a client after a while, which nobody announces."""
    sleep(UP_AFTER_S)
    subprocess.run(["ip", "-n", lan.clients[0], "address", "add", address, "dev", "eth0", "nodad"], check=True)


@pytest.mark.net
@pytest.mark.parametrize("address", ["10.77.0.50", "fd77::50"])
def test_a_guest_that_does_not_announce_itself_is_noticed_at_once(address: str) -> None:
    if os.geteuid():
        pytest.skip("needs root")
    every = "::" if ":" in address else "0.0.0.0"
    with made_lan(1) as lan:
        server = subprocess.Popen(
            ["ip", "netns", "exec", lan.clients[0], "python3", "-m", "http.server", "80", "--bind", every],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            sleep(1)
            bits = 64 if ":" in address else 24
            threading.Thread(target=appears, args=(lan, f"{address}/{bits}")).start()

            def waited() -> float:
                begun = monotonic()
                asyncio.run(wait_for_port(make_vm(address=address, wait_for_port="80"), SYSTEM_CLOCK))
                return monotonic() - begun

            took = lan.run_on_host(waited)
        finally:
            server.kill()
            server.wait()
    assert UP_AFTER_S <= took < UP_AFTER_S + 0.5, "not a second later, when Linux would ask again who has the address"


@pytest.mark.net
def test_a_lost_syn_costs_much_less_than_the_second_after_which_linux_repeats_it() -> None:
    if os.geteuid():
        pytest.skip("needs root")
    with made_lan(1) as lan:
        listening = lan.run(0, lambda: socket.create_server(("0.0.0.0", 80)))
        loses = ["blackhole", "10.77.0.1/32"]  # what it answers; it says all the same who has its address
        ip("-n", lan.clients[0], "route", "add", *loses)

        def is_up() -> None:
            sleep(UP_AFTER_S)
            ip("-n", lan.clients[0], "route", "delete", *loses)

        def waited() -> float:
            begun = monotonic()
            asyncio.run(wait_for_port(make_vm(address="10.77.0.100", wait_for_port="80"), SYSTEM_CLOCK))
            return monotonic() - begun

        threading.Thread(target=is_up).start()
        took = lan.run_on_host(waited)
        listening.close()
    assert UP_AFTER_S <= took < UP_AFTER_S + 0.5, "the kernel repeats a SYN after a second"


@pytest.mark.parametrize(("waited_s", "limit_s"), [(0.0, 0.01), (0.1, 0.025), (2.0, 0.5), (60.0, 1.0)])
def test_an_attempt_takes_a_share_of_the_time_that_the_guest_has_been_waited_for(
    waited_s: float, limit_s: float
) -> None:
    assert attempt_s(waited_s) == limit_s
