"""The original's handover: first packets go through Xenstore to a guest whose TCP stack looks there."""

from __future__ import annotations

import os
import socket
import subprocess
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

from tests.support.lan import guest_toml, lan_suite
from tests.support.original_guest import OriginalGuest
from tests.support.suite import wait_for
from tests.support.xenstored import Xenstored, running_xenstored
from tests.system.test_first_packets import LIMIT_S, http, summon

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.support.lan import Lan
    from tests.support.suite import RunningSuite


pytestmark = [
    pytest.mark.net,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root: network namespaces, xenstored"),
]
MAC = "02:00:5e:00:53:10"


def toml(daemon: Xenstored, **keys: object) -> str:
    """Return a suite with a VM that the mock never brings up: the guest is played."""
    guest = guest_toml("www", 10, handover="xenstore", mac=MAC, **{"boot_failure": "hang"} | keys)
    return f'[synjitsu]\nxenstore = "{daemon.socket}"\n{guest}'


@contextmanager
def xen_suite(directory: Path, clients: int = 1, **keys: object) -> Iterator[tuple[Xenstored, Lan, RunningSuite]]:
    """Run both."""
    with (
        running_xenstored(directory / "xen") as daemon,
        lan_suite(directory, toml(daemon, **keys), clients) as (lan, suite),
    ):
        yield daemon, lan, suite


def tree(daemon: Xenstored) -> str:
    listed = subprocess.run(
        ["xenstore-ls", "-f", "/ip"],
        env=os.environ | {"XENSTORED_PATH": str(daemon.socket)},
        capture_output=True,
        text=True,
        check=False,
    )
    return listed.stdout


def connect(port: int) -> bytes:
    address = summon("www", port)
    with socket.create_connection((address, 80), timeout=LIMIT_S) as connection:
        connection.sendall(b"hello")
        return connection.recv(100)


def test_a_guest_with_the_originals_stack_takes_its_connections_from_xenstore(tmp_path: Path) -> None:
    with xen_suite(tmp_path, clients=2) as (daemon, lan, suite):
        answer = lan.start(0, lambda: connect(suite.port))
        wait_for(lambda: "/syn/options" in tree(daemon), LIMIT_S, "the SYN is in Xenstore")
        shown = tree(daemon)
        assert '/ip/10-77-0-10 = ""' in shown
        assert "/ip/10-77-0-10/80/10-77-0-100/" in shown
        assert "((MSS 1460)SACK_ok(Timestamp " in shown
        assert '/syn/rx_wnd = "65535"' in shown

        def boot() -> OriginalGuest:
            guest = OriginalGuest("eth0", bytes.fromhex(MAC.replace(":", "")), "10.77.0.10", daemon.socket)
            guest.boot()
            return guest

        guest = lan.run(1, boot)
        assert isinstance(guest, OriginalGuest)
        try:
            assert answer.result(LIMIT_S) == b"hello"
            assert len(guest.accepted) == 1
            wait_for(lambda: suite.state("www") == "ready", LIMIT_S, "Synjitsu has handed over")
            wait_for(lambda: not tree(daemon), LIMIT_S, "what is left in Xenstore is removed")
        finally:
            guest.stop()


def test_g4_if_the_boot_fails_the_client_is_told_and_xenstore_is_as_before(tmp_path: Path) -> None:
    with xen_suite(tmp_path, boot_limit=1.5) as (daemon, lan, suite):
        with pytest.raises(ConnectionRefusedError):
            lan.run(0, lambda: connect(suite.port))
        wait_for(lambda: not tree(daemon), LIMIT_S, "what was in Xenstore is removed")


def test_without_xenstore_packets_are_replayed_as_to_any_other_guest(tmp_path: Path) -> None:
    with running_xenstored(tmp_path / "xen") as daemon:
        daemon.stop()
        with lan_suite(tmp_path, toml(daemon, boot_failure="never")) as (lan, suite):
            begun = time.monotonic()
            assert "This is the VM" in lan.run(0, lambda: http(summon("www", suite.port)))
            assert time.monotonic() - begun < 5
