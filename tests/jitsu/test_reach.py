"""Mock guests that cannot be reached at their addresses: `jitsu up` says so and shows no curl that fails."""

from __future__ import annotations

from ipaddress import ip_address
from pathlib import Path

import pytest

from jitsu import demo, reach
from jitsu_runtime.settings.load import Settings, VmText, load

HERE = ("127.0.2.1", "127.0.2.2", "::1")
BRIDGE_NOTE = "      Give the bridge one with hypervisor.bridge_addresses, or use a client on the bridge."


def settings_of(*addresses: str, **flags: str) -> Settings:
    texts = [
        VmText({"name": [f"n{number}"], "dns": [f"n{number}.jitsu.test"], "ip": address.split()}, "here")
        for number, address in enumerate(addresses)
    ]
    return load(None, {}, {key.replace("__", "."): value for key, value in flags.items()}, texts)


@pytest.fixture(autouse=True)
def addresses_of_this_host(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reach, "is_of_this_host", lambda address: str(address) in HERE)
    monkeypatch.setattr(reach, "is_routed_to", lambda address, bridge: (str(address), bridge) == ("10.0.0.7", "br0"))


def test_a_lan_address_on_the_mock_is_named_and_no_curl_is_shown() -> None:
    steps = demo.next_steps(settings_of("192.168.1.10"), "jitsu")
    assert steps[0] == (
        "note: n0 cannot be reached from here: 192.168.1.10 is not an address of this host, "
        "where guests of the kind loopback are"
    )
    assert "127.0.2.1" in steps[1]
    assert [step for step in steps if step.endswith(" n0.jitsu.test +short")]
    assert not [step for step in steps if "curl" in step]


def test_the_curl_is_of_a_vm_that_can_be_reached() -> None:
    steps = demo.next_steps(settings_of("10.0.0.7", "127.0.2.1", "127.0.2.2 10.0.0.8"), "jitsu")
    assert [step.strip() for step in steps if "curl" in step] == ["curl http://127.0.2.1:8080/"]
    assert [step.split(":")[1].split()[0] for step in steps if step.startswith("note")] == ["n0", "n2"]


def test_of_many_such_vms_only_some_are_named() -> None:
    settings = settings_of(*(f"10.0.0.{n}" for n in range(20, 40)))
    lines = reach.unreachable_lines(settings.vms, settings)
    assert len(lines) == reach.NAMES_SHOWN + 2
    assert lines[-2] == "note: nor can 15 more"


@pytest.mark.parametrize(
    ("address", "flags", "reason"),
    [
        ("127.0.2.1", {}, ""),
        ("127.0.2.1 ::1", {}, ""),
        ("10.0.0.7", {"hypervisor__kind": "libvirt"}, ""),
        ("10.0.0.7", {"hypervisor__connect": "/run/others"}, ""),
        ("10.0.0.7", {"hypervisor__kind": "bridge", "hypervisor__bridge": "br0"}, ""),
        (
            "10.0.0.9",
            {"hypervisor__kind": "bridge", "hypervisor__bridge": "br0"},
            "this host has no address in the network of 10.0.0.9 on the bridge br0",
        ),
    ],
)
def test_which_guests_cannot_be_reached(address: str, flags: dict[str, str], reason: str) -> None:
    settings = settings_of(address, **flags)
    assert reach.unreachable(settings.vms[0], settings) == reason
    if reason:
        assert reach.unreachable_lines(settings.vms, settings)[-1] == BRIDGE_NOTE


IPV4 = """Iface Destination Gateway Flags RefCnt Use Metric Mask MTU Window IRTT
eth0 00000000 010200C0 0003 0 0 0 00000000 0 0 0
br0 000200C0 00000000 0001 0 0 0 00FFFFFF 0 0 0
br0 00000000 010200C0 0003 0 0 0 00000000 0 0 0
"""
IPV6 = "fd000000000000000000000000000000 40 0 0 0 0 0 0 0 br0\n00000000000000000000000000000000 00 0 0 0 0 0 0 0 br0\n"


@pytest.mark.parametrize(
    ("address", "interface", "is_there"),
    [
        ("192.0.2.77", "br0", True),
        ("192.0.3.77", "br0", False),
        ("192.0.2.77", "eth0", False),
        ("fd00::9", "br0", True),
        ("fd01::9", "br0", False),
    ],
)
def test_what_the_routing_tables_say(
    monkeypatch: pytest.MonkeyPatch, address: str, interface: str, is_there: bool
) -> None:
    monkeypatch.undo()
    monkeypatch.setattr(Path, "read_text", lambda self: IPV4 if self.name == "route" else IPV6)
    assert reach.is_routed_to(ip_address(address), interface) is is_there


def test_what_this_host_says_of_its_addresses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    assert reach.is_of_this_host(ip_address("127.9.8.7"))
    assert not reach.is_of_this_host(ip_address("192.0.2.250"))
