"""The same zone in Jitsu and in Knot, the same 3,000 questions to both, the answers compared field by field."""

from __future__ import annotations

import asyncio
import random
import socket
import struct
import subprocess
from collections import Counter
from contextlib import contextmanager
from typing import TYPE_CHECKING

import dns.exception
import dns.flags
import dns.message
import dns.query
import dns.rcode
import dns.rdatatype
import pytest

from tests.support.debian import program
from tests.support.knot import asked, knot
from tests.support.suite import RunningSuite, vm_toml, wait_for

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.suite

ZONE = "jitsu.test"
QUESTIONS = 3000
STATIC = (
    f'txt.{ZONE}. 300 IN TXT "one" "two"',
    f"{ZONE}. 300 IN MX 10 mail.{ZONE}.",
    f"mail.{ZONE}. 60 IN A 192.0.2.25",
    f"_sip._tcp.{ZONE}. 30 IN SRV 1 2 5060 www.{ZONE}.",
    f'{ZONE}. 3600 IN CAA 0 issue "ca.example.org"',
    f'www.{ZONE}. 300 IN HTTPS 1 . alpn="h2"',
    f"out.{ZONE}. 30 IN CNAME www.example.org.",
    f"lost.{ZONE}. 30 IN CNAME nowhere.{ZONE}.",
    f"chain.{ZONE}. 30 IN CNAME w.{ZONE}.",
    f"big.{ZONE}. 60 IN TXT {' '.join(letter * 250 for letter in 'abcdef')}",
    f"six.{ZONE}. 60 IN AAAA 2001:db8::2",
    f"deep.er.{ZONE}. 60 IN A 192.0.2.26",
)
ZONE_FILE = f"""$ORIGIN {ZONE}.
@ 10 IN SOA ns hostmaster 1 3600 600 86400 10
@ 3600 IN NS ns
ns 3600 IN A 127.0.0.1
www 60 IN A 127.5.1.1
w 60 IN CNAME www
six 60 IN A 127.5.1.2
*.p 60 IN A 127.5.1.3
own.p 60 IN A 127.5.1.4
""" + "\n".join(STATIC)
NAMES = [ZONE, "www", "w", "six", "p", "x.p", "x.y.p", "*.p", "own.p", "x.own.p", "txt", "mail", "_sip._tcp", "_tcp"]
NAMES += ["out", "lost", "chain", "big", "er", "deep.er", "ns", "nobody", "a.b.nobody", "a.www", "x.w", "x.out"]
OUTSIDE = ["example.org", "test", "jitsu.tes", "xjitsu.test", "."]
TYPES = [
    "A",
    "AAAA",
    "TXT",
    "MX",
    "SRV",
    "CAA",
    "HTTPS",
    "NS",
    "SOA",
    "CNAME",
    "PTR",
    "ANY",
    "DS",
    "NSEC",
    "RRSIG",
    "TYPE65280",
]

INTENDED = {  # type -> why it is answered otherwise
    "ANY": "answered with HINFO (RFC 8482, 4.2), where Knot tells all",
}


@contextmanager
def _knot(directory: Path) -> Iterator[int]:
    """Have a Knot with the zone; yields its port."""
    directory.mkdir()
    (directory / "zone").write_text(ZONE_FILE + "\n")
    zone = f'file: "{directory}/zone"\n    zonefile-load: whole\n    journal-content: none\n    zonefile-sync: -1'
    with knot(directory, ZONE, zone) as port:
        wait_for(lambda: asked(dns.message.make_query(ZONE, "SOA"), port, tcp=False), 20, "knotd answers")
        yield port


def _question(chance: random.Random) -> tuple[dns.message.Message, str]:
    name = chance.choice(OUTSIDE) if chance.random() < 0.1 else chance.choice(NAMES)
    if name not in OUTSIDE and name != ZONE:
        name = f"{name}.{ZONE}"
    if chance.random() < 0.2:
        name = "".join(c.upper() if chance.random() < 0.5 else c for c in name)
    rdtype = chance.choice(TYPES)
    edns = chance.random() < 0.5
    query = dns.message.make_query(
        name, rdtype, use_edns=0 if edns else False, payload=chance.choice((512, 1232, 4096))
    )
    if chance.random() < 0.5:
        query.flags = 0
    return query, rdtype


def _shown(reply: dns.message.Message | None) -> dict[str, object]:
    """Return what is compared: not serials, which are each server's own, nor additional records, a courtesy, nor case:
    where Knot compresses names, they take it from the question."""
    if reply is None:
        return {"silent": True}
    sections = {}
    for name, section in (("answer", reply.answer), ("authority", reply.authority)):
        found: Counter[str] = Counter()
        for rrset in section:
            for rdata in rrset:
                text = rdata.to_text()
                if rrset.rdtype == dns.rdatatype.SOA:
                    text = " ".join(part for n, part in enumerate(text.split()) if n != 2)
                found[f"{rrset.name} {rrset.ttl} {dns.rdatatype.to_text(rrset.rdtype)} {text}".lower()] += 1
        sections[name] = sorted(found)
    flags = dns.flags.to_text(reply.flags & (dns.flags.QR | dns.flags.AA | dns.flags.TC | dns.flags.RD | dns.flags.RA))
    return {"rcode": dns.rcode.to_text(reply.rcode()), "flags": flags, "edns": reply.edns, **sections}


async def test_the_answers_are_those_of_knot(tmp_path: Path) -> None:
    toml = "[dns]\nrecords = [\n" + "".join(f"  '{line}',\n" for line in STATIC) + "]\n"
    toml += vm_toml("www", "127.5.1.1", ttl=60, boot_time=0, response_delay=0, alias=f"w.{ZONE}")
    toml += vm_toml("six", "127.5.1.2", ttl=60, boot_time=0, response_delay=0)
    for name, address, dns_name in (("wild", "127.5.1.3", f"*.p.{ZONE}"), ("own", "127.5.1.4", f"own.p.{ZONE}")):
        toml += f'[vm.{name}]\ndns = "{dns_name}"\nip = "{address}"\nttl = 60\nboot_time = 0\nresponse_delay = 0\n'
    chance, differences = random.Random(7), []
    with RunningSuite(tmp_path, toml=toml) as suite, _knot(tmp_path / "knot") as knot_port:
        for name in ("www", "six", "x.p", "own.p"):
            assert asked(dns.message.make_query(f"{name}.{ZONE}", "A"), suite.port, tcp=False)
        for _ in range(QUESTIONS):
            query, rdtype = _question(chance)
            tcp = chance.random() < 0.2
            ours, theirs = (_shown(asked(query, port, tcp=tcp)) for port in (suite.port, knot_port))
            if ours != theirs and rdtype not in INTENDED:
                differences.append(f"{query.question[0]} {'tcp' if tcp else 'udp'}\n  ours   {ours}\n  theirs {theirs}")
    assert differences == [], f"{len(differences)} differ:\n" + "\n".join(differences[:20])


async def test_dig_and_kdig_have_nothing_to_complain_of(tmp_path: Path) -> None:
    toml = vm_toml("www", "127.5.2.1", ttl=60, boot_time=0, response_delay=0)
    with RunningSuite(tmp_path, toml=toml) as suite:
        for tool, package in (("dig", "bind9-dnsutils"), ("kdig", "knot-dnsutils")):
            for options in ([], ["+tcp"], ["+cookie"], ["+nsid"], ["+noedns"], ["+dnssec"]):
                argv = [program(tool, package), "@127.0.0.1", "-p", str(suite.port), *options, "www.jitsu.test", "A"]
                done = await asyncio.to_thread(subprocess.run, argv, capture_output=True, text=True, timeout=20)
                said = done.stdout + done.stderr
                assert done.returncode == 0, said
                assert "127.5.2.1" in said
                for complaint in ("WARNING", "warning", "malformed", "Warning"):
                    assert complaint not in said.replace(RECURSION, ""), said


async def test_delv_takes_what_is_there_and_what_is_not(tmp_path: Path) -> None:
    with RunningSuite(tmp_path, toml=vm_toml("www", "127.5.2.2", ttl=60, boot_time=0, response_delay=0)) as suite:
        for options in ([], ["+tcp"]):
            # -i: there is no chain of trust to a zone that is not signed
            argv = [program("delv", "bind9-dnsutils"), "@127.0.0.1", "-p", str(suite.port), "-i", *options]
            for name, expected in (("www", "127.5.2.2"), ("nobody", "NXDOMAIN")):
                ask = [*argv, f"{name}.{ZONE}", "A"]
                done = await asyncio.to_thread(subprocess.run, ask, capture_output=True, text=True, timeout=20)
                assert expected in done.stdout, done.stdout + done.stderr


RECURSION = "WARNING: recursion requested but not available"


def test_a_socket_that_sends_what_is_no_dns_gets_nothing(tmp_path: Path) -> None:
    with RunningSuite(tmp_path, toml=vm_toml("www", "127.5.3.1", ttl=60)) as suite:
        with socket.create_connection(("127.0.0.1", suite.port), timeout=5) as connection:
            connection.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
            connection.settimeout(0.5)
            with pytest.raises(TimeoutError):
                connection.recv(100)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as datagrams:
            datagrams.connect(("127.0.0.1", suite.port))
            datagrams.settimeout(0.5)
            for packet in (b"", b"\0" * 11, struct.pack("!HHHHHH", 1, 0x8180, 1, 0, 0, 0)):
                datagrams.send(packet)
            with pytest.raises(TimeoutError):
                datagrams.recv(100)
