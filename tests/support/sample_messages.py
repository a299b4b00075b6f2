"""Messages of every class, with a value in every field."""

from __future__ import annotations

import types
import typing
from enum import Enum
from typing import Any

from pydantic import BaseModel

from jitsu_protocol import messages

if typing.TYPE_CHECKING:
    import random
    from collections.abc import Callable


def message_classes() -> list[type[messages.Message]]:
    """Return every class of messages that has a kind."""
    found: list[type[messages.Message]] = []
    todo: list[type[messages.Message]] = [messages.Message]
    while todo:
        for cls in todo.pop().__subclasses__():
            todo.append(cls)
            if cls.__module__.startswith(messages.__name__) and "kind" in vars(cls):
                found.append(cls)
    return found


def sample(cls: type[BaseModel], chance: random.Random) -> BaseModel:
    """Return a message of a class, or a model within one, whose fields have values of their types."""
    fields = {name: _value(about.annotation, chance) for name, about in cls.model_fields.items()}
    return cls.model_construct(**fields)


def _value(wanted: Any, chance: random.Random) -> Any:
    origin, parts = typing.get_origin(wanted), typing.get_args(wanted)
    if origin in (typing.Union, types.UnionType):
        return _value(chance.choice(parts), chance)
    if origin is typing.Annotated:
        return _value(parts[0], chance)
    if origin is typing.Literal:
        return chance.choice(parts)
    count = chance.randrange(4)
    if origin is list:
        return [_value(parts[0], chance) for _ in range(count)]
    if origin is dict:
        return {_value(parts[0], chance): _value(parts[1], chance) for _ in range(count)}
    if origin is tuple:
        return tuple(_value(each, chance) for each in parts if each is not ...)
    if isinstance(wanted, type) and issubclass(wanted, BaseModel):
        return sample(wanted, chance)
    if isinstance(wanted, type) and issubclass(wanted, Enum):
        return chance.choice(list(wanted))
    if isinstance(wanted, type) and issubclass(wanted, tuple):  # a NamedTuple
        return wanted(*(_value(each, chance) for each in typing.get_type_hints(wanted).values()))
    return _PLAIN[wanted](chance)


_PLAIN: dict[Any, Callable[[random.Random], Any]] = {
    bool: lambda chance: chance.random() < 0.5,
    int: lambda chance: chance.choice([0, 1, -1, 127, 128, 2**31, 2**63 - 1]),
    float: lambda chance: chance.choice([0.0, -0.0, 1.5, 1e300]),
    str: lambda chance: chance.choice(["", "x", "ä" * 20, "y" * 300]),
    bytes: lambda chance: chance.choice([b"", b"\xff" * 40]),
    object: lambda chance: chance.choice([None, True, 3, "x", [1, {"a": b"b"}]]),
    type(None): lambda _: None,
}
