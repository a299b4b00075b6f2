"""Which servers are asked for names of others, and for whom."""

from __future__ import annotations

import asyncio
import errno
import os
import random
import socket
import subprocess
import sys
from ipaddress import ip_address, ip_interface
from typing import TYPE_CHECKING, Any

import pytest

from jitsu_dns.rules.forward import Forwarder, ServersChanged
from jitsu_dns.wires import servers
from jitsu_dns.wires.interfaces import OwnAddress
from jitsu_dns.wires.servers import Servers, leads_back
from jitsu_protocol.model.errors import SetupFault
from jitsu_protocol.rates import Networks
from jitsu_runtime.settings.schema import DnsSettings

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

HOST = [OwnAddress(ip_interface(text)) for text in ("127.0.0.1/8", "192.0.2.1/24", "2001:db8::1/64", "198.51.100.1/32")]


def servers_of(
    given: DnsSettings,
    port: int = 53,
    resolv_conf: Path = servers.RESOLV_CONF,
    interfaces: Callable[[], list[OwnAddress]] = lambda: HOST,
) -> Servers:
    return Servers(given, port, interfaces, resolv_conf)


def settings(**given: object) -> DnsSettings:
    return DnsSettings.model_validate({"bind": "192.0.2.1", **given})


class DrivesForwarder:
    """Hands events to a forwarder."""

    def __init__(self, made: Servers) -> None:
        self.machine = Forwarder(made.found.servers, Networks(made.found.networks), random.Random(1))
        self.health = self.machine.health

    def handle(self, event: ServersChanged) -> None:
        assert self.machine.handle(event, 0.0) == []


def forwarder_of(made: Servers) -> DrivesForwarder:
    return DrivesForwarder(made)


def test_the_systems_servers_are_those_that_resolv_conf_names(tmp_path: Path) -> None:
    file = tmp_path / "resolv.conf"
    file.write_text(
        "# a comment\nsearch example.org\nnameserver 192.0.2.53\nnameserver  2001:db8::53 # nearer\n"
        "nameserver\nnameserver not-an-address\n;nameserver 192.0.2.54\nnameserver fe80::1%eth0\n"
    )
    made = servers_of(settings(), 53, file)
    assert made.found.servers == (("192.0.2.53", 53), ("2001:db8::53", 53), ("fe80::1%eth0", 53))
    assert made.found.warnings == ()
    assert [str(each) for each in made.found.networks] == [
        "127.0.0.0/8",
        "::1/128",
        "127.0.0.0/8",
        "192.0.2.0/24",
        "2001:db8::/64",
    ]


@pytest.mark.parametrize("content", [None, "", "search example.org\n", "nameserver 192.0.2.1\n"])
def test_a_file_that_names_none_at_start_is_waited_for_and_said(tmp_path: Path, content: str | None) -> None:
    file = tmp_path / "resolv.conf"
    if content is not None:
        file.write_text(content)
    made = servers_of(settings(), 53, file)
    forwarder = forwarder_of(made)
    assert made.found.servers == ()
    assert "names no other server" in made.found.warnings[-1]
    assert not made.has_changed()
    file.write_text("nameserver 192.0.2.53\n")
    assert made.has_changed()
    made.reload(forwarder)
    assert forwarder.health.servers == (("192.0.2.53", 53),)
    assert made.found.warnings == ()
    assert not made.has_changed()


async def test_changes_are_followed_while_it_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(servers, "LOOK_S", 0.0)
    file = tmp_path / "resolv.conf"
    file.write_text("nameserver 192.0.2.53\n")
    made = servers_of(settings(), 53, file)
    forwarder = forwarder_of(made)
    following = asyncio.create_task(made.follow(forwarder))
    new = tmp_path / "new"
    new.write_text("nameserver 192.0.2.54\n")
    os.replace(new, file)
    async with asyncio.timeout(10):
        for expected in ([("192.0.2.54", 53)], []):
            while list(forwarder.health.servers) != expected:
                await asyncio.sleep(0)
            file.unlink(missing_ok=True)
    following.cancel()


def test_a_network_that_comes_later_is_served_too(tmp_path: Path) -> None:
    interfaces = list(HOST)
    made = servers_of(settings(), 53, tmp_path / "none", lambda: interfaces)
    forwarder = forwarder_of(made)
    client = bytes([10, 9, 8, 7])
    assert client not in forwarder.machine.clients
    interfaces.append(OwnAddress(ip_interface("10.9.8.1/24")))
    made.reload(forwarder)
    assert client in forwarder.machine.clients


@pytest.mark.parametrize(
    ("server", "bind", "leads"),
    [
        (("192.0.2.1", 53), "192.0.2.1", True),
        (("192.0.2.1", 54), "192.0.2.1", False),
        (("192.0.2.2", 53), "192.0.2.1", False),
        (("127.0.0.1", 53), "192.0.2.1", False),  # another server of this host
        (("127.0.0.1", 53), "0.0.0.0", True),
        (("127.0.0.1", 53), "::", True),
        (("192.0.2.1", 53), "0.0.0.0", True),
        (("192.0.2.2", 53), "0.0.0.0", False),
        (("2001:db8::1", 53), "::", True),
        (("2001:db8::1", 53), "0.0.0.0", False),
        (("::", 53), "::", True),
        (("::", 53), "::1", True),
        (("0.0.0.0", 53), "127.0.0.1", True),
        (("0.0.0.0", 53), "192.0.2.1", False),
        (("::ffff:192.0.2.1", 53), "192.0.2.1", True),
    ],
)
def test_a_server_that_leads_back_to_this_one_is_known_as_such(server: tuple[str, int], bind: str, leads: bool) -> None:
    local = {"127.0.0.1", "192.0.2.1", "2001:db8::1"}
    assert leads_back(server, bind, 53, local.__contains__) is leads


@pytest.mark.parametrize("address", ["192.0.2.1", "::ffff:192.0.2.1", "2001:db8::1"])
def test_an_address_of_this_host_is_left_out_with_a_warning_and_the_others_are_asked(address: str) -> None:
    given = settings(bind="::", forward=["192.0.2.53", address])
    assert servers_of(given, 5300).found.warnings == (), "another server of this host, on another port"
    made = servers_of(given, 53)
    assert made.found.servers == (("192.0.2.53", 53),)
    shown = str(ip_address(address))
    assert made.found.warnings == (f"dns.forward: {shown} is this server itself, so queries are not forwarded to it",)


def test_an_address_of_somebody_else_is_asked_even_where_any_address_can_be_bound(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As with net.ipv4.ip_nonlocal_bind=1, which hosts with floating addresses have."""

    class Bindable(socket.socket):
        def bind(self, _: object) -> None:
            """Succeed."""

    monkeypatch.setattr(socket, "socket", Bindable)
    made = servers_of(settings(bind="0.0.0.0", forward=["192.0.2.77"]), 53)
    assert made.found.servers == (("192.0.2.77", 53),)


def test_where_the_interfaces_are_not_known_an_address_that_can_be_bound_is_local(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    given = settings(bind="0.0.0.0", forward=["127.0.0.1", "192.0.2.77"], forward_port=53, forward_for=["::1"])
    with pytest.raises(SetupFault, match=r"127\.0\.0\.1 port 53 is this server itself"):
        servers_of(given, 53, interfaces=fails)

    class Here(socket.socket):
        """One of a host that has an address of the documentation."""

        def bind(self, address: Any) -> None:
            if address != ("192.0.2.78", 0):
                raise OSError(errno.EADDRNOTAVAIL, "Cannot assign requested address")

    monkeypatch.setattr(socket, "socket", Here)
    made = servers_of(
        settings(bind="0.0.0.0", forward=["192.0.2.77", "192.0.2.78"], forward_for=["::1"]), 53, interfaces=fails
    )
    assert made.found.servers == (("192.0.2.77", 53),)


def test_an_upstream_address_that_moves_onto_this_host_and_away_again_is_left_out_in_between() -> None:
    interfaces = list(HOST)
    given = settings(bind="0.0.0.0", forward=["192.0.2.53", "192.0.2.77"])
    made = servers_of(given, interfaces=lambda: interfaces)
    forwarder = forwarder_of(made)
    interfaces.append(OwnAddress(ip_interface("192.0.2.53/24")))
    made.reload(forwarder)
    assert list(forwarder.health.servers) == [("192.0.2.77", 53)]
    assert made.found.warnings == ("dns.forward: 192.0.2.53 is this server itself, so queries are not forwarded to it",)
    interfaces.append(OwnAddress(ip_interface("192.0.2.77/24"), is_lasting=False))
    made.reload(forwarder)
    assert list(forwarder.health.servers) == []
    assert made.found.warnings[-1].startswith("dns.forward names no other server: names outside our zones")
    del interfaces[-2:]
    made.reload(forwarder)
    assert list(forwarder.health.servers) == [("192.0.2.53", 53), ("192.0.2.77", 53)]
    assert not any(made.found.warnings)


def fails() -> list[OwnAddress]:
    raise OSError(1, "Operation not permitted")


def test_of_the_systems_servers_this_one_is_left_out_with_a_warning(tmp_path: Path) -> None:
    file = tmp_path / "resolv.conf"
    file.write_text("nameserver 127.0.0.1\nnameserver 192.0.2.53\n")
    made = servers_of(settings(bind="0.0.0.0"), 53, file)
    assert made.found.servers == (("192.0.2.53", 53),)
    assert made.found.warnings == (
        f"{file}: nameserver 127.0.0.1 is this server itself, so queries are not forwarded to it",
    )


@pytest.mark.parametrize("address", ["127.0.0.1", "127.0.0.53", "0.0.0.0"])
def test_a_server_that_is_configured_to_ask_itself_does_not_start(address: str) -> None:
    given = settings(bind="0.0.0.0", forward=["192.0.2.53", address], forward_port=5300)
    with pytest.raises(SetupFault, match=f"dns.forward: {address} port 5300 is this server itself"):
        servers_of(given, 5300)


def test_without_the_interfaces_only_loopback_is_served_and_that_is_said() -> None:
    made = servers_of(settings(forward=["192.0.2.53"]), 53, interfaces=fails)
    assert made.found.networks == servers.LOOPBACK
    assert "set dns.forward_for" in made.found.warnings[0]


AS_THE_UNIT_HAS_IT = """
mount -t proc -o subset=pid,hidepid=invisible proc /proc
test ! -e /proc/net/route || test -L /proc/net
exec "$0" -c '
from jitsu_dns.wires.interfaces import own_interfaces
from jitsu_dns.wires.servers import Servers
from jitsu_runtime.settings.schema import DnsSettings
print(*Servers(DnsSettings.model_validate({"forward": ["192.0.2.53"]}), 53, own_interfaces).found.networks)'
"""


@pytest.mark.net
def test_the_networks_of_this_host_are_known_where_proc_shows_processes_only() -> None:
    """ProcSubset=pid of deploy/systemd/jitsu-dns@.service."""
    made = ["ip link set lo up", "ip link add d0 type bridge", "ip addr add 10.55.66.1/24 dev d0", "ip link set d0 up"]
    script = "\n".join(["set -e", *made, AS_THE_UNIT_HAS_IT])
    done = subprocess.run(
        ["unshare", "--net", "--mount", "--pid", "--fork", "sh", "-c", script, sys.executable],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "10.55.66.0/24" in done.stdout.split()
