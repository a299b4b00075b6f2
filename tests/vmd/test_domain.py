"""The interfaces of a domain, as its XML has them, and which of them is a VM's."""

from __future__ import annotations

from jitsu_protocol.model.vm import from_config
from jitsu_vmd.hypervisors.libvirt.rules import domain_xml, nics
from jitsu_vmd.hypervisors.shared.rules.spec import domain_spec
from jitsu_vmd.rules.interfaces import reached_at

MAC, FIRST, SECOND = "02:00:5e:00:53:70", "02:00:5e:00:53:71", "02:00:5e:00:53:72"


def xml(*interfaces: str) -> str:
    return f"<domain><devices>{''.join(interfaces)}</devices></domain>"


def interface(mac: str = "", bridge: str = "", tap: str = "") -> str:
    address = f"<mac address='{mac.upper()}'/>" if mac else ""
    source = f"<source bridge='{bridge}'/>" if bridge else "<source network='default'/>"
    target = f"<target dev='{tap}'/>" if tap else ""
    return f"<interface>{address}{source}{target}</interface>"


def test_a_domain_without_interfaces_has_the_vms_own_address() -> None:
    assert nics(xml()) == ()
    assert reached_at(nics(xml()), MAC, "br0") == (MAC, "br0", "")
    assert reached_at((), MAC, "") == (MAC, "", "")


def test_an_interface_without_a_mac_address_has_the_vms_own() -> None:
    assert reached_at(nics(xml(interface(bridge="br0"))), MAC, "") == (MAC, "br0", "")


def test_of_two_interfaces_it_is_the_one_on_the_bridge_that_the_vm_names() -> None:
    both = nics(xml(interface(FIRST, "br0"), interface(SECOND, "br1")))
    assert reached_at(both, MAC, "br1") == (SECOND, "br1", "")
    assert reached_at(both, MAC, "br0") == (FIRST, "br0", "")
    assert reached_at(both, MAC, "") == (FIRST, "br0", ""), "else its first"


def test_a_bridge_that_the_domain_has_not_is_believed_to_the_vm() -> None:
    assert reached_at(nics(xml(interface(FIRST))), MAC, "br7") == (FIRST, "br7", "")


def test_the_tap_of_a_running_domain_is_named_by_its_live_xml() -> None:
    both = nics(xml(interface(FIRST, "br0", "vnet3"), interface(SECOND, "br1", "vnet4")))
    assert reached_at(both, MAC, "br1") == (SECOND, "br1", "vnet4")
    assert reached_at(both, MAC, "") == (FIRST, "br0", "vnet3")
    assert reached_at(both, MAC, "br7") == (FIRST, "br7", ""), "none of them is on the bridge that the VM names"
    assert reached_at(nics(xml(interface(FIRST, tap="tap0"))), MAC, "br7") == (FIRST, "br7", "tap0")


def test_each_interface_that_is_made_has_an_address_of_its_own() -> None:
    keys = {"name": ["www"], "dns": ["www.jitsu.test"], "ip": ["127.0.1.1"], "kernel": ["/k"], "mac": [MAC]}
    vm = from_config(keys | {"nic": ["br0", "br1"]}, {})
    assert nics(domain_xml(domain_spec(vm, ""), "qemu")) == ((MAC, "br0", ""), (FIRST, "br1", ""))
