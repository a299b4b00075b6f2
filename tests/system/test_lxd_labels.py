"""Instances of a real LXD that describe themselves: nothing but their own configuration makes them VMs."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import dns.message
import dns.query
import dns.rcode
import pytest

from tests.support.lan import inside
from tests.support.lxd import remove, running_lxd
from tests.support.suite import RunningSuite

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.support.lxd import LxdServer

pytestmark = [pytest.mark.wires, pytest.mark.lxd, pytest.mark.timeout(300)]

LIMIT_S = 30.0
TOML = """
[dns]
zones = ["lab.test"]
[hypervisor]
kind = "lxd"
connect = "{socket}"
label_zones = ["lab.test"]
"""


@pytest.fixture(scope="module")
def lxd() -> Iterator[LxdServer]:
    with running_lxd() as server, pytest.MonkeyPatch.context() as patch:
        patch.setenv("LXD_DIR", str(server.home))
        yield server


def until(what: Callable[[], Any], about: str) -> Any:
    ends = time.monotonic() + LIMIT_S
    while not (found := what()):
        assert time.monotonic() < ends, about
        time.sleep(0.2)
    return found


def asked(suite: RunningSuite, lxd: LxdServer, name: str) -> tuple[str, list[str]]:
    """Return the answer to a query, and its addresses."""
    query = dns.message.make_query(name, "A")
    reply = inside(lxd.namespace, lambda: dns.query.udp(query, "127.0.0.1", port=suite.port, timeout=5))
    return dns.rcode.to_text(reply.rcode()), [each.to_text() for rrset in reply.answer for each in rrset]


def test_an_instance_with_a_label_is_woken_by_its_name_and_its_vm_goes_with_it(lxd: LxdServer, tmp_path: Path) -> None:
    lxd.make("web", "-c", "user.jitsu.dns=web.lab.test", "-c", "user.jitsu.ttl=5", "-c", "user.jitsu.wait_for_port=80")
    lxd.lxc("config", "device", "override", "web", "eth0", "ipv4.address=10.79.0.40")
    lxd.make("thief", "-c", "user.jitsu.dns=www.bank.test")
    lxd.lxc("config", "device", "override", "thief", "eth0", "ipv4.address=10.79.0.41")
    lxd.make("plain")
    lxd.lxc("config", "device", "override", "plain", "eth0", "ipv4.address=10.79.0.42")
    words = ["ip", "netns", "exec", lxd.namespace]
    with RunningSuite(tmp_path, toml=TOML.format(socket=lxd.socket), inside=words) as suite:
        until(lambda: "web" in suite.status(), "the instance is a VM")
        assert suite.state("web") == "off"
        assert asked(suite, lxd, "web.lab.test") == ("NOERROR", ["10.79.0.40"])
        assert lxd.pid("web")
        assert asked(suite, lxd, "www.bank.test")[0] == "REFUSED"
        status = suite.jitsu("status", check=False)
        assert "labels describe 1 VM" in status
        assert "labels of thief are refused: dns: www.bank.test is not below lab.test" in status
        assert "config/dns/0" in suite.jitsu("tree", "--branch", "labels")
        listed = suite.jitsu("discover")
        assert "plain" in listed
        assert "10.79.0.42" in listed
        suite.jitsu("add", "plain", "--ttl", "5", "--yes")
        assert asked(suite, lxd, "plain.lab.test")[1] == ["10.79.0.42"]
        until(lambda: suite.state("web") == "off" and not lxd.pid("web"), "it is stopped when it is idle")
        suite.kill("vmd")
        remove("web")
        until(lambda: "web" not in suite.status(), "its VM is gone after the start of vmd")
        assert asked(suite, lxd, "web.lab.test")[0] == "NXDOMAIN"
        lxd.make("late", "-c", "user.jitsu.dns=late.lab.test")
        lxd.lxc("config", "device", "override", "late", "eth0", "ipv4.address=10.79.0.43")
        until(lambda: "late" in suite.status(), "an instance that is made later is a VM too")
