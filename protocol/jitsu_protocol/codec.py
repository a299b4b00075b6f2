"""Envelope and msgpack: messages to bytes and back; whatever is wrong with bytes becomes a typed error.

An envelope is the msgpack array [[major, minor], kind, id, seconds left, body]. The deadline travels as the
seconds that were left when it was sent, because hosts do not share a clock.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeVar

import msgpack
from pydantic import ValidationError

from jitsu_protocol.errors import MalformedMessage, UnknownKind, WrongVersion, from_wire
from jitsu_protocol.messages import VERSION, Failure, Message

MAX_FRAME_BYTES = 64 * 1024 * 1024  # a change that brings 10,000 VMs of 12 keys is about 10 MB
MAX_ID_BYTES = 64

M = TypeVar("M", bound=Message)


@dataclass(frozen=True)
class Envelope:
    """What a frame holds; the body is still unchecked."""

    kind: str
    id: bytes
    timeout: float
    """Seconds that were left to the caller when it sent this; 0 in replies and feeds."""
    body: dict[str, Any]


def encode(message: Message, *, id: bytes = b"", timeout: float = 0.0) -> bytes:
    """Return the frame for a message."""
    body = message.model_dump(mode="python")
    return bytes(msgpack.packb([VERSION, message.kind, id, timeout, body]))


def decode(frame: bytes) -> Envelope:
    """Return the envelope in a frame; raises MalformedMessage or WrongVersion."""
    parts = _unpack(frame)
    if not (isinstance(parts, list) and len(parts) >= 2 and _is_version(parts[0])):
        raise MalformedMessage("the frame is no envelope")
    if parts[0][0] != VERSION[0]:
        major, minor = parts[0]
        raise WrongVersion(
            f"the message is of protocol version {major}.{minor}, this process speaks {VERSION[0]}.{VERSION[1]}",
            hint="run one version of Jitsu everywhere",
        )
    if len(parts) != 5:
        raise MalformedMessage("the envelope has the wrong number of parts")
    _, kind, id, timeout, body = parts
    if not (isinstance(kind, str) and isinstance(id, bytes) and isinstance(body, dict)):
        raise MalformedMessage("the envelope has a part of the wrong type")
    if len(id) > MAX_ID_BYTES or not isinstance(timeout, int | float) or not 0 <= timeout < 1e9:
        raise MalformedMessage("the envelope's id or deadline is out of range")
    return Envelope(kind, id, float(timeout), body)


def id_of(frame: bytes) -> bytes | None:
    """Return the id in a frame that `decode` refused, if it is legible, so that the sender can be told."""
    try:
        parts = _unpack(frame)
    except MalformedMessage:
        return None
    if isinstance(parts, list) and len(parts) >= 3 and isinstance(parts[2], bytes):
        return parts[2] if 0 < len(parts[2]) <= MAX_ID_BYTES else None
    return None


def body_as(cls: type[M], kind: str, body: dict[str, Any]) -> M:
    """Check a body and return the message; raises what a Failure carries, UnknownKind or MalformedMessage."""
    if kind == Failure.kind and cls is not Failure:
        failure = body_as(Failure, kind, body)
        raise from_wire(failure.code, failure.message, failure.hint, failure.retry_after, failure.details)
    if kind != cls.kind:
        raise UnknownKind(f"expected a message of kind {cls.kind}, got {kind[:64]!r}")
    try:
        return cls.model_validate(body)
    except (ValidationError, RecursionError) as error:
        raise MalformedMessage(f"a message of kind {kind} is malformed: {error}") from None


def _unpack(frame: bytes) -> object:
    if len(frame) > MAX_FRAME_BYTES:
        raise MalformedMessage(f"the frame has {len(frame)} bytes, {MAX_FRAME_BYTES} are allowed")
    try:
        unpacked: object = msgpack.unpackb(frame, raw=False)
    except Exception as error:
        # msgpack documents no closed set: ValueError, its own UnpackException, UnicodeDecodeError,
        # OverflowError from timestamps, TypeError from unhashable keys.
        raise MalformedMessage(f"the frame is not msgpack: {error}") from None
    return unpacked


def _is_version(part: object) -> bool:
    return (
        isinstance(part, list)
        and len(part) == 2
        and all(isinstance(number, int) and 0 <= number < 1000 for number in part)
    )
