"""Datagrams that answer what a VM has sent do not count as use of it; all others do."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jitsu_synjitsu.rules import frames
from jitsu_synjitsu.rules.activity import Activity
from jitsu_synjitsu.rules.attention import MAX_LISTENED
from jitsu_synjitsu.rules.datagrams import FLOW_S, MAX_DATAGRAMS, MAX_FLOWS, Datagrams, Flow
from tests.support.examples import examples
from tests.support.frames import CLIENT_MAC, V4, V6, VM_MAC, packet, udp
from tests.support.vms import make_vm

VM = make_vm(ttl="10")
BOTH = pytest.mark.parametrize("addresses", [V4, V6])
FLOW = (V4[0], 123, V4[1], 40_000)


class Bridge:
    """A bridge on which one VM boots, with shorter words for what passes."""

    def __init__(self, addresses: tuple[bytes, bytes] = V4, *, boots: bool = True) -> None:
        self.addresses = addresses
        self.activity = Activity()
        self.activity.runs(VM, VM_MAC, "", 0.0, unknown=False, boots=boots)
        self.is_used(0.0)

    def asks(self, port: int, now: float) -> None:
        frame = udp(40_000, port, b"?", self.addresses[::-1], to=CLIENT_MAC, source=VM_MAC)
        self.activity.frame(frames.read(frame), now)

    def gets(self, port: int, now: float, *, to_port: int = 40_000) -> bool:
        self.activity.frame(frames.read(udp(port, to_port, b"!", self.addresses)), now)
        return self.is_used(now)

    def is_used(self, now: float) -> bool:
        """Report to the reaper; say whether there was use."""
        self.activity.tick(now)
        uses = self.activity.unreported.uses(now)
        for use, up_to in uses:
            self.activity.unreported.acknowledged(use.vm, up_to)
        return bool(uses)


@BOTH
def test_a_guest_that_asks_a_server_every_two_seconds_is_not_in_use(addresses: tuple[bytes, bytes]) -> None:
    made = Bridge(addresses)
    for n in range(100):
        made.asks(123, 1.0 + 2 * n)
        assert not made.gets(123, 1.02 + 2 * n)
    assert made.gets(7, 300.0), "nobody asked for this one"


@BOTH
def test_a_client_that_sends_datagrams_keeps_it_up_and_so_does_all_of_its_flow(addresses: tuple[bytes, bytes]) -> None:
    made = Bridge(addresses)
    made.asks(123, 10.0)
    assert not made.gets(123, 10.1)
    assert made.gets(5000, 20.0)
    made.asks(5000, 20.1)
    assert made.gets(5000, 60.0), "the VM's answer does not make the client's flow the VM's"


@pytest.mark.parametrize("kind", ["a VM that ran before", "frames were lost", "another MAC address", "a busy VM"])
def test_g3_while_some_are_not_seen_no_flow_becomes_the_vms(kind: str) -> None:
    made = Bridge(boots=kind != "a VM that ran before")
    mac = VM_MAC
    if kind == "frames were lost":
        made.activity.missed(0.0)
        made.activity.restore(VM.uuid, ([], False, []))  # that somebody may be connected is tested elsewhere
    elif kind == "another MAC address":
        made.activity.has_mac(VM.uuid, CLIENT_MAC, 0.0)
        made.activity.has_mac(VM.uuid, mac, 0.0)
    elif kind == "a busy VM":
        for port in range(MAX_DATAGRAMS + 1):
            made.activity.frame(frames.read(udp(1 + port, 7, b"x")), 0.0)
        assert made.activity.attention.listened() == frozenset(), "it costs no look at each packet"
        made.is_used(10.0)
        assert made.activity.attention.listened() == {VM_MAC}
    made.asks(123, 11.0)
    assert made.gets(123, 11.1), "a request that nobody saw may have come first"
    made.is_used(20.0)
    made.asks(124, 20.0 + FLOW_S)
    assert not made.gets(124, 20.1 + FLOW_S), "by now every flow that goes on has been seen"


def test_a_flow_of_the_vms_stays_that_while_the_vm_is_busy() -> None:
    made = Bridge()
    made.asks(123, 1.0)
    for port in range(MAX_DATAGRAMS + 1):
        made.activity.frame(frames.read(udp(1 + port, 7, b"x")), 2.0)
    made.is_used(10.0)
    made.asks(123, 11.0)
    assert not made.gets(123, 11.1)


def test_many_replies_at_once_are_use_because_they_are_not_looked_at_one_by_one() -> None:
    made = Bridge()
    made.asks(443, 1.0)
    for _ in range(MAX_DATAGRAMS):
        made.activity.frame(frames.read(udp(443, 40_000, b"x")), 1.1)
    assert made.is_used(1.2)
    assert made.activity.attention.listened() == frozenset()


def test_a_flow_that_is_silent_is_over() -> None:
    made = Bridge()
    made.asks(123, 1.0)
    assert made.gets(123, 1.0 + FLOW_S)


@pytest.mark.parametrize(("protocol", "kind"), [(1, 0), (1, 3), (1, 11), (58, 1), (58, 129)])
def test_errors_and_echo_replies_are_no_use_and_echo_requests_are(protocol: int, kind: int) -> None:
    addresses = V4 if protocol == 1 else V6
    made = Bridge(addresses)
    for icmp, is_use in ((kind, False), (8 if protocol == 1 else 128, True)):
        frame = packet(protocol, bytes([icmp]) + bytes(27), addresses)
        made.activity.frame(frames.read(frame), 10.0)
        assert made.is_used(10.0) is is_use


def test_the_later_fragments_of_a_reply_are_no_use_and_those_of_others_are() -> None:
    datagrams = Datagrams()
    datagrams.sent(FLOW, 1.0)
    assert datagrams.is_reply(FLOW, 1.1, b"id17")
    assert datagrams.is_rest_of_reply(V4[0], b"id17")
    assert not datagrams.is_rest_of_reply(V4[0], b"id18")
    assert not datagrams.is_rest_of_reply(V4[1], b"id17")


def test_what_is_kept_is_bounded_and_what_is_forgotten_is_use() -> None:
    datagrams = Datagrams()
    for port in range(MAX_FLOWS + 1):
        datagrams.sent((b"a", port, b"v", 1), 1.0)
    assert len(datagrams.own) == MAX_FLOWS
    assert not datagrams.is_reply((b"a", 0, b"v", 1), 1.1)
    for port in range(MAX_FLOWS + 1):
        datagrams.is_reply((b"b", port, b"v", 1), 2.0)
    datagrams.sent((b"b", 0, b"v", 1), 3.0)
    assert not datagrams.is_reply((b"b", 0, b"v", 1), 3.1), "it may be the client's that was forgotten"


def test_only_so_many_vms_are_listened_to() -> None:
    activity = Activity()
    for n in range(MAX_LISTENED + 5):
        activity.runs(make_vm(f"v{n}", f"10.0.{n // 250}.{n % 250}"), n.to_bytes(6, "big"), "", 0.0, unknown=False)
    assert len(activity.attention.listened()) == MAX_LISTENED


@settings(max_examples=examples(60), deadline=None)
@given(
    st.lists(
        st.tuples(st.sampled_from(["sent", "to", "missed", "rest", "look"]), st.integers(0, 3), st.floats(0.0, 90.0)),
        max_size=40,
    )
)
def test_g3_a_datagram_is_a_reply_only_if_the_vm_has_begun_its_flow(events: list[tuple[str, int, float]]) -> None:
    """Whatever passes, seen or not: if the client has sent first on a flow, what it sends there is use."""
    datagrams, now, blind_until = Datagrams(), 0.0, 0.0
    begun: dict[Flow, tuple[str, float]] = {}
    for what, port, pause in events:
        now += pause
        flow, is_seen = (b"c", port, b"v", 1), now >= blind_until
        if what in ("sent", "to"):
            by, last = begun.get(flow, (what, now))
            by = what if now - last >= FLOW_S else by
            begun[flow] = (by, now)
        if what == "sent" and is_seen:
            datagrams.sent(flow, now)
        elif what == "to" and is_seen:
            is_reply = datagrams.is_reply(flow, now)
            assert not is_reply or begun[flow][0] == "sent"
        elif what == "missed":
            datagrams.missed(now)
        elif what == "rest":
            blind_until = max(blind_until, now + 5.0)
            datagrams.rest(blind_until)
        elif what == "look":
            datagrams.look()
