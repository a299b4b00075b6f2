"""Peers that send what nobody should, for the fuzz of peers: each role's key, every kind of request to every service,
and subscriptions to feeds. A process of its own, which prints what became of its requests as JSON:
`python -m tests.support.hostile_peers DIRECTORY SECONDS SEED`, where plan.json in the directory says the rest.

First each role sends each kind once to each service, with a right body; then all at once, in any order, right and wrong
bodies, envelopes that are wrong too, and frames that are cut. A kind that a role may send and that has not been
carried out yet is sent again and again, after what it needs: a VM that is up before it is drained.
"""

from __future__ import annotations

import asyncio
import json
import random
import sys
import time
from collections import Counter, OrderedDict
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgpack
import zmq
import zmq.asyncio

from jitsu_protocol.model.errors import Forbidden
from jitsu_protocol.wire import permissions as access
from jitsu_protocol.wire.permissions import ROLES
from jitsu_runtime.bus.curve import Curve
from tests.support.hostile_bodies import CLASSES, Bodies

CARRIED_OUT = "carried out"
TORN = "torn"
"""In place of the kind, for a request whose envelope is wrong: whatever is answered is right."""
COSTLY = frozenset({"store.push", "store.pull", "store.fetch", "store.merge", "store.diff", "store.changes"})
"""Each takes a process or a walk through the history: an operator's key may ask for that, but fewer of them leave time
for the others."""
DRAIN_ENDS = ("vmd.stop-drained", "vmd.cancel-drain")
MAX_WAITING = 20_000
MISSING_S, SUMMON_S = 0.05, 1.0
LISTEN_S = 2.0
"""After the last request."""
SUBSCRIPTIONS = (b"", b"vm\0", b"stats\0", b"heads\0", b"vm", b"\0", b"x" * 900, b"x" * 20_000)


def owner_of(kind: str) -> str:
    """Return who answers a kind of request; "" is every service."""
    return "" if kind == "ping" else kind.partition(".")[0]


def may(role: str, kind: str) -> bool:
    """Say whether a role's key may send a kind of request."""
    try:
        access.check(role, kind)
    except Forbidden:
        return False
    return True


@dataclass
class Plan:
    """What is attacked."""

    keys: str
    owners: dict[str, str]
    """Owner -> its rpc endpoint."""
    feeds: dict[str, str]
    stable: list[str]
    clay: list[str]
    honest: list[str]
    """VMs of others, which the attackers let alone."""
    remote: str


@dataclass
class Attack:
    """All roles of one process, what they send and what they hear."""

    plan: Plan
    seed: str
    sent: int = 0
    outcomes: Counter[tuple[str, str, str, str]] = field(default_factory=Counter)
    """(role, owner, kind, outcome) -> how often."""
    bugs: dict[str, str] = field(default_factory=dict)
    """Kind -> what an owner said that did not foresee what it was sent."""

    def __post_init__(self) -> None:
        """Know nothing yet."""
        self.chance = random.Random(self.seed)
        self.bodies = Bodies(self.chance, self.plan.stable, self.plan.clay, self.plan.remote)
        self._waiting: OrderedDict[bytes, tuple[str, str, str, dict[str, Any]]] = OrderedDict()
        self.todo = {
            (role, owner, kind)
            for role in ROLES
            for owner in self.plan.owners
            for kind in CLASSES
            if may(role, kind) and owner_of(kind) in ("", owner)
        }
        """What has not been carried out yet, though it may be."""
        self.unheard = {(role, owner, kind) for role in ROLES for owner in self.plan.owners for kind in CLASSES}
        """What has not been answered yet; a connection that was cut has lost its answers."""

    def request(self, role: str, owner: str, kind: str, *, right: bool = True, **fields: Any) -> bytes:
        """Return a request, and remember it until it is answered."""
        body = (self.bodies.right(kind, role) if right else self.bodies.wrong(kind, role)) | fields
        id = self.chance.randbytes(16)
        timeout = self.chance.choice([0.0, 1.0, 10.0, 600.0]) if not right else 30.0
        packed: bytes = msgpack.packb([[1, 2], kind, id, timeout, body])
        self._remember(id, role, owner, kind, body)
        return packed

    def torn(self, role: str, owner: str) -> bytes:
        """Return a request whose envelope is wrong, or that is cut, or nested deeper than can be packed."""
        chance, id = self.chance, self.chance.randbytes(16)
        self._remember(id, role, owner, TORN, {})
        kind = chance.choice(sorted(CLASSES))
        parts: list[Any] = [[1, 2], kind, id, 1.0, self.bodies.wrong(kind, role)]
        packed: bytes = msgpack.packb(parts)
        match chance.randrange(5):
            case 0:
                return packed[: chance.randrange(len(packed))]
            case 1:
                return packed[:-1] + b"\x91" * chance.choice([1000, 60_000, 3_000_000]) + b"\xc0"
            case 2:
                large = 40_000_000 if chance.random() < 0.05 else 1000
                return packed + b"\0" * chance.choice([1, 60_000, large])
            case 3:
                parts[chance.randrange(5)] = chance.choice([None, -1, "x" * 70_000, [9, 9], {}, 1e300, [{}] * 1000])
                return bytes(msgpack.packb(parts))
            case _:
                return chance.randbytes(chance.choice([0, 1, 5, 100, 60_000]))

    def _remember(self, id: bytes, role: str, owner: str, kind: str, body: dict[str, Any]) -> None:
        self._waiting[id] = (role, owner, kind, body)
        if len(self._waiting) > MAX_WAITING:
            self._waiting.popitem(last=False)

    def heard(self, frame: bytes) -> str:
        """Count a reply; return the kind of the request, if it was carried out."""
        _, reply_kind, id, _, reply = msgpack.unpackb(frame)
        role, owner, kind, body = self._waiting.pop(id, ("", "", "", {}))
        outcome = reply["code"] if reply_kind == "error" else CARRIED_OUT
        self.outcomes[role, owner, kind, outcome] += 1
        self.unheard.discard((role, owner, kind))
        if outcome == "bug":
            self.bugs.setdefault(kind, f"{reply['message']} for {str(body)[:300]}")
        elif outcome == CARRIED_OUT:
            self.todo.discard((role, owner, kind))
            if kind not in ("", TORN):
                self.bodies.learn(kind, body, reply)
            return kind
        return ""


def _as_role(plan: Plan, role: str) -> tuple[zmq.asyncio.Context, Curve, list[asyncio.Task[None]]]:
    """Return what makes sockets with a role's key, and the tasks that this needs."""
    context, tasks = zmq.asyncio.Context(), list[asyncio.Task[None]]()
    return context, Curve(context, Path(plan.keys), role, lambda work: tasks.append(asyncio.create_task(work))), tasks


class Peer:
    """The sockets of one role."""

    def __init__(self, attack: Attack, role: str) -> None:
        self._attack, self._role = attack, role
        self._context, self._curve, self._tasks = _as_role(attack.plan, role)
        self._talks = {owner: self._connected(owner) for owner in attack.plan.owners}
        self._mute = {owner: self._connected(owner) for owner in attack.plan.owners}
        """Those over which replies are asked for and never read."""

    def _connected(self, owner: str) -> Any:
        socket = self._context.socket(zmq.DEALER)
        socket.setsockopt(zmq.LINGER, 0)
        socket.setsockopt(zmq.SNDHWM, 4)
        socket.setsockopt(zmq.RCVHWM, 0)  # libzmq 4.3.5 may abort a process whose sockets are full (sockets.py)
        self._curve.connect(socket, self._attack.plan.owners[owner], owner, "")
        return socket

    async def send(self, owner: str, frame: bytes, *, mute: bool = False, patience_ms: int = 50) -> None:
        """Send a frame if the owner takes it."""
        socket = (self._mute if mute else self._talks)[owner]
        if await socket.poll(patience_ms, zmq.POLLOUT):
            await socket.send(frame)
            self._attack.sent += 1

    async def _listen(self, socket: Any) -> None:
        """Read replies; a drain that was begun is ended at once, before a summons saves the VM."""
        while True:
            kind = self._attack.heard((await socket.recv_multipart())[-1])
            if kind == "vmd.drain":
                is_missing = any(kind == "vmd.stop-drained" for _, _, kind in self._attack.todo)
                end = "vmd.stop-drained" if is_missing else self._attack.chance.choice(DRAIN_ENDS)
                await self.send("vmd", self._attack.request(self._role, "vmd", end))

    async def run(self, until: float) -> None:
        """Attack."""
        self._tasks += [asyncio.create_task(self._listen(socket)) for socket in self._talks.values()]
        attack, chance = self._attack, self._attack.chance
        for kind in CLASSES:
            for owner in attack.plan.owners:
                await self.send(owner, attack.request(self._role, owner, kind), patience_ms=10_000)
        missing = asyncio.create_task(self._send_what_is_missing(until))
        while time.monotonic() < until:
            owner = chance.choice(list(attack.plan.owners))
            if chance.random() < 0.1:
                await self.send(owner, attack.torn(self._role, owner))
                continue
            kind = chance.choice([*CLASSES, *(kind for kind in CLASSES if owner_of(kind) == owner)])
            if kind in COSTLY and chance.random() < 0.9:
                continue
            mute = kind != "ping" and chance.random() < 0.05
            await self.send(owner, attack.request(self._role, owner, kind, right=chance.random() < 0.3), mute=mute)
        await missing
        await asyncio.wait(self._tasks, timeout=LISTEN_S)

    async def _send_what_is_missing(self, until: float) -> None:
        """Send again what has not been carried out, and before that what it needs."""
        attack, summon_at, unheard_at = self._attack, 0.0, time.monotonic() + LISTEN_S
        while time.monotonic() < until:
            await asyncio.sleep(MISSING_S)
            if self._role == "operator" and time.monotonic() > summon_at:
                summon_at = time.monotonic() + SUMMON_S
                await self.send("vmd", attack.request("operator", "vmd", "vmd.summon", vm=attack.bodies.quiet))
            missing = attack.todo
            if time.monotonic() > unheard_at:
                unheard_at = time.monotonic() + LISTEN_S
                missing = attack.todo | attack.unheard
            for role, owner, kind in sorted(missing):
                if role == self._role:
                    await self.send(owner, attack.request(role, owner, kind))
                elif self._role == "reaper" and kind in ("vmd.stop-drained", "vmd.cancel-drain"):
                    await self.send("vmd", attack.request("reaper", "vmd", "vmd.drain"))

    async def close(self) -> None:
        """Leave."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._context.destroy(linger=0)


async def subscribe(attack: Attack, role: str, until: float) -> None:
    """Subscribe to what there is and what there is not, at any length, and read nothing; leave and come again."""
    chance = attack.chance
    while time.monotonic() < until:
        context, curve, tasks = _as_role(attack.plan, role)
        sockets: list[Any] = []
        for owner, endpoint in attack.plan.feeds.items():
            socket = context.socket(zmq.XSUB)
            socket.setsockopt(zmq.LINGER, 0)
            socket.setsockopt(zmq.RCVHWM, 0)
            curve.connect(socket, endpoint, owner, "")
            sockets.append(socket)
        again = time.monotonic() + chance.choice([0.5, 3.0])
        while time.monotonic() < min(until, again):
            socket = chance.choice(sockets)
            for _ in range(chance.choice([1, 10, 60])):
                topic = chance.choice([*SUBSCRIPTIONS, chance.randbytes(chance.choice([4, 40, 1000]))])
                if await socket.poll(10, zmq.POLLOUT):
                    await socket.send(chance.choice([b"\1", b"\1", b"\1", b"\0", b"\2", b""]) + topic)
            await asyncio.sleep(0.05)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        context.destroy(linger=0)


async def main(directory: str, seconds: str, seed: str) -> None:
    """Attack with all roles at once, and print what became of it."""
    attack = Attack(Plan(**json.loads(Path(directory, "plan.json").read_text())), seed)
    until = time.monotonic() + float(seconds)
    peers = [Peer(attack, role) for role in ROLES]
    await asyncio.gather(*(peer.run(until) for peer in peers), *(subscribe(attack, role, until) for role in ROLES))
    for peer in peers:
        await peer.close()
    outcomes = [[*key, count] for key, count in sorted(attack.outcomes.items())]
    print(json.dumps({"sent": attack.sent, "outcomes": outcomes, "bugs": attack.bugs}))


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
