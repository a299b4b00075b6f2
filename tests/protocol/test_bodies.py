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
from jitsu_protocol.wire.bodies import Reading, read
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


def bodies() -> list[tuple[type[Request], bytes]]:
    """Return bodies that take a hundred times their size once they are decoded or validated."""
    empties = b"\xdd" + (MB).to_bytes(4, "big") + b"\x80" * MB
    nested = b"\x91" * 900 + b"\x80"
    bomb = b"\xdc\x27\x10" + b"\x80" * 10_000
    report, apply = msgpack.packb(REPORT), msgpack.packb(APPLY)
    plus_uses = b"\x85" + report[1:] + msgpack.packb("uses")
    plus_changes = b"\x85" + apply[1:] + msgpack.packb("changes")
    deep: Any = "x"
    for _ in range(500):
        deep = [deep]
    return [
        (Report, plus_uses + empties),
        (Report, plus_uses + msgpack.packb([[1, 2, "x", -1]] * 20_000)),
        (Apply, plus_changes + msgpack.packb([{}] * 250_000)),
        (Apply, plus_changes + msgpack.packb([{"path": "x" * 1000}] * 20_000)),
        (Apply, plus_changes + b"\xdc\x00\x64" + (b"\x83" + bomb * 100) * 100),
        (Apply, plus_changes + b"\x91" + b"\x81" + msgpack.packb("path") + b"\xdc\x27\x10" + bomb * 100),
        (Apply, msgpack.packb(APPLY | {"author": ["x"] * MB})),
        (Apply, msgpack.packb(APPLY | {"message": "x" * MB})),
        (Record, msgpack.packb({"values": {str(n): {} for n in range(200_000)}, "service": "vmd"})),
        (Check, msgpack.packb({"vms": {str(n): [[]] * 1000 for n in range(1000)}})),
        (Check, msgpack.packb({"vms": {"u": deep}})),
        (Summon, b"\x81" + msgpack.packb("vm") + nested * 60),
        (Summon, msgpack.packb({str(n): n for n in range(5000)})),
        (Summon, msgpack.packb({"vm": "x" * MB})),
    ]


@pytest.mark.parametrize("number", range(len(bodies())))
def test_g9_a_hostile_body_is_refused_with_little_memory_and_a_short_reason(number: int) -> None:
    cls, body = bodies()[number]
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
