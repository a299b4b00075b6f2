"""The body of a request, decoded in steps and within limits (G9).

A peer may make a body that is a hundred times as large in memory as on the wire ({} is one byte there and 72 here), or
that has a million faults, each of which makes an error of a kilobyte. So a body is not decoded as a whole:

    the class says                       and a body
    max_bytes                            that is longer is refused unread
    fields that are lists or maps        are read element by element; each is decoded and validated before the next
                                         one is, the first that is wrong ends it, and there may be MAX_ELEMENTS
    all other fields                     may have MAX_SCALAR_BYTES
    what it does not know                is skipped without being decoded

`Reading` yields between steps, so that a process goes on answering others while it reads a large request.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any, Generic, TypeVar, get_args, get_origin

import msgpack
from annotated_types import MaxLen
from pydantic import TypeAdapter

from jitsu_protocol.messages import Request
from jitsu_protocol.model.errors import MalformedMessage
from jitsu_protocol.wire.codec import is_array, is_map, unpacked, validated

if TYPE_CHECKING:
    from collections.abc import Iterator

MAX_ELEMENTS = 250_000
"""Of one list or map: 10,000 VMs of 25 keys."""
MAX_SCALAR_BYTES = 64 * 1024
MAX_ELEMENT_BYTES = 5 * 1024 * 1024
"""A value of the store has at most a million characters, each of them at most four bytes."""
SMALL_BYTES = 4096
"""So little is decoded without a look at what it is made of: it cannot become larger than 300 kB."""
MAX_CONTAINERS = 1000
"""Lists and maps within one element that is not small."""
MAX_LENGTH = 10_000
"""Of each of these."""
MAX_FIELDS = 64
STEP = 200
"""Elements that are read at a time: less than a millisecond's work."""

R = TypeVar("R", bound=Request)


class Reading(Generic[R]):
    """The body of one request while it is read."""

    def __init__(self, cls: type[R], body: memoryview) -> None:
        self._cls = cls
        self._body = body
        self._fields: dict[str, Any] = {}

    def steps(self) -> Iterator[None]:
        """Read; yields between steps. Raises MalformedMessage."""
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
        """Return the message, when all steps are done; raises MalformedMessage."""
        return validated(self._cls.kind, lambda: self._cls.model_validate(self._fields))

    def _list(self, unpacker: msgpack.Unpacker, name: str, many: _Many) -> Iterator[None]:
        elements: list[Any] = []
        self._fields[name] = elements
        for number in range(_count(unpacked(unpacker.read_array_header), name, many)):
            elements.append(self._element(unpacker, many.value))
            if number % STEP == STEP - 1:
                yield

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
        """Return the next value, if it is not longer than that; raises MalformedMessage."""
        begin = unpacker.tell()
        unpacked(unpacker.skip)
        length = unpacker.tell() - begin
        if length > limit:
            raise MalformedMessage(f"a value of {length} bytes is too long: {limit} are allowed")
        return _bounded(self._body[begin : begin + length])


class _Many:
    """How the elements of a field are checked; `key` is None for a list."""

    def __init__(self, key: TypeAdapter[Any] | None, value: TypeAdapter[Any], most: int) -> None:
        self.key = key
        self.value = value
        self.most = most


def _count(count: int, name: str, many: _Many) -> int:
    if count > many.most:
        raise MalformedMessage(f"{name} has {count} elements, {many.most} are allowed")
    return count


@cache
def _elements(cls: type[Request], field: str) -> _Many | None:
    """Return how the elements of a field are checked, None if it is no list and no map, or there is none."""
    about = cls.model_fields.get(field)
    if about is None or get_origin(about.annotation) not in (list, dict):
        return None
    *keys, value = map(TypeAdapter, get_args(about.annotation))
    most = min([MAX_ELEMENTS, *(each.max_length for each in about.metadata if isinstance(each, MaxLen))])
    return _Many(keys[0] if keys else None, value, most)


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
    """Read a body at once."""
    if len(body) <= SMALL_BYTES:
        fields = unpacked(lambda: msgpack.unpackb(body, raw=False))
        return validated(cls.kind, lambda: cls.model_validate(fields))
    reading = Reading(cls, body)
    for _ in reading.steps():
        pass
    return reading.result()
