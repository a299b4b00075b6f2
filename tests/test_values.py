"""A fuzz of values: whatever a key of a VM or a setting accepts can be built in all five services, and a refusal says
why. The values are texts as people mistype them, as attackers would choose them, and at the edge of what is allowed."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from contextlib import suppress
from typing import TYPE_CHECKING

import dns.message
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jitsu_dns.rules.usage import NameUsage, Reporting
from jitsu_dns.wires.configured import front_of
from jitsu_dns.wires.interfaces import own_interfaces
from jitsu_dns.wires.servers import Servers
from jitsu_protocol.messages import VmStatus
from jitsu_protocol.model.errors import Refused, SetupFault
from jitsu_protocol.model.inventory import Inventory, VmChanged
from jitsu_protocol.model.states import VmState
from jitsu_protocol.model.vm import VM, InvalidVm, from_config, from_tree, to_tree
from jitsu_protocol.model.vm_keys import KEYS
from jitsu_runtime.settings.load import SettingsFault, load
from jitsu_runtime.settings.schema import SECTIONS
from jitsu_store.rules.validate import State
from jitsu_synjitsu.rules import activity as traffic
from jitsu_synjitsu.rules.kept import Kept
from jitsu_vmd.hypervisors.libvirt import rules as domain
from jitsu_vmd.hypervisors.libxl import rules as xl
from jitsu_vmd.hypervisors.shared.rules.spec import domain_spec
from jitsu_vmd.rules.admission import memory
from tests.support.clock import VirtualClock
from tests.support.dns_sockets import FakeSockets
from tests.support.examples import examples
from tests.support.front import asked, front, state
from tests.support.reaper import HearingPolicy
from tests.support.synjitsu import made_addresses, wake_limit
from tests.support.vms import make_vm

if TYPE_CHECKING:
    from collections.abc import Mapping

pytestmark = pytest.mark.wires

LONGEST = ".".join(["a" * 63] * 3 + ["b" * 61])  # 253 characters, 255 octets on the wire
DEEPEST = ".".join(["a", *["a" * 63] * 3, "b" * 59])
"""As long, but its parent leaves no room for `hostmaster.`."""
EDGES = (
    *("", " ", "0", "1", "-1", "+1", "01", "1.0", "1e3", "1_0", "inf", "nan", "1e308", "-0", " 5 ", "٣"),
    *("2147483647", "2147483648", "65535", "65536", "9" * 30, "4294967296", "true", "yes", "TRUE", "never"),
    *("1m", "1.5h", "250ms", "0s", "99999d", "512M", "4G", "1.5K", "512MB", "10s!", "a.test 1m"),
    *("127.0.1.1", "0.0.0.0", "0.1.2.3", "255.255.255.255", "224.0.0.1", "10.0.0.255", "1.2.3", "01.2.3.4"),
    *("::", "::1", "fe80::1", "fe80::1%eth0", "fe80::1%1", "::ffff:10.0.0.1", "ff02::1", "2001:DB8::0:1"),
    *("destroy", "one", "answer", "first-frame", "xenstore", "crash", "kvm", "libvirt", "off", "system"),
    *("a.test", "*.a.test", "*", "*.*.a", "A.TEST.", "..", ".", LONGEST, DEEPEST, f"*.{LONGEST}", "xn--a.b", "ä.b"),
    *(
        "Domain-0",
        "../../etc/passwd",
        "/etc/passwd",
        "a\0b",
        "a\nb",
        "\x1b[2J",
        "\u2028",
        "\udc80",
        '"',
        "a,b=c",
        "<a/>",
    ),
    *("br0", "br0.1", "eth0 br1", "x" * 16, "x" * 128, "x" * 129, "x" * 4097, "file@vda", "@", "{}", "/img,w@xvda"),
    *("02:00:5e:00:53:01", "00:00:00:00:00:00", "ff:ff:ff:ff:ff:ff", "02-00-5e-00-53-01", "data/status", "/a", "a//b"),
    *("192.0.2.0/24", "::/0", "192.0.2.1@53", "ns.a.test=192.0.2.1", "a b c", "host kind", "10.0.0.1:80", "[::1]:1"),
    "4d47be4e-9cd2-5d84-a20e-7b966138fbe2",
    "{4D47BE4E-9CD2-5D84-A20E-7B966138FBE2}",
)
texts = st.sampled_from(EDGES) | st.text(max_size=40) | st.integers().map(str) | st.floats().map(str)
lists = st.lists(texts, min_size=1, max_size=3)


def build_everywhere(vm: VM) -> None:
    """Do with a VM what the five services do with it; whatever they raise fails the test."""
    leaves = to_tree(vm)
    assert State({}).put(leaves)[1] == []
    again = Inventory()
    again.reset(leaves)
    assert list(again.vms.values()) == [vm], again.faults
    in_dns(vm)
    in_vmd(vm)
    in_synjitsu(vm)
    in_reaper(vm)


def in_dns(vm: VM) -> None:
    made = front(vm)
    for value in (VmState.OFF, VmState.READY):
        state(made, value, vm)
        for name in (*list(vm.names)[:2], *vm.aliases[:2], vm.addresses[0].reverse_pointer):
            for qtype in ("A", "AAAA", "SOA", "NS", "PTR"):
                data = asked(made, dns.message.make_query(name.replace("*", "any"), qtype, use_edns=0))
                if data is not None:
                    dns.message.from_wire(data)
    made.configure([VmChanged(vm, None)], 2, 1.0)


def in_vmd(vm: VM) -> None:
    for key in ("shutdown_limit", "start_time", "boot_time", "boot_jitter", "shutdown_time", "listen_after", "port"):
        float(vm.key(key))
    assert memory(vm) >= 1
    assert len(vm.mac.split(":")) == 6
    with suppress(Refused):
        ET.fromstring(domain.domain_xml(domain_spec(vm, "br0"), "kvm"))
    with suppress(Refused):
        assert "\0" not in xl.config(domain_spec(vm, "br0"), "pv")
    f"/local/domain/1/{vm.wait_for_key}".encode("ascii")


def in_synjitsu(vm: VM) -> None:
    mac, addresses = bytes.fromhex(vm.mac.replace(":", "")), made_addresses(Kept(10, 50), wake_limit())
    addresses.watch(vm.uuid, [str(address) for address in vm.addresses], mac, 0.0)
    assert len(addresses.addresses()) == len(vm.addresses)
    watched = traffic.Activity()
    watched.runs(vm, mac, "", 0.0, unknown=True)


def in_reaper(vm: VM) -> None:
    policy = HearingPolicy()
    policy.configure([VmChanged(None, vm)])
    policy.all_states([VmStatus(uuid=vm.uuid, name=vm.name, state=VmState.READY, bridge=vm.bridge)], 0.0)
    for now in (1.0, 2.0, 1e9):
        policy.tick(now)


def build_from(config: Mapping[str, list[str]]) -> None:
    """Build a VM from its configuration, or see that each fault names a key and a reason."""
    try:
        vm = from_config({"dns": ["www.jitsu.test"], "ip": ["127.0.1.1"], **config}, {})
    except InvalidVm as invalid:
        see_reasons(invalid)
    else:
        build_everywhere(vm)


def see_reasons(invalid: InvalidVm) -> None:
    assert all(len(fault.message) > 5 for fault in invalid.faults)
    assert len(str(invalid)) < 10_000


@pytest.mark.parametrize("key", KEYS)
def test_each_edge_of_each_key_is_refused_with_a_reason_or_works_in_all_services(key: str) -> None:
    for text in EDGES:
        build_from({key: [text]})


@settings(max_examples=examples(400), deadline=None)
@given(st.dictionaries(st.sampled_from(sorted(KEYS)), lists, max_size=4))
def test_g9_any_configuration_of_a_vm_is_refused_with_a_reason_or_works_in_all_services(
    config: dict[str, list[str]],
) -> None:
    build_from(config)


LEAVES = sorted({*to_tree(make_vm()), *(f"jitsu/vm/{make_vm().uuid}/config/{key}/0" for key in KEYS)})
BELOW = [path.split("/", 3)[3] for path in LEAVES] + ["dns/b.test/ttl", "idle_timeout", "evict", "host", "dns/*.c/ttl"]


@settings(max_examples=examples(400), deadline=None)
@given(st.dictionaries(st.sampled_from(BELOW), texts, max_size=4))
def test_g9_any_leaves_that_others_wrote_cost_no_other_vm(written: dict[str, str]) -> None:
    vm = make_vm()
    leaves = {path.split("/", 3)[3]: value for path, value in to_tree(vm).items()} | written
    try:
        read = from_tree(vm.uuid, leaves)
    except InvalidVm as invalid:
        see_reasons(invalid)
    else:
        for build in (in_dns, in_vmd, in_synjitsu, in_reaper):
            build(read)


SETTINGS = [f"{section}.{key}" for section, model in SECTIONS.items() for key in model.model_fields]


def run_with(key: str, text: str) -> None:
    """Make of a setting what the services make of it when they start, without their sockets."""
    try:
        used = load(None, {}, {key: text})
    except SettingsFault as refused:
        reasons: tuple[str, ...] = refused.faults
    else:
        reasons = ()
        assert len(list(used.bus.endpoints())) >= 6
        if key.startswith("dns."):
            with suppress(SetupFault):  # what only the service can find, it says when it starts
                servers = Servers(used.dns, used.dns.port, own_interfaces) if used.dns.forward else None
                usage = NameUsage(Reporting(used.dns.replica, "i", used.dns.lease))
                front_of(used.dns, usage, servers, FakeSockets(used.dns.bind), VirtualClock())
        if key.startswith("defaults."):
            with suppress(InvalidVm):  # the defaults do not fit each other: each VM that has them is refused
                build_everywhere(from_config({"dns": ["a.test"], "ip": ["127.0.1.1"]}, used.defaults.as_texts()))
    assert all(len(reason) > 10 for reason in reasons)


@pytest.mark.parametrize("key", SETTINGS)
def test_each_edge_of_each_setting_is_refused_with_a_reason_or_works(key: str) -> None:
    for text in EDGES:
        run_with(key, text)
