"""The table of a machine: what it does not have is refused, and what it does not allow may not follow."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

import pytest

from jitsu_protocol.machine import IllegalEvent, Transition, step


class Light(StrEnum):
    RED = "red"
    GREEN = "green"


class Pressed:
    pass


class Cut:
    pass


@dataclass
class Lamp:
    state: Light = Light.RED

    def press(self, _: Pressed, __: float) -> None:
        self.state = Light.GREEN

    def cut(self, _: Cut, __: float) -> None:
        self.state = Light.GREEN


TRANSITIONS = {
    (Light.RED, Pressed): Transition(Lamp.press, frozenset({Light.GREEN})),
    (Light.RED, Cut): Transition(Lamp.cut, frozenset({Light.RED})),
}


def test_an_event_is_handled_as_its_row_says() -> None:
    lamp = Lamp()
    step(TRANSITIONS, lamp, Pressed(), 0.0)
    assert lamp.state is Light.GREEN


def test_an_event_without_a_row_raises_and_changes_nothing() -> None:
    lamp = Lamp(Light.GREEN)
    with pytest.raises(IllegalEvent, match="Pressed while green"):
        step(TRANSITIONS, lamp, Pressed(), 0.0)
    assert lamp.state is Light.GREEN


def test_a_state_that_the_row_does_not_name_may_not_follow() -> None:
    with pytest.raises(IllegalEvent, match="Cut led from red to green"):
        step(TRANSITIONS, Lamp(), Cut(), 0.0)
