"""A forwarder for tests, driven by hand."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any

from jitsu_dns.rules.events import Drop, Reply
from jitsu_dns.rules.forward import AttemptFailed, Forwarder, ResponseReceived
from jitsu_protocol.rates import Networks

if TYPE_CHECKING:
    from jitsu_dns.rules.forward import Event
    from jitsu_dns.rules.rates import ResponseLimit

ONE, TWO = ("192.0.2.1", 53), ("192.0.2.2", 53)


class DrivenForwarder:
    """A forwarder, and the actions that it has returned."""

    def __init__(self, *servers: tuple[str, int], responses: ResponseLimit | None = None) -> None:
        self.machine = Forwarder(servers or (ONE, TWO), Networks(["127.0.0.0/8"]), random.Random(1), responses)
        self.health, self.kept, self.counts = self.machine.health, self.machine.kept, self.machine.counts
        self._actions: list[Any] = []

    def handle(self, event: Event, now: float) -> bytes | None:
        """Handle an event; return what is answered at once, b"" if that is dropped."""
        answer: bytes | None = None
        for action in self.machine.handle(event, now):
            match action:
                case Reply(data):
                    answer = data
                case Drop():
                    answer = b""
                case _:
                    self._actions.append(action)
        return answer

    def received(self, attempt: int, data: bytes, now: float, *, tcp: bool = False) -> None:
        assert self.handle(ResponseReceived(attempt, data, tcp), now) is None

    def failed(self, attempt: int, reason: str, now: float) -> None:
        self.handle(AttemptFailed(attempt, reason), now)

    def passed(self, now: float) -> None:
        self._actions += self.machine.tick(now)

    def take(self) -> list[Any]:
        actions, self._actions = self._actions, []
        return actions
