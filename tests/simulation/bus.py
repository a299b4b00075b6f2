"""The bus in memory: the links of bus/links.py over a network that delays, loses, reorders and cuts.

As over ZeroMQ, a caller cannot send while nobody serves its owner's endpoint; what is under way to a process that is
killed is lost; and messages over one connection arrive in the order in which they were sent, unless `reorders` is set.
Between two processes that are cut off from each other everything is lost, and neither notices.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from jitsu_runtime.bus.links import Incoming, Sent

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable
    from random import Random

    from tests.simulation.simulation import Life, Simulation


QUICK_S = (0.000_05, 0.000_3)
"""How long a message takes on one machine: from, and to."""


class Network:
    """The connections between processes, and what becomes of each message."""

    def __init__(self, simulation: Simulation, chance: Random) -> None:
        self._simulation = simulation
        self._chance = chance
        self.delay_s = QUICK_S
        """From and to, each message by chance."""
        self.loss = 0.0
        """The share of messages that is lost."""
        self.reorders = False
        self._cuts: set[frozenset[str]] = set()
        self._owners: dict[str, OwnerEnd] = {}
        self._callers: dict[bytes, CallerEnd] = {}
        self._followers: dict[tuple[str, str], list[FollowerEnd]] = {}
        self._connections = 0

    def cut(self, one: str, other: str) -> None:
        """Cut two processes off from each other."""
        self._cuts.add(frozenset((one, other)))
        self._simulation.note(f"network   cut: {one} and {other}")

    def heal(self) -> None:
        """Let all hear each other again, and lose nothing."""
        self._cuts.clear()
        self.loss, self.reorders, self.delay_s = 0.0, False, QUICK_S
        self._simulation.note("network   healed")

    def forget(self, life: Life) -> None:
        """Close the connections of a process that is gone."""
        self._owners = {endpoint: each for endpoint, each in self._owners.items() if each.life is not life}
        self._callers = {peer: each for peer, each in self._callers.items() if each.life is not life}
        for followers in self._followers.values():
            followers[:] = [each for each in followers if each.life is not life]

    def send(self, sender: Life, connection: Connection, take: Callable[[], None]) -> None:
        """Send a message; `take` is called in the process that receives it, if it arrives."""
        receiver, simulation = connection.receiver, self._simulation
        if not sender.alive or (self._cuts and frozenset((sender.name, receiver.name)) in self._cuts):
            return
        chance = self._chance
        if self.loss and chance.random() < self.loss:
            return
        shortest, longest = self.delay_s
        at = simulation.now + shortest + (longest - shortest) * chance.random()
        if not self.reorders:
            at = connection.arrived_at = max(at, connection.arrived_at)
        simulation.at(at, receiver, take)

    # --- ends ---

    def caller(self, life: Life, endpoint: str) -> CallerEnd:
        self._connections += 1
        caller = CallerEnd(self, life, endpoint, self._connections.to_bytes(4, "big"))
        self._callers[caller.peer] = caller
        return caller

    def owner(self, life: Life, endpoint: str) -> OwnerEnd:
        assert endpoint not in self._owners, f"{endpoint} is in use"
        owner = self._owners[endpoint] = OwnerEnd(self, life)
        return owner

    def owner_at(self, endpoint: str) -> OwnerEnd | None:
        return self._owners.get(endpoint)

    def caller_of(self, peer: bytes) -> CallerEnd | None:
        return self._callers.get(peer)

    def follower(self, life: Life, endpoint: str, topic: str) -> FollowerEnd:
        follower = FollowerEnd(life)
        self._followers.setdefault((endpoint, topic), []).append(follower)
        return follower

    def feed(self, life: Life, endpoint: str) -> FeedEnd:
        return FeedEnd(self, life, endpoint)

    def followers(self, endpoint: str, topic: str) -> list[FollowerEnd]:
        return self._followers.get((endpoint, topic), [])


@dataclass(slots=True)
class Connection:
    """One direction of a connection."""

    receiver: Life
    arrived_at: float = 0.0


class _End:
    """One that receives."""

    def __init__(self, life: Life) -> None:
        self.life = life
        self._take: Callable[[bytes], None] | None = None
        self._waits: list[bytes] = []

    def arrived(self, frame: bytes) -> None:
        if self._take is None:
            self._waits.append(frame)
        else:
            self._take(frame)

    async def attend(self, take: Callable[[bytes], None]) -> None:
        self._take = take
        waits, self._waits = self._waits, []
        for frame in waits:
            take(frame)
        await _for_ever(self.life.loop)

    def close(self) -> None:
        """Nothing is to be closed: `Network.forget` does it."""


class CallerEnd(_End):
    """A caller's link."""

    def __init__(self, network: Network, life: Life, endpoint: str, peer: bytes) -> None:
        super().__init__(life)
        self.peer = peer
        self.answers = Connection(life)
        self._network, self._endpoint = network, endpoint
        self._owner: OwnerEnd | None = None
        self._connection: Connection | None = None

    def send(self, frame: bytes) -> bool:
        owner = self._network.owner_at(self._endpoint)
        if owner is None:
            return False
        if owner is not self._owner or self._connection is None:
            self._owner, self._connection = owner, Connection(owner.life)
        incoming = Incoming(self.peer, memoryview(frame))
        self._network.send(self.life, self._connection, lambda: owner.arrived(incoming))
        return True


class OwnerEnd:
    """An owner's link."""

    def __init__(self, network: Network, life: Life) -> None:
        self.life = life
        self._network = network
        self._take: Callable[[Incoming], None] | None = None
        self._waits: list[Incoming] = []

    def arrived(self, incoming: Incoming) -> None:
        if self._take is None:
            self._waits.append(incoming)
        else:
            self._take(incoming)

    def send(self, peer: bytes, frame: bytes) -> Sent:
        caller = self._network.caller_of(peer)
        if caller is None:
            return Sent.GONE
        self._network.send(self.life, caller.answers, lambda: caller.arrived(frame))
        return Sent.SENT

    async def attend(self, take: Callable[[Incoming], None]) -> None:
        self._take = take
        waits, self._waits = self._waits, []
        for incoming in waits:
            take(incoming)
        await _for_ever(self.life.loop)

    def close(self) -> None:
        """Nothing is to be closed: `Network.forget` does it."""


class FollowerEnd(_End):
    """A follower's link."""

    def __init__(self, life: Life) -> None:
        super().__init__(life)
        self.connection = Connection(life)


class FeedEnd:
    """A feed's link."""

    def __init__(self, network: Network, life: Life, endpoint: str) -> None:
        self._network, self._life, self._endpoint = network, life, endpoint

    def publish(self, topic: str, frame: bytes) -> None:
        for follower in self._network.followers(self._endpoint, topic):
            self._network.send(
                self._life,
                follower.connection,
                lambda follower=follower: follower.arrived(frame),  # type: ignore[misc]
            )

    async def attend(self) -> None:
        await _for_ever(self._life.loop)

    def close(self) -> None:
        """Nothing is to be closed: `Network.forget` does it."""


async def _for_ever(loop: asyncio.AbstractEventLoop) -> None:
    await loop.create_future()
