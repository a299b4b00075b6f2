"""What a peer sends is refused before it takes more memory or time than it may (G9)."""

from __future__ import annotations

import tracemalloc
from typing import TYPE_CHECKING, Any

import msgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from jitsu_protocol.messages import Apply, Change, Check, Failure, Record, Report, Request, Summon, Use
from jitsu_protocol.model.errors import BadRequest, Conflict, Invalid, MalformedMessage, to_wire
from jitsu_protocol.wire.bodies import SEVERAL, SEVERAL_BYTES, Reading, read
from jitsu_protocol.wire.codec import decode, encode, open_frame

if TYPE_CHECKING:
    from collections.abc import Callable

MB = 1024 * 1024
APPLY = {"changes": [], "author": "operator:me", "message": "m", "request": "r"}
REPORT = {"replica": "dns-0", "instance": "i", "batch": 1, "lease_s": 1.0}


def peak_of(work: Callable[[], object]) -> tuple[int, str]:
    """Return the most memory that a piece of work takes, and the text of its refusal."""
    tracemalloc.start()
    try:
        with pytest.raises(BadRequest) as caught:
            work()
        return tracemalloc.get_traced_memory()[1], str(caught.value)
    finally:
        tracemalloc.stop()


REPORT_WITH_USES = b"\x85" + msgpack.packb(REPORT)[1:] + msgpack.packb("uses")
APPLY_WITH_CHANGES = b"\x85" + msgpack.packb(APPLY)[1:] + msgpack.packb("changes")
BOMB = b"\xdc\x27\x10" + b"\x80" * 10_000


def deep() -> Any:
    inner: Any = "x"
    for _ in range(500):
        inner = [inner]
    return inner


HOSTILE: dict[str, tuple[type[Request], Callable[[], bytes]]] = {
    "a million empty uses": (Report, lambda: REPORT_WITH_USES + b"\xdd" + MB.to_bytes(4, "big") + b"\x80" * MB),
    "20,000 wrong uses": (Report, lambda: REPORT_WITH_USES + msgpack.packb([[1, 2, "x", -1]] * 20_000)),
    "250,000 empty changes": (Apply, lambda: APPLY_WITH_CHANGES + msgpack.packb([{}] * 250_000)),
    "20,000 long paths": (Apply, lambda: APPLY_WITH_CHANGES + msgpack.packb([{"path": "x" * 1000}] * 20_000)),
    "nested maps": (Apply, lambda: APPLY_WITH_CHANGES + b"\xdc\x00\x64" + (b"\x83" + BOMB * 100) * 100),
    "a path of lists": (
        Apply,
        lambda: APPLY_WITH_CHANGES + b"\x91\x81" + msgpack.packb("path") + b"\xdc\x27\x10" + BOMB * 100,
    ),
    "a list for the author": (Apply, lambda: msgpack.packb(APPLY | {"author": ["x"] * MB})),
    "a long message": (Apply, lambda: msgpack.packb(APPLY | {"message": "x" * MB})),
    "200,000 empty values": (
        Record,
        lambda: msgpack.packb({"values": {str(n): {} for n in range(200_000)}, "service": "vmd"}),
    ),
    "lists for VMs": (Check, lambda: msgpack.packb({"vms": {str(n): [[]] * 1000 for n in range(1000)}})),
    "500 levels": (Check, lambda: msgpack.packb({"vms": {"u": deep()}})),
    "900 levels, 60 times": (Summon, lambda: b"\x81" + msgpack.packb("vm") + (b"\x91" * 900 + b"\x80") * 60),
    "5,000 unknown fields": (Summon, lambda: msgpack.packb({str(n): n for n in range(5000)})),
    "a long name": (Summon, lambda: msgpack.packb({"vm": "x" * MB})),
}
"""Bodies that take a hundred times their size once they are decoded or validated."""


@pytest.mark.parametrize("what", HOSTILE)
def test_g9_a_hostile_body_is_refused_with_little_memory_and_a_short_reason(what: str) -> None:
    cls, make = HOSTILE[what]
    body = make()
    peak, reason = peak_of(lambda: read(cls, memoryview(body)))
    assert peak < 24 * MB
    assert 10 < len(reason) < 1500


def test_g9_a_header_is_read_without_its_body() -> None:
    frame = msgpack.packb([[1, 1], "store.apply", b"id", 1.0, {"changes": [{}] * (4 * MB)}])
    tracemalloc.start()
    header = open_frame(frame)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert (header.kind, header.id, header.timeout) == ("store.apply", b"id", 1.0)
    assert peak < 100_000


def test_a_large_body_is_read_in_steps_until_its_first_fault() -> None:
    changes: list[dict[str, Any]] = [{"path": f"a/{n}", "value": str(n), "old": None} for n in range(10_000)]
    reading = Reading(Apply, memoryview(msgpack.packb(APPLY | {"changes": changes})))
    assert sum(1 for _ in reading.steps()) >= 50
    assert reading.result().changes[9_999] == Change(path="a/9999", value="9999")
    changes[300] = {"path": 3, "value": "3"}
    broken = Reading(Apply, memoryview(msgpack.packb(APPLY | {"changes": changes})))
    steps = broken.steps()
    next(steps)
    with pytest.raises(MalformedMessage, match="path: Input should be a valid string"):
        next(steps)


values = st.text(max_size=20)
requests = st.one_of(
    st.builds(
        Apply,
        changes=st.lists(st.builds(Change, path=values, value=st.none() | values, old=st.none() | values), max_size=5),
        author=values,
        message=values,
        request=values,
        expect=st.dictionaries(values, st.none() | values, max_size=4),
    ),
    st.builds(
        Report,
        replica=values,
        instance=values,
        batch=st.integers(0, 2**40),
        lease_s=st.floats(0, 1e6),
        uses=st.lists(st.builds(Use, values, values, st.integers(0, 9), st.floats(0, 9)), max_size=4),
        drains=st.lists(values, max_size=3),
    ),
    st.builds(Record, values=st.dictionaries(values, values, max_size=4), service=values),
    st.builds(Check, vms=st.dictionaries(values, st.dictionaries(values, values, max_size=3), max_size=3)),
)


@given(requests)
def test_a_request_that_is_read_in_steps_is_the_one_that_was_sent(request: Request) -> None:
    frame = encode(request, id=b"id", timeout=1.0)
    body = memoryview(frame)[open_frame(frame).body_at :]
    assert read(type(request), body) == request == type(request).model_validate(decode(frame).body)


def test_fields_that_a_later_version_adds_are_skipped_unread() -> None:
    later = msgpack.packb({"vm": "v", "added": {"later": [{}] * 1000}})
    assert read(Summon, memoryview(later)) == Summon(vm="v")


def test_an_error_on_the_wire_has_a_bounded_size() -> None:
    reasons = [f"jitsu/vm/{n}: {'x' * 1000}" for n in range(5000)]
    for error in (
        Invalid("\n".join(reasons), details=[{"reason": reason} for reason in reasons]),
        Conflict("x", hint="y" * MB, details=[{"path": str(n), "value": "z" * MB} for n in range(50)]),
        BadRequest("half a pair: \udc80"),
    ):
        frame = encode(Failure.model_validate(to_wire(error)), id=b"id")
        assert len(frame) < 400_000
        assert decode(frame).body["code"] == error.code


@pytest.mark.parametrize("wrong", [0, 49, 50, 777])
def test_a_wrong_element_among_short_ones_is_named_as_if_it_stood_alone(wrong: int) -> None:
    changes: list[dict[str, Any]] = [{"path": f"a/{n}", "value": str(n), "old": None} for n in range(1000)]
    changes[wrong] = {"path": "x", "value": 7}
    reading = Reading(Apply, memoryview(msgpack.packb(APPLY | {"changes": changes})))
    with pytest.raises(MalformedMessage, match=r"malformed: value: Input should be a valid string$"):
        for _ in reading.steps():
            pass


@pytest.mark.parametrize("size", [1, SEVERAL_BYTES // 2, SEVERAL_BYTES + 1])
@pytest.mark.parametrize("count", [0, 1, SEVERAL - 1, SEVERAL, SEVERAL + 1, 3 * SEVERAL])
def test_elements_of_a_list_are_read_in_their_order_however_long_they_are(size: int, count: int) -> None:
    changes = [{"path": f"a/{n}", "value": "x" * size, "old": None} for n in range(count)]
    reading = Reading(Apply, memoryview(msgpack.packb(APPLY | {"changes": changes})))
    for _ in reading.steps():
        pass
    assert [each.model_dump() for each in reading.result().changes] == changes
