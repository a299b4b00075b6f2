"""Names that are not held, asked of a server that holds them."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from tests.support.dns import ask
from tests.support.suite import RunningSuite, free_port, vm_toml

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.suite

STATIC = (
    "[dns]\nzones = ['example.org']\nrecords = ['www.example.org. 60 IN A 192.0.2.7', "
    f"'big.example.org. 60 IN TXT {' '.join(letter * 250 for letter in 'abcdef')}']\n"
)


async def test_what_is_not_held_is_asked_of_another_server(tmp_path: Path) -> None:
    toml = vm_toml("www", "127.6.1.1", ttl=60, boot_time=0, response_delay=0)
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    with (
        RunningSuite(tmp_path / "a", toml=STATIC + vm_toml("held", "127.6.1.2")) as other,
        RunningSuite(tmp_path / "b", ["-f", "127.0.0.1", "-p", str(other.port)], toml) as suite,
    ):
        assert (await ask("www.jitsu.test", suite.port)).addresses == ["127.6.1.1"]
        answer = await ask("www.example.org", suite.port)
        assert (answer.addresses, answer.ttl) == (["192.0.2.7"], 60)
        assert (await ask("nobody.example.org", suite.port)).rcode == "NXDOMAIN"
        big = await ask("big.example.org", suite.port, rdtype="TXT")
        assert (big.rcode, big.addresses) == ("NOERROR", [])  # truncated: fetched over TCP, too large for UDP
        held = await ask("held.jitsu.test", suite.port)
        assert held.rcode == "NXDOMAIN"  # the zone is ours: nobody else is asked
        assert (await ask("www.elsewhere.net", suite.port)).rcode == "SERVFAIL"  # the other refuses
        other.stop()
        assert (await ask("www.example.org", suite.port)).addresses == ["192.0.2.7"]  # remembered
        gone = await ask("new.example.org", suite.port)
        assert (gone.rcode, gone.extended_error) == ("SERVFAIL", "23 127.0.0.1: Connection refused")
        assert gone.seconds < 1


async def test_a_server_that_is_silent_and_clients_that_go_keep_nobody_waiting(tmp_path: Path) -> None:
    silent = free_port()
    loop = asyncio.get_running_loop()
    transport, _ = await loop.create_datagram_endpoint(asyncio.DatagramProtocol, local_addr=("127.0.0.1", silent))
    toml = vm_toml("www", "127.6.2.1", ttl=60, boot_time=0, response_delay=0)
    try:
        with RunningSuite(tmp_path, ["-f", "127.0.0.1", "-p", str(silent)], toml) as suite:
            waiting = [asyncio.create_task(ask(f"n{n}.example.org", suite.port)) for n in range(50)]
            assert (await ask("www.jitsu.test", suite.port)).addresses == ["127.6.2.1"]
            answers = await asyncio.gather(*waiting)
            assert {answer.rcode for answer in answers} == {"SERVFAIL"}
            assert {answer.extended_error for answer in answers} == {"23 no server answers"}
    finally:
        transport.close()


def test_a_server_that_would_ask_itself_does_not_start(tmp_path: Path) -> None:
    port = free_port()
    with (
        pytest.raises(AssertionError, match="is this server itself"),
        RunningSuite(tmp_path, ["-l", str(port), "-f", "127.0.0.1", "-p", str(port)], vm_toml("www", "127.6.3.1")),
    ):
        pass
