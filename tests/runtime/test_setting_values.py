"""Values of settings that are more than text."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv4Interface, IPv6Address, IPv6Network
from typing import TYPE_CHECKING

import pytest

from jitsu_protocol.model.hypervisors import Credentials, HypervisorConnection, HypervisorKind
from jitsu_runtime.settings.load import SettingsFault, load, load_without_vms
from jitsu_runtime.settings.values import (
    BusEndpoint,
    Forwarding,
    GlueAddress,
    ListenAddress,
    ServerAddress,
    UserIds,
    VmHost,
    listen_address,
)

if TYPE_CHECKING:
    from pathlib import Path

TEXTS = {
    "bus.hosts": "berlin,oslo tcp://192.0.2.1:1 tcp://192.0.2.1:2",
    "bus.allow_plain_tcp": "true",
    "hypervisor.connections": "big libvirt qemu+ssh://example.org/system,small mock,"
    "xen xapi https://example.org user=admin@corp password_file=/etc/a%20b%2Cc%25",
    "hypervisor.gateways": "10.0.0.1/24",
    "bus.store_rpc": "tcp://[::1]:7001",
    "bus.store_feed": "ipc:///run/a/store.feed",
    "hypervisor.uids": "70000-70003",
    "dns.forward": "192.0.2.53,2001:db8::53",
    "dns.cookie_secret": "00112233445566778899AABBCCDDEEFF",
    "dns.glue": "ns.example.org=192.0.2.9",
    "dns.secondaries": "192.0.2.2,2001:db8::2@5353",
    "dns.summon_for": "2001:db8::1/32",
    "dns.metrics": "[::1]:9100",
}


def test_values_are_parsed_where_settings_are_read() -> None:
    settings = load(None, {}, TEXTS)
    assert settings.bus.hosts == [
        VmHost("berlin"),
        VmHost("oslo", BusEndpoint(host="192.0.2.1", port=1), BusEndpoint(host="192.0.2.1", port=2)),
    ]
    assert settings.hypervisor.all_connections == (
        HypervisorConnection("", HypervisorKind.MOCK),
        HypervisorConnection("big", HypervisorKind.LIBVIRT, "qemu+ssh://example.org/system"),
        HypervisorConnection("small", HypervisorKind.MOCK),
        HypervisorConnection(
            "xen",
            HypervisorKind.XAPI,
            "https://example.org",
            Credentials(user="admin@corp", password_file="/etc/a b,c%"),
        ),
    )
    assert settings.bus.store_rpc == BusEndpoint(host="::1", port=7001)
    assert settings.bus.endpoint("store", "feed") == BusEndpoint("/run/a/store.feed")
    assert settings.hypervisor.uids == UserIds(70000, 70003)
    assert settings.dns.forward == Forwarding((IPv4Address("192.0.2.53"), IPv6Address("2001:db8::53")))
    assert settings.dns.cookie_secret == bytes.fromhex("00112233445566778899aabbccddeeff")
    assert settings.hypervisor.gateways == [IPv4Interface("10.0.0.1/24")]
    assert settings.dns.glue == [GlueAddress("ns.example.org", IPv4Address("192.0.2.9"))]
    assert settings.dns.secondaries == [ServerAddress("192.0.2.2", 53), ServerAddress("2001:db8::2", 5353)]
    assert settings.dns.summon_for == [IPv6Network("2001:db8::/32")]
    assert settings.metrics("dns") == ListenAddress("::1", 9100)


def test_the_text_of_a_value_is_read_back_as_the_same_value() -> None:
    settings = load(None, {}, TEXTS)
    texts = {
        key: "\n".join(map(str, value)) if isinstance(value, list) else str(value)
        for key, value in settings.as_values().items()
    }
    assert load(None, {}, texts) == settings


@pytest.mark.parametrize(
    ("text", "forward"),
    [
        ("system", Forwarding(follows_system=True)),
        ("off", Forwarding()),
        ("", Forwarding()),
        ("0.0.0.0", Forwarding()),
        ("192.0.2.1", Forwarding((IPv4Address("192.0.2.1"),))),
    ],
)
def test_whom_queries_are_forwarded_to_is_one_value(text: str, forward: Forwarding) -> None:
    read = load(None, {}, {"dns.forward": text}).dns.forward
    assert read == forward
    assert load(None, {}, {"dns.forward": str(forward)}).dns.forward == forward
    assert bool(forward) is (text in ("system", "192.0.2.1"))


def test_a_section_of_a_hypervisor_is_a_connection(tmp_path: Path) -> None:
    file = tmp_path / "jitsu.toml"
    file.write_text('[hypervisor.big]\nkind = "xapi"\nconnect = "https://example.org"\n')
    connections = load(file, {}, {}).hypervisor.connections
    assert connections == [HypervisorConnection("big", HypervisorKind.XAPI, "https://example.org")]


def test_each_connection_has_its_own_credentials(tmp_path: Path) -> None:
    file = tmp_path / "jitsu.toml"
    file.write_text(
        '[hypervisor]\nkind = "xapi"\nconnect = "https://a"\nuser = "one"\npassword_file = "/one"\n'
        '[hypervisor.big]\nkind = "xapi"\nuser = "two"\nca_file = "/a b,=%.pem"\n'
        '[hypervisor.small]\nkind = "xapi"\n'
    )
    settings = load(file, {}, {})
    first, big, small = settings.hypervisor.all_connections
    assert first.credentials == Credentials(user="one", password_file="/one")
    assert (big.uri, big.credentials) == ("", Credentials(user="two", ca_file="/a b,=%.pem"))
    assert small.credentials == Credentials()
    assert (first.setting("user"), big.setting("user")) == ("hypervisor.user", "hypervisor.big.user")
    inherited = load_without_vms(None, {}, {}, settings.as_values())
    assert inherited.hypervisor.all_connections == settings.hypervisor.all_connections


def test_a_kind_is_given_only_credentials_that_it_uses() -> None:
    flags = {"hypervisor.kind": "mock", "hypervisor.password_file": "/one"}
    (first,) = load(None, {}, flags).hypervisor.all_connections
    assert first.credentials == Credentials(), "`jitsu up -x mock` runs with a file that is for another kind"


def test_a_service_that_does_not_listen_has_a_false_address_without_text() -> None:
    nowhere = listen_address("")
    assert not nowhere
    assert str(nowhere) == ""


@pytest.mark.parametrize(
    ("text", "second"), [("127.0.0.1:9100", "127.0.0.1:9101"), ("127.0.0.1:0", "127.0.0.1:0"), ("", "")]
)
def test_each_process_of_a_service_has_a_port_of_its_own_for_metrics(text: str, second: str) -> None:
    assert str(listen_address(text).numbered(1)) == second


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ('[bus]\nhosts = ["a", "a"]', "the host a is listed twice"),
        ('[bus]\nhosts = ["a tcp://192.0.2.1:1"]', "is neither NAME nor NAME RPC-ENDPOINT FEED-ENDPOINT"),
        ('[hypervisor]\nconnections = ["a hyperv"]', "is neither NAME KIND nor NAME KIND URI, with one of mock"),
        ('[hypervisor]\nconnections = ["a mock user=b"]', "user has no effect with the kind mock; remove it"),
        ('[hypervisor]\nconnections = ["a xapi b user=%00"]', "user: it has characters that cannot be printed"),
        ('[hypervisor.a]\nuser = "b"', "hypervisor.a.user: it has no effect with the kind libvirt; remove it"),
        ('[hypervisor.a]\nkind = "xapi"\nuser = 7', "hypervisor.a.user: must be text; are quotes missing?"),
        ('[dns]\nglue = ["192.0.2.1"]', "is not NAME=ADDRESS"),
        ('[dns]\nforward = ["system", "192.0.2.1"]', "'system' does not appear to be an IPv4 or IPv6 address"),
        ("[dns]\nforward = [7]", "7 is not text; are quotes missing?"),
        ("[dns]\nforward = 7", "7 is not text; are quotes missing?"),
        ('[dns]\ncookie_secret = "12"', "must be 32 hexadecimal digits; `openssl rand -hex 16` prints some"),
        *[
            (f'[hypervisor]\nuids = "{text}"', "is not a range of user ids; expected FIRST-LAST, both from 65536")
            for text in ("", "0-10", "1000-2000", "70001-70000", "70000-4294967295", "70000")
        ],
        ('[bus]\nvmd_rpc = "udp://a:1"', "'udp://a:1' is neither ipc:// nor tcp://"),
        ('[bus]\nvmd_rpc = "tcp://a"', "'tcp://a' is not tcp://HOST:PORT, with a PORT from 1 to 65535"),
        ('[bus]\nhosts = ["a ipc:// ipc://b"]', "'ipc://' is neither ipc:// nor tcp://"),
        (f'[bus]\nvmd_rpc = "ipc:///{"x" * 101}"', "is too long for a Unix socket (100 bytes at most)"),
        ("[dns]\nglue = [7]", "7 is not text; are quotes missing?"),
        ('[dns]\nsecondaries = ["192.0.2.1@0"]', "is neither ADDRESS nor ADDRESS@PORT"),
        ('[dns]\nexempt = ["here"]', "is not a network; expected something like 192.0.2.0/24"),
        ('[dns]\nmetrics = "9100"', "'9100' is not HOST:PORT"),
    ],
)
def test_a_value_that_cannot_be_read_is_a_fault_of_its_line(tmp_path: Path, line: str, reason: str) -> None:
    file = tmp_path / "jitsu.toml"
    file.write_text(line + "\n")
    with pytest.raises(SettingsFault) as caught:
        load(file, {}, {})
    (fault,) = caught.value.faults
    assert fault.startswith((f"{file}:2: ", f"{file}:3: "))
    assert reason in fault
