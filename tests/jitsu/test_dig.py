"""`jitsu dig` starts nothing unless that is asked for, whatever states of VMs a replica reports."""

from __future__ import annotations

import socket
import threading
from contextlib import contextmanager
from typing import TYPE_CHECKING

import dns.edns
import dns.flags
import dns.message
import dns.rcode
import dns.rdataclass
import dns.rdatatype
import dns.rrset
import pytest

from jitsu.dig import ReplicaReport, ask_replicas, checked_question, dig_lines, is_on_all_addresses, who_answers
from jitsu_protocol.model.errors import BadRequest

if TYPE_CHECKING:
    from collections.abc import Iterator

WITNESS = "witness.jitsu.test"


@contextmanager
def replica(states: dict[str, str], asked: list[str]) -> Iterator[str]:
    """Serve as a replica that reports these states; yields HOST:PORT. `asked` gets questions that could start a VM."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
        server.bind(("127.0.0.1", 0))

        def serve() -> None:
            while True:
                data, client = server.recvfrom(4096)
                if data == b"end":
                    return
                query = dns.message.from_wire(data)
                reply = dns.message.make_response(query)
                name = query.question[0].name.to_text(omit_final_dot=True)
                if query.question[0].rdclass == dns.rdataclass.CH:
                    said = "dns-0" if name == "id.server" else states.get(name, "")
                    if said:
                        reply.answer.append(dns.rrset.from_text(name + ".", 0, "CH", "TXT", f'"{said}"'))
                    else:
                        reply.set_rcode(dns.rcode.REFUSED)
                else:
                    asked.append(f"{name} {dns.rdatatype.to_text(query.question[0].rdtype)}")
                reply.use_edns(options=[dns.edns.GenericOption(dns.edns.OptionType.NSID, b"dns-0")])
                server.sendto(reply.to_wire(), client)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        try:
            yield f"127.0.0.1:{server.getsockname()[1]}"
        finally:
            server.sendto(b"end", server.getsockname())
            thread.join(5)


def told_by(states: dict[str, str], *, summon: bool = False, name: str = "www.jitsu.test") -> tuple[str, list[str]]:
    asked: list[str] = []
    with replica(states, asked) as address:
        told = ask_replicas(checked_question(name, "a"), address, {"dns-0"}, WITNESS, summon=summon)
        (line,) = dig_lines(told)
    return line.partition(": ")[2], asked


@pytest.mark.parametrize(
    ("states", "said", "asked"),
    [
        ({"www.jitsu.test": "www ready"}, "www ready; NOERROR", ["www.jitsu.test A"]),
        ({"www.jitsu.test": "www off"}, "www off; not asked: it might start www (--summon)", []),
        ({"www.jitsu.test": "www draining"}, "www draining; not asked: it might start www (--summon)", []),
        ({WITNESS: "witness off"}, "no VM has this name; NOERROR", ["www.jitsu.test A"]),
        (
            {},
            "it does not tell us whether a VM has this name; not asked: it might start a VM, and this replica "
            "tells us no states, as we are not in dns.exempt (--summon)",
            [],
        ),
    ],
)
def test_a_question_is_asked_only_where_it_cannot_start_a_vm(
    states: dict[str, str], said: str, asked: list[str]
) -> None:
    assert told_by(states) == (said, asked)


def test_with_summon_it_is_asked_whatever_that_starts() -> None:
    assert told_by({}, summon=True) == ("no VM has this name; NOERROR", ["www.jitsu.test A"])
    assert told_by({"www.jitsu.test": "www off"}, summon=True)[1] == ["www.jitsu.test A"]


@pytest.mark.parametrize(
    ("name", "rdtype", "said"),
    [
        ("www.jitsu.test", "FOO", "'FOO' is not a type of DNS record"),
        ("www.jitsu.test", "OPT", "'OPT' is not a type of DNS record"),
        ("a b", "A", "'a b' is not a DNS name"),
        ("a..b", "A", "'a..b' is not a DNS name"),
        ("x" * 64 + ".test", "A", "is not a DNS name"),
    ],
)
def test_a_question_that_cannot_be_asked_is_refused(name: str, rdtype: str, said: str) -> None:
    with pytest.raises(BadRequest, match=said):
        checked_question(name, rdtype)


@pytest.mark.parametrize(
    ("address", "is_on_all"), [("0.0.0.0:53", True), ("[::]:53", True), (":::53", True), ("192.0.2.1:53", False)]
)
def test_an_address_that_stands_for_all_is_known(address: str, is_on_all: bool) -> None:
    assert is_on_all_addresses(address) is is_on_all


def test_a_replica_that_is_away_does_not_answer() -> None:
    with replica({}, []) as address:
        assert who_answers(address, {"dns-0"}, 0.5) == {"dns-0"}
        assert who_answers(address, {"dns-0", "dns-1"}, 0.5) == {"dns-0"}
    assert who_answers(address, {"dns-0"}, 0.01) == set()
    assert (
        ReplicaReport("x", fault="does not answer").fault
        in dig_lines({"a": ReplicaReport("x", fault="does not answer")})[0]
    )
