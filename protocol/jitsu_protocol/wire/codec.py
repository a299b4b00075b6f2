"""Turns messages into bytes and back; anything wrong with the bytes becomes a typed error.

An envelope is the msgpack array [[major, minor], kind, id, timeout, body]. The timeout is the number of seconds that
the caller had left when it sent the message, because hosts do not share a clock.

Decoding has two steps, because a hostile body may need a hundred times its size in memory, or seconds to validate.
`open_frame` reads only the header before the body, in constant time and space. That is enough to decide whether the
sender may send that kind, and whether a message of that kind may be so long. Only then is the body decoded. The body of
a request is read in steps and within limits (bodies.py). The body of a reply or of a feed's item comes from an owner
that this process has chosen, and `decode` reads it at once.

Every summon passes here some twenty times. So a header as this version writes it is read by its offsets, and a message
is packed from its fields as they are. Any other header is read by msgpack, which also finds out what is wrong with it.
"""

from __future__ import annotations

from struct import Struct
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import msgpack
from pydantic import BaseModel, ValidationError

from jitsu_protocol.messages import VERSION, Failure, Message
from jitsu_protocol.model.errors import MalformedMessage, UnknownKind, WrongVersion, from_wire

if TYPE_CHECKING:
    from collections.abc import Callable

MAX_FRAME_BYTES = 64 * 1024 * 1024
"""The largest reply and the largest item of a feed; a request has the limit of its class (`max_bytes`)."""
MAX_ID_BYTES = 64
MAX_KIND_CHARACTERS = 64
HEADER_BYTES = 256
"""Enough for the header before the body: two small integers, the kind, the id and a float."""
MAX_ERRORS_SHOWN = 3
MAX_REASON_CHARACTERS = 300

UNREADABLE = (msgpack.UnpackException, ValueError, TypeError, ArithmeticError, RecursionError, MemoryError)
"""What msgpack raises for bytes from a peer, which is documented only in part. UnicodeDecodeError and most of its own
errors are ValueErrors. TypeError comes from the key of a map that cannot be hashed, ArithmeticError from a timestamp,
and MemoryError from the length of a list."""

_OURS = bytes(msgpack.packb([VERSION, "", b"", 0.0, {}]))[:4]
"""How each frame of this version begins: an array of five parts, and the version."""
_MOST_QUICK = 128
"""Enough for a header with a kind of 31 characters (fixstr of msgpack) and an id of MAX_ID_BYTES."""
_FIXSTR, _FIXSTR_MASK, _BIN8, _FLOAT64 = 0xA0, 0xE0, 0xC4, 0xCB
_DOUBLE = Struct(">d")
_PACK_BYTES = 2048
"""What a packer begins with, instead of msgpack's 256 KiB: the C library asks the kernel for those each time."""

M = TypeVar("M", bound=Message)
T = TypeVar("T")


class Header(NamedTuple):
    """The part of a frame before its body."""

    kind: str
    id: bytes
    timeout: float
    """The seconds that the caller had left when it sent this; 0 in replies and feeds."""
    body_at: int
    """The offset of the body, which is a msgpack map."""


class Envelope(NamedTuple):
    """The content of a frame; its body has not been validated."""

    kind: str
    id: bytes
    timeout: float
    """As in `Header`."""
    body: dict[str, Any]


def encode(message: Message, *, id: bytes = b"", timeout: float = 0.0) -> bytes:
    """Return the frame for a message."""
    packer = msgpack.Packer(default=_fields, buf_size=_PACK_BYTES)
    return bytes(packer.pack((VERSION, message.kind, id, timeout, message)))


def _fields(value: object) -> dict[str, Any]:
    """Return the fields of a message, or of a model within one, for msgpack."""
    if not isinstance(value, BaseModel):
        raise TypeError(f"cannot pack {type(value).__name__}")
    return value.__dict__


def open_frame(frame: bytes | memoryview) -> Header:
    """Return the header of a frame; raises MalformedMessage or WrongVersion."""
    return _quickly_opened(bytes(frame[:_MOST_QUICK])) or _opened(frame)


def _quickly_opened(head: bytes) -> Header | None:
    """Return a header that is sound and written as `encode` writes it; None for any other."""
    if head[:4] != _OURS or len(head) < 5 or head[4] & _FIXSTR_MASK != _FIXSTR:
        return None
    id_at = 5 + (head[4] & ~_FIXSTR_MASK)
    timeout_at = id_at + 2 + head[id_at + 1] if len(head) > id_at + 1 else len(head)
    body_at = timeout_at + 1 + _DOUBLE.size
    if len(head) <= body_at or head[id_at] != _BIN8 or head[timeout_at] != _FLOAT64 or not is_map(head, body_at):
        return None
    id = head[id_at + 2 : timeout_at]
    (timeout,) = _DOUBLE.unpack_from(head, timeout_at + 1)
    if len(id) > MAX_ID_BYTES or not 0 <= timeout < 1e9:
        return None
    try:
        return Header(head[5:id_at].decode(), id, timeout, body_at)
    except UnicodeDecodeError:
        return None


def _opened(frame: bytes | memoryview) -> Header:
    """Return any header, as msgpack reads it; raises MalformedMessage or WrongVersion."""
    unpacker = msgpack.Unpacker(raw=False, max_buffer_size=HEADER_BYTES)
    unpacker.feed(frame[:HEADER_BYTES])
    count = unpacked(unpacker.read_array_header)
    version: Any = unpacked(unpacker.unpack) if count >= 2 else None
    if not _is_version(version):
        raise MalformedMessage("the frame is not an envelope")
    if version[0] != VERSION[0]:
        raise WrongVersion(
            f"the message is of protocol version {version[0]}.{version[1]}, "
            f"this process speaks {VERSION[0]}.{VERSION[1]}",
            hint="run one version of Jitsu everywhere",
        )
    if count != 5:
        raise MalformedMessage("the envelope has the wrong number of parts")
    kind, id, timeout = (unpacked(unpacker.unpack) for _ in range(3))
    body_at = unpacker.tell()
    if not (isinstance(kind, str) and isinstance(id, bytes) and is_map(frame, body_at)):
        raise MalformedMessage("the envelope has a part of the wrong type")
    if len(id) > MAX_ID_BYTES or len(kind) > MAX_KIND_CHARACTERS:
        raise MalformedMessage("the envelope's id or kind is too long")
    if not isinstance(timeout, int | float) or not 0 <= timeout < 1e9:
        raise MalformedMessage("the envelope's deadline is out of range")
    return Header(kind, id, float(timeout), body_at)


def decode(frame: bytes) -> Envelope:
    """Return the envelope of a reply or of an item of a feed; raises MalformedMessage or WrongVersion."""
    if len(frame) > MAX_FRAME_BYTES:
        raise MalformedMessage(f"the frame has {len(frame)} bytes, {MAX_FRAME_BYTES} are allowed")
    header = open_frame(frame)
    return Envelope(header.kind, header.id, header.timeout, decoded(memoryview(frame)[header.body_at :]))


def decoded(packed: memoryview) -> Any:
    """Return what was packed; raises MalformedMessage."""
    try:
        return msgpack.unpackb(packed, raw=False)
    except UNREADABLE as error:
        raise _unreadable(error) from None


def id_of(frame: bytes | memoryview) -> bytes | None:
    """Return the id in a frame that was refused, so that the sender can get a reply; None if it cannot be read."""
    unpacker = msgpack.Unpacker(raw=False, max_buffer_size=HEADER_BYTES)
    unpacker.feed(frame[:HEADER_BYTES])
    try:
        parts = [unpacked(unpacker.unpack) for _ in range(min(unpacked(unpacker.read_array_header), 3))]
    except MalformedMessage:
        return None
    if len(parts) == 3 and isinstance(parts[2], bytes) and 0 < len(parts[2]) <= MAX_ID_BYTES:
        return parts[2]
    return None


def body_as(cls: type[M], kind: str, body: dict[str, Any]) -> M:
    """Check a body and return the message; raises what a Failure carries, UnknownKind or MalformedMessage."""
    if kind == Failure.kind and cls is not Failure:
        failure = body_as(Failure, kind, body)
        raise from_wire(failure.code, failure.message, failure.hint, failure.retry_after, failure.details)
    if kind != cls.kind:
        raise UnknownKind(f"expected a message of kind {cls.kind}, got {kind[:MAX_KIND_CHARACTERS]!r}")
    try:
        return cls.model_validate(body)
    except (ValidationError, RecursionError) as error:
        raise _malformed(kind, error) from None


def validated(kind: str, validate: Callable[[], T]) -> T:
    """Return what is validated; raises MalformedMessage with the first few of what is wrong, without its values."""
    try:
        return validate()
    except (ValidationError, RecursionError) as error:
        raise _malformed(kind, error) from None


def _malformed(kind: str, error: ValidationError | RecursionError) -> MalformedMessage:
    return MalformedMessage(f"a message of kind {kind} is malformed: {_reasons(error)}")


def _reasons(error: ValidationError | RecursionError) -> str:
    if isinstance(error, RecursionError):
        return "it is nested too deeply"
    found = error.errors(include_url=False, include_context=False, include_input=False)
    shown = [f"{'.'.join(map(str, each['loc']))}: {each['msg']}" for each in found[:MAX_ERRORS_SHOWN]]
    more = [f"and {len(found) - len(shown)} more"] if len(found) > len(shown) else []
    return "; ".join([each[:MAX_REASON_CHARACTERS] for each in shown] + more)


def unpacked(unpack: Callable[[], Any]) -> Any:
    """Return what `unpack` reads with msgpack; raises MalformedMessage whatever is wrong with the bytes."""
    try:
        return unpack()
    except UNREADABLE as error:
        raise _unreadable(error) from None


def _unreadable(error: BaseException) -> MalformedMessage:
    reason = f"{type(error).__name__}: {error}"[:MAX_REASON_CHARACTERS]
    return MalformedMessage(f"the frame is not msgpack: {reason}")


def is_map(frame: bytes | memoryview, at: int) -> bool:
    """Return whether a msgpack map begins at an offset (fixmap, map 16 or map 32 of its specification)."""
    return at < len(frame) and (frame[at] & 0xF0 == 0x80 or frame[at] in (0xDE, 0xDF))


def is_array(frame: bytes | memoryview, at: int) -> bool:
    """Return whether a msgpack array begins at an offset (fixarray, array 16 or array 32)."""
    return at < len(frame) and (frame[at] & 0xF0 == 0x90 or frame[at] in (0xDC, 0xDD))


def _is_version(part: object) -> bool:
    return (
        isinstance(part, list)
        and len(part) == 2
        and all(isinstance(number, int) and 0 <= number < 1000 for number in part)
    )
