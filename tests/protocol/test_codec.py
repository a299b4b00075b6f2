from __future__ import annotations

import random

import msgpack
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from jitsu_protocol import messages
from jitsu_protocol.messages import Failure, Report, Summon, Use
from jitsu_protocol.model.errors import BackingOff, BadRequest, Bug, MalformedMessage, UnknownKind, WrongVersion
from jitsu_protocol.wire.codec import MAX_FRAME_BYTES, body_as, decode, encode, id_of
from tests.support.examples import examples
from tests.support.sample_messages import message_classes, sample

SUMMON = Summon(vm="x", trigger="dns", waited_s=0.5)


def test_a_message_survives_encoding_and_decoding() -> None:
    report = Report(
        replica="dns-0", instance="i", batch=3, lease_s=1.5, uses=[Use(vm="v", name="n", count=2, age_s=0.25)]
    )
    envelope = decode(encode(report, id=b"id", timeout=1.5))
    assert (envelope.kind, envelope.id, envelope.timeout) == ("reaper.report", b"id", 1.5)
    assert body_as(Report, envelope.kind, envelope.body) == report


def test_the_bytes_of_this_protocol_version_do_not_change() -> None:
    assert encode(SUMMON, id=b"\x01", timeout=1.0).hex() == (
        "95920103aa766d642e73756d6d6f6ec40101cb3ff000000000000085a276"
        "6da178a774726967676572a3646e73a87761697465645f73cb3fe0000000000000a374746cc0a26279a0"
    )


def test_every_kind_belongs_to_one_message_class() -> None:
    found = message_classes()
    kinds = [cls.kind for cls in found]
    assert len(kinds) == len(set(kinds)) >= 30
    assert all(cls.__doc__ for cls in found)


def test_only_another_major_version_is_refused() -> None:
    body = SUMMON.model_dump()
    with pytest.raises(WrongVersion, match=r"2\.0"):
        decode(msgpack.packb([[2, 0], Summon.kind, b"i", 1.0, body]))
    newer = decode(msgpack.packb([[1, 9], Summon.kind, b"i", 1.0, body | {"added_later": 1}]))
    assert body_as(Summon, newer.kind, newer.body) == SUMMON


def test_a_wrong_kind_and_a_wrong_type_are_typed_errors() -> None:
    with pytest.raises(UnknownKind):
        body_as(Summon, "nonsense", {})
    with pytest.raises(MalformedMessage):
        body_as(Summon, Summon.kind, {"vm": 3})


def test_an_error_is_raised_with_its_own_class() -> None:
    failure = Failure(code="backing-off", message="m", hint="h", retry_after=2.5)
    with pytest.raises(BackingOff, match=r"m \(h\)") as caught:
        body_as(Summon, "error", failure.model_dump())
    assert caught.value.retry_after == 2.5
    with pytest.raises(Bug, match="unknown error code"):
        body_as(Summon, "error", {"code": "new", "message": "m"})


def test_every_truncation_is_malformed() -> None:
    frame = encode(SUMMON, id=b"id", timeout=1.0)
    for length in range(len(frame)):
        with pytest.raises(MalformedMessage):
            decode(frame[:length])


def test_a_frame_that_is_too_large_is_refused() -> None:
    with pytest.raises(MalformedMessage, match="are allowed"):
        decode(b"x" * (MAX_FRAME_BYTES + 1))


def _refused_or_sound(frame: bytes) -> None:
    try:
        envelope = decode(frame)
        body_as(Summon, envelope.kind, envelope.body)
    except BadRequest:
        id_of(frame)


@settings(max_examples=examples(2000))
@given(st.binary(max_size=200))
def test_g9_any_bytes_are_a_message_or_a_typed_error(frame: bytes) -> None:
    _refused_or_sound(frame)


values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats() | st.text() | st.binary(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=4),
    max_leaves=8,
)


@settings(max_examples=examples(1000))
@given(values, values, values, values, values)
def test_g9_any_envelope_is_a_message_or_a_typed_error(
    version: object, kind: object, id: object, timeout: object, body: object
) -> None:
    _refused_or_sound(msgpack.packb([version, kind, id, timeout, body]))
    _refused_or_sound(msgpack.packb([[1, 0], Summon.kind, b"i", 1.0, body]))
    _refused_or_sound(msgpack.packb([[1, 0], Summon.kind, b"i", timeout, {"vm": body}]))


@given(st.integers(0, 200), st.integers(0, 255))
def test_g9_a_frame_with_a_changed_byte_is_a_message_or_a_typed_error(at: int, value: int) -> None:
    frame = bytearray(encode(SUMMON, id=b"id", timeout=1.0))
    frame[at % len(frame)] = value
    _refused_or_sound(bytes(frame))


def _outcome(frame: bytes) -> object:
    try:
        return decode(frame)
    except BadRequest as error:
        return type(error), str(error)


@settings(max_examples=examples(1000))
@given(
    kind=st.text(max_size=40) | st.just(Summon.kind),
    id=st.binary(max_size=70),
    timeout=st.floats() | st.integers(-5, 5),
    body=st.dictionaries(st.text(max_size=5), values, max_size=3) | values,
    cut=st.integers(0, 40),
)
@example(kind="k" * 31, id=b"i" * 64, timeout=1.0, body={}, cut=40)
@example(kind="k", id=b"i" * 65, timeout=1.0, body={}, cut=40)
@example(kind="k" * 32, id=b"i", timeout=1.0, body={}, cut=40)
@example(kind="k", id=b"i", timeout=1e9, body={}, cut=40)
@example(kind="k", id=b"i", timeout=-0.5, body={}, cut=40)
@example(kind="k", id=b"i", timeout=float("nan"), body={}, cut=40)
@example(kind="k", id=b"i", timeout=1.0, body=[], cut=40)
def test_a_header_is_read_the_same_whichever_way_its_kind_is_packed(
    kind: str, id: bytes, timeout: float, body: object, cut: int
) -> None:
    rest = msgpack.packb(id) + msgpack.packb(timeout) + msgpack.packb(body)
    rest = rest[: len(rest) - cut] if cut < 20 else rest
    quick = msgpack.packb(messages.VERSION) + msgpack.packb(kind) + rest
    encoded = kind.encode()
    by_msgpack = msgpack.packb(messages.VERSION) + b"\xda" + len(encoded).to_bytes(2, "big") + encoded + rest  # str 16
    assert repr(_outcome(b"\x95" + quick)) == repr(_outcome(b"\x95" + by_msgpack))  # a NaN differs from itself


@pytest.mark.parametrize("cls", message_classes(), ids=lambda cls: cls.kind)
def test_every_message_is_packed_as_its_dump_would_be(cls: type[messages.Message]) -> None:
    chance = random.Random(cls.kind)
    for _ in range(20):
        message = sample(cls, chance)
        assert isinstance(message, cls)
        dump = message.model_dump(mode="python", warnings=False)
        expected = msgpack.packb([messages.VERSION, cls.kind, b"i", 1.5, dump])
        assert encode(message, id=b"i", timeout=1.5) == expected
