"""The next steps that `jitsu up` prints for a newcomer."""

from __future__ import annotations

import struct
from ipaddress import IPv4Interface, IPv4Network

import pytest

from jitsu import demo
from jitsu_protocol.model.hypervisors import HypervisorConnection, HypervisorKind
from jitsu_runtime.settings.load import VmText, load


@pytest.mark.parametrize(
    ("addresses", "shown"),
    [
        (("::1", "127.0.2.9"), "curl http://127.0.2.9:8080/"),
        (("127.0.2.9", "::1", "127.0.2.1"), "curl http://127.0.2.1:8080/"),
        (("::1",), "curl http://[::1]:8080/"),
    ],
)
def test_the_next_steps_are_shown_whatever_families_the_addresses_are_of(
    addresses: tuple[str, ...], shown: str
) -> None:
    texts = [
        VmText(config={"dns": [f"n{number}.jitsu.test"], "ip": [address]}, where="here")
        for number, address in enumerate(addresses)
    ]
    steps = demo.next_steps(load(None, {}, {}, texts), "jitsu")
    assert [line.strip() for line in steps if "curl" in line] == [shown]


ROUTES = """Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT
eth0\t00000000\t0100000A\t0003\t0\t0\t0\t00000000\t0\t0\t0
"""


def route(network: str) -> str:
    """Return the line of /proc/net/route for a network on eth0."""
    shown = IPv4Network(network)
    target, mask = (struct.unpack("=I", each.packed)[0] for each in (shown.network_address, shown.netmask))
    return f"eth0\t{target:08X}\t00000000\t0001\t0\t0\t0\t{mask:08X}\t0\t0\t0\n"


@pytest.mark.parametrize(
    ("routed", "free"),
    [
        ([], "192.0.2.0/24"),
        (["10.0.0.0/8"], "192.0.2.0/24"),
        (["192.0.2.64/26"], "198.51.100.0/24"),
        (["192.0.0.0/8", "198.0.0.0/8"], "203.0.113.0/24"),
        (["128.0.0.0/1"], None),
    ],
)
def test_the_fast_guests_network_is_one_to_which_no_route_leads(routed: list[str], free: str | None) -> None:
    found = demo.free_network(ROUTES + "".join(route(network) for network in routed))
    assert found == (None if free is None else IPv4Network(free))


def test_the_demonstration_has_the_guest_in_c_only_where_it_can_run() -> None:
    place = demo.FastPlace("jitsu-demo2", IPv4Network("192.0.2.0/24"))
    with_it = load(None, {}, {}, demo.texts(place), demo.presets(place))
    assert {vm.name for vm in with_it.vms} == {"www", "api", "blog", "spark"}
    assert with_it.hypervisor.connections == [HypervisorConnection("spark", HypervisorKind.BRIDGE)]
    assert with_it.hypervisor.bridge == "jitsu-demo2"
    assert with_it.hypervisor.bridge_addresses == [IPv4Interface("192.0.2.1/24")]
    steps = demo.next_steps(with_it, "jitsu")
    assert "    time curl http://$(dig @127.0.0.1 -p 5300 spark.jitsu.test +short)/" in steps
    without = load(None, {}, {}, demo.texts(None), demo.presets(None))
    assert {vm.name for vm in without.vms} == {"www", "api", "blog"}
    assert not any("bridge" in line for line in demo.next_steps(without, "jitsu"))


def test_root_is_told_why_the_guest_in_c_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    monkeypatch.setenv("MOCK_GUEST", "")
    monkeypatch.setattr("os.geteuid", lambda: 0)
    assert demo.fast_place(said.append) is None
    (line,) = said
    assert "`make guests`" in line
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    assert demo.fast_place(said.append) is None
    assert said == [line]


def test_a_suite_whose_vms_come_from_labels_says_where_they_will_be_seen() -> None:
    lines = demo.next_steps(load(None, {}, {"hypervisor.label_zones": "lab.test,x.test"}), "jitsu")
    assert lines[1] == (
        "Machines with a label dns below lab.test or x.test are VMs: jitsu status shows them, and what is refused."
    )


@pytest.mark.parametrize(
    ("kind", "said"),
    [("mock", "Ctrl-C stops everything."), ("docker", "Ctrl-C stops Jitsu; a VM that runs then stays up.")],
)
def test_what_ctrl_c_stops_depends_on_the_hypervisor(kind: str, said: str) -> None:
    flags = {"hypervisor.kind": kind, "hypervisor.label_zones": "" if kind == "mock" else "lab.test"}
    assert demo.next_steps(load(None, {}, flags), "jitsu")[-1].endswith(said)
