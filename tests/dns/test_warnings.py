"""Warnings that ask an operator to fix something, and the addresses that name servers get by themselves."""

from __future__ import annotations

import socket
import subprocess
import sys
from ipaddress import ip_address, ip_interface

import pytest

from jitsu_dns.rules.records import Authority
from jitsu_dns.rules.usage import NameUsage, Reporting
from jitsu_dns.rules.warnings import MAX_EACH, upgrade_hint, warnings
from jitsu_dns.wires import interfaces
from jitsu_dns.wires.interfaces import own_interfaces, reachable_addresses, served_addresses
from tests.dns.test_table import table
from tests.support.vms import make_vm

SERVED = Authority(own_addresses=("192.0.2.53",))


def test_what_is_in_order_is_warned_of_in_no_way() -> None:
    assert warnings(table(make_vm(), authority=SERVED), {}, has_secondaries=True) == []


def test_a_name_server_without_an_address_is_told_with_what_to_set() -> None:
    (found,) = warnings(table(make_vm()), {}, has_secondaries=False)
    assert found == 'ns.jitsu.test has no address: set dns.glue = ["ns.jitsu.test=ADDRESS"] or dns.nameservers'


def test_vms_that_are_left_out_are_told_and_many_are_summed_up() -> None:
    left_out = {str(number): f"vm{number}: a reason" for number in range(MAX_EACH + 3)}
    found = warnings(table(authority=SERVED), left_out, has_secondaries=False)
    assert found[0] == "left out: vm0: a reason"
    assert found[-1] == "3 more VMs are left out"
    assert len(found) == MAX_EACH + 1


def test_a_record_that_a_vm_hides_and_secondaries_without_a_zone_are_told() -> None:
    made = table(make_vm(), static=("www.jitsu.test. 60 IN CNAME x.test.",), authority=SERVED, zones=())
    assert warnings(made, {}, has_secondaries=True) == [
        "www.jitsu.test: a VM has this name, so its CNAME is not served",
        "dns.secondaries have nothing to transfer: set dns.zones",
    ]


def test_who_set_no_zones_is_given_the_line_that_keeps_the_domains_of_all_names() -> None:
    vms = (make_vm("a", dns="x.duckdns.org"), make_vm("b", "127.0.1.2", dns="example.org", alias="w.example.net"))
    assert upgrade_hint(table(*vms, zones=())) == 'zones = ["duckdns.org", "example.net", "example.org"]'
    assert upgrade_hint(table(*vms, zones=("jitsu.test",))) == ""
    assert upgrade_hint(table(zones=())) == ""


def test_a_report_tells_the_warnings_of_now() -> None:
    uses = NameUsage(Reporting("dns-0", "i", 30.0))
    assert uses.report((), 1.0, warnings=["this"]).warnings == ["this"]
    assert uses.report((), 2.0).warnings == [], "the batch is sent again, what it warns of is of now"


def test_the_hosts_own_addresses_are_those_that_a_socket_can_be_bound_to() -> None:
    assert ip_interface("127.0.0.1/8") in [each.interface for each in own_interfaces()]
    for text in reachable_addresses(own_interfaces()):
        address = ip_address(text)
        assert not address.is_loopback
        assert not address.is_link_local
        with socket.socket(socket.AF_INET if address.version == 4 else socket.AF_INET6, socket.SOCK_DGRAM) as bound:
            bound.bind((text, 0))


def test_a_server_on_one_address_is_reached_there_and_the_kernel_may_not_say_where_else() -> None:
    found = [interfaces.OwnAddress(ip_interface(text)) for text in ("127.0.0.1/8", "192.0.2.1/24", "2001:db8::1/64")]
    found.append(interfaces.OwnAddress(ip_interface("2001:db8::7/64"), is_lasting=False))
    assert served_addresses("192.0.2.9", lambda: found) == ("192.0.2.9",)
    assert served_addresses("0.0.0.0", lambda: found) == ("192.0.2.1",)
    assert served_addresses("::", lambda: found) == ("192.0.2.1", "2001:db8::1")

    def fails() -> list[interfaces.OwnAddress]:
        raise OSError(1, "Operation not permitted")

    assert served_addresses("0.0.0.0", fails) is None


IN_A_NETWORK_OF_ITS_OWN = """
import asyncio, subprocess, sys
from jitsu_dns.wires import interfaces

def ip(*words):
    subprocess.run(["ip", *words], check=True)

async def main():
    interfaces.SETTLE_S = 0.02
    changes = interfaces.address_changes()
    steps = [
        ("addr", "add", "192.0.2.7/24", "dev", "d0"),
        ("addr", "del", "192.0.2.7/24", "dev", "d0"),
        ("addr", "add", "2001:db8::7/64", "dev", "d0", "nodad"),
    ]
    seen = asyncio.create_task(anext(changes))
    await asyncio.sleep(0.1)
    ip("addr", "add", "fe80::77/64", "dev", "d0", "nodad")
    await asyncio.sleep(0.2)
    print("passed over" if not seen.done() else "seen")
    for step in steps:
        ip(*step)
        await asyncio.wait_for(seen, 5)
        print(*interfaces.reachable_addresses(interfaces.own_interfaces()))
        seen = asyncio.create_task(anext(changes))
        await asyncio.sleep(0)
    seen.cancel()

asyncio.run(main())
"""


@pytest.mark.net
def test_changes_of_the_hosts_addresses_are_noticed_when_they_happen_but_not_those_of_taps() -> None:
    script = 'ip link set lo up; ip link add d0 type bridge; ip link set d0 up; exec "$0" -c "$1"'
    done = subprocess.run(
        ["unshare", "--net", "sh", "-c", script, sys.executable, IN_A_NETWORK_OF_ITS_OWN],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout.splitlines() == ["passed over", "192.0.2.7", "", "2001:db8::7"], done.stderr
