"""The body of a request, decoded in steps and within limits (G9).

A hostile peer may send a body that is a hundred times larger in memory than on the wire ({} has one byte there and 72
here), or one with a million faults, each of which makes an error of a kilobyte. So a body is not decoded as a whole:

    a body, or a part of it              is read like this
    longer than the class's `max_bytes`  it is refused unread
    a field that is a list or a map      element by element: each is decoded and validated before the next one, the
                                         first fault ends the reading, and there may be at most MAX_ELEMENTS.
                                         Short elements of a list are taken several at a time, up to SEVERAL_BYTES
    any other field of the class         it may have MAX_SCALAR_BYTES
    a field that the class does not have it is skipped without being decoded

`Reading` yields between steps, so that a process goes on answering other callers while it reads a large request.
"""

from __future__ import annotations

from functools import cache, partial
from itertools import pairwise
from struct import Struct
from typing import TYPE_CHECKING, Any, Generic, TypeVar, get_args, get_origin

import msgpack
from annotated_types import MaxLen
from pydantic import TypeAdapter

from jitsu_protocol.messages import Request
from jitsu_protocol.model.errors import MalformedMessage
from jitsu_protocol.wire.codec import UNREADABLE, body_as, decoded, is_array, is_map, unpacked, validated

if TYPE_CHECKING:
    from collections.abc import Iterator

MAX_ELEMENTS = 250_000
"""The most elements of one list or map: 10,000 VMs with 25 keys."""
MAX_SCALAR_BYTES = 64 * 1024
MAX_ELEMENT_BYTES = 5 * 1024 * 1024
"""A value of the store has at most a million characters, each of them at most four bytes."""
SMALL_BYTES = 4096
"""Up to this size, a value is decoded without counting its parts: it cannot need more than 300 kB."""
MAX_CONTAINERS = 1000
"""The most lists and maps within one larger element."""
MAX_LENGTH = 10_000
"""The most elements in each of those lists and maps."""
MAX_FIELDS = 64
SEVERAL, SEVERAL_BYTES = 50, 16 * 1024
"""Decoded, so many bytes cannot need more than 1.2 MB."""
STEP = 200
"""How many elements are read in one step, which takes less than a millisecond."""

_ARRAY = Struct(">BH")
"""The header of an array of msgpack (array 16)."""

R = TypeVar("R", bound=Request)


class Reading(Generic[R]):
    """Reads the body of one request."""

    def __init__(self, cls: type[R], body: memoryview) -> None:
        self._cls = cls
        self._body = body
        self._fields: dict[str, Any] = {}

    def steps(self) -> Iterator[None]:
        """Read the body and yield between steps; raises MalformedMessage."""
        if len(self._body) > self._cls.max_bytes:
            raise MalformedMessage(
                f"a message of kind {self._cls.kind} of {len(self._body)} bytes is too long: "
                f"{self._cls.max_bytes} are allowed"
            )
        unpacker = msgpack.Unpacker(raw=False, max_buffer_size=max(len(self._body), 1))
        unpacker.feed(self._body)
        count = unpacked(unpacker.read_map_header)
        if count > MAX_FIELDS:
            raise MalformedMessage(f"a message of kind {self._cls.kind} has {count} fields")
        for _ in range(count):
            name = self._next(unpacker, MAX_SCALAR_BYTES)
            many = _elements(self._cls, name) if isinstance(name, str) else None
            if isinstance(many, _Many) and many.key is None and is_array(self._body, unpacker.tell()):
                yield from self._list(unpacker, name, many)
            elif isinstance(many, _Many) and many.key is not None and is_map(self._body, unpacker.tell()):
                yield from self._map(unpacker, name, many, many.key)
            elif isinstance(name, str) and name in self._cls.model_fields:
                self._fields[name] = self._next(unpacker, MAX_SCALAR_BYTES)
            else:
                unpacked(unpacker.skip)
            yield

    def result(self) -> R:
        """Return the message after the last step; raises MalformedMessage."""
        return validated(self._cls.kind, lambda: self._cls.model_validate(self._fields))

    def _list(self, unpacker: msgpack.Unpacker, name: str, many: _Many) -> Iterator[None]:
        elements: list[Any] = []
        self._fields[name] = elements
        count = _count(unpacked(unpacker.read_array_header), name, many)
        while len(elements) < count:
            several = min(count - len(elements), SEVERAL)
            begin = unpacker.tell()
            ends = [self._skip(unpacker) for _ in range(several)]
            if (found := self._several(begin, ends, many)) is not None:
                elements += found
            else:
                for at, end in pairwise([begin, *ends]):
                    element = self._decoded(at, end, MAX_ELEMENT_BYTES)
                    elements.append(validated(self._cls.kind, partial(many.value.validate_python, element)))
            if len(elements) % STEP == 0:
                yield

    def _several(self, begin: int, ends: list[int], many: _Many) -> list[Any] | None:
        """Return short elements, decoded and validated together; None if they are not short, or one is wrong."""
        if ends[-1] - begin > SEVERAL_BYTES:
            return None
        try:
            packed = _ARRAY.pack(0xDC, len(ends)) + self._body[begin : ends[-1]]
            return many.list_of.validate_python(msgpack.unpackb(packed, raw=False))
        except UNREADABLE:
            return None  # one after the other, to find out which is wrong

    def _map(self, unpacker: msgpack.Unpacker, name: str, many: _Many, of_keys: TypeAdapter[Any]) -> Iterator[None]:
        elements: dict[Any, Any] = {}
        self._fields[name] = elements
        for number in range(_count(unpacked(unpacker.read_map_header), name, many)):
            key = self._element(unpacker, of_keys)
            elements[key] = self._element(unpacker, many.value)
            if number % STEP == STEP - 1:
                yield

    def _element(self, unpacker: msgpack.Unpacker, adapter: TypeAdapter[Any]) -> Any:
        element = self._next(unpacker, MAX_ELEMENT_BYTES)
        return validated(self._cls.kind, lambda: adapter.validate_python(element))

    def _next(self, unpacker: msgpack.Unpacker, limit: int) -> Any:
        """Return the next value; raises MalformedMessage if it has more than `limit` bytes."""
        return self._decoded(unpacker.tell(), self._skip(unpacker), limit)

    @staticmethod
    def _skip(unpacker: msgpack.Unpacker) -> int:
        unpacked(unpacker.skip)
        return int(unpacker.tell())

    def _decoded(self, begin: int, end: int, limit: int) -> Any:
        if end - begin > limit:
            raise MalformedMessage(f"a value of {end - begin} bytes is too long: {limit} are allowed")
        return _bounded(self._body[begin:end])


class _Many:
    """The types of the elements of a list or a map; `key` is None for a list."""

    def __init__(
        self, key: TypeAdapter[Any] | None, value: TypeAdapter[Any], list_of: TypeAdapter[list[Any]], most: int
    ) -> None:
        self.key = key
        self.value = value
        self.list_of = list_of
        self.most = most


def _count(count: int, name: str, many: _Many) -> int:
    if count > many.most:
        raise MalformedMessage(f"{name} has {count} elements, {many.most} are allowed")
    return count


@cache
def _elements(cls: type[Request], field: str) -> _Many | None:
    """Return the types of the elements of a field; None if it is not a list or a map, or does not exist."""
    about = cls.model_fields.get(field)
    if about is None or get_origin(about.annotation) not in (list, dict):
        return None
    *keys, value = get_args(about.annotation)
    most = min([MAX_ELEMENTS, *(each.max_length for each in about.metadata if isinstance(each, MaxLen))])
    return _Many(TypeAdapter(keys[0]) if keys else None, TypeAdapter(value), TypeAdapter(list[value]), most)  # type: ignore[valid-type]


def _bounded(packed: memoryview) -> Any:
    if len(packed) <= SMALL_BYTES:
        return unpacked(lambda: msgpack.unpackb(packed, raw=False))
    containers = 0

    def count(container: Any) -> Any:
        nonlocal containers
        containers += 1
        if containers > MAX_CONTAINERS:
            raise ValueError(f"a value has more than {MAX_CONTAINERS} lists and maps")
        return container

    return unpacked(
        lambda: msgpack.unpackb(
            packed,
            raw=False,
            max_array_len=MAX_LENGTH,
            max_map_len=MAX_LENGTH,
            list_hook=count,
            object_hook=count,
        )
    )


def read(cls: type[R], body: memoryview) -> R:
    """Read a whole body at once; raises MalformedMessage."""
    if len(body) <= SMALL_BYTES:
        return body_as(cls, cls.kind, decoded(body))
    reading = Reading(cls, body)
    for _ in reading.steps():
        pass
    return reading.result()
