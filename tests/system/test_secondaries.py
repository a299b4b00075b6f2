"""Zones on their way to secondaries: to Knot, which is notified of each change, and to dig."""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING

import dns.message
import dns.query
import dns.rcode
import dns.zone
import pytest

from tests.support.debian import program
from tests.support.knot import asked, knot
from tests.support.suite import RunningSuite, free_port, vm_toml, wait_for

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.suite

ZONE = "jitsu.test"
MANY = 1500
"""VMs: more than one message holds."""


def _toml(secondaries: str) -> str:
    toml = f"[dns]\nsecondaries = [{secondaries}]\nrecords = ['txt.{ZONE}. 300 IN TXT \"one\"']\n"
    return toml + vm_toml("www", "127.5.8.1", ttl=60, boot_time=0, alias=f"w.{ZONE}")


def test_knot_as_a_secondary_hears_of_a_change_and_answers_as_we_do(tmp_path: Path) -> None:
    port = free_port()
    with RunningSuite(tmp_path, toml=_toml(f'"127.0.0.1@{port}"')) as suite:
        more = (
            f"remote:\n  - id: jitsu\n    address: 127.0.0.1@{suite.port}\n"
            "acl:\n  - id: told\n    address: 127.0.0.1\n    action: notify\n"
        )
        with knot(tmp_path / "knot", ZONE, "master: jitsu\n    acl: told", more, port):

            def has(name: str, text: str) -> bool:
                reply = asked(dns.message.make_query(f"{name}.{ZONE}", "A"), port, tcp=False)
                return reply is not None and any(text in rrset.to_text() for rrset in reply.answer)

            wait_for(lambda: has("www", "127.5.8.1"), 20, "Knot has the zone")
            assert has("w", "CNAME www")
            assert suite.state("www") == "off", "a transfer starts nothing"
            uuid = suite.status()["www"]["uuid"]
            suite.jitsu("set", f"jitsu/vm/{uuid}/ip", "127.5.8.2")
            wait_for(lambda: has("www", "127.5.8.2"), 5, "Knot heard of the change")
        soa = dns.message.make_query(ZONE, "SOA")
        assert asked(soa, suite.port, tcp=False) is not None


def test_dig_gets_a_zone_of_many_messages_and_nobody_else_gets_one(tmp_path: Path) -> None:
    toml = _toml('"127.0.0.1"')
    toml += "".join(vm_toml(f"n{n}", f"127.6.{n // 250}.{n % 250 + 1}", ttl=60) for n in range(MANY))
    with RunningSuite(tmp_path, toml=toml) as suite:
        argv = [program("dig", "bind9-dnsutils"), "@127.0.0.1", "-p", str(suite.port), ZONE]
        # A replica that is about to make its last VMs serves already, and gives nobody a part of a zone: SERVFAIL.
        whole = [*argv, "AXFR", "+short"]
        wait_for(lambda: b"127.6." in subprocess.run(whole, capture_output=True, check=False).stdout, 10, "all names")
        for question in (["AXFR"], ["IXFR=1"]):
            done = subprocess.run([*argv, *question], capture_output=True, text=True, timeout=60, check=True)
            lines = [line for line in done.stdout.splitlines() if line and not line.startswith(";")]
            assert sum("\tA\t127.6." in line for line in lines) == MANY
            assert sum("\tSOA\t" in line for line in lines) == 2
            assert "WARNING" not in done.stdout + done.stderr
        zone = dns.zone.from_xfr(dns.query.xfr("127.0.0.1", ZONE, port=suite.port, relativize=False), relativize=False)
        assert len(zone.nodes) == MANY + 5  # with the apex, ns, www, w and txt
        refused = dns.query.tcp(
            dns.message.make_query(ZONE, "AXFR"), "127.0.0.1", port=suite.port, source="127.0.0.9", timeout=5
        )
        assert refused.rcode() == dns.rcode.REFUSED
