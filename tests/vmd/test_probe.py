"""Waiting for a guest's port."""

from __future__ import annotations

import asyncio
import os
import subprocess
import threading
from time import monotonic, sleep
from typing import TYPE_CHECKING

import pytest

from jitsu_vmd.wires.probe import wait_for_port
from tests.support.lan import made_lan
from tests.support.vms import make_vm

if TYPE_CHECKING:
    from tests.support.lan import Lan

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
                asyncio.run(wait_for_port(make_vm(address=address, wait_for_port="80")))
                return monotonic() - begun

            took = lan.run_on_host(waited)
        finally:
            server.kill()
            server.wait()
    assert UP_AFTER_S <= took < UP_AFTER_S + 0.5, "not a second later, when Linux would ask again who has the address"
