"""Peers that send what nobody should, for the fuzz of peers: each role's key, every kind of request, bodies mutated by
size, depth, type and count. A process of its own: `python -m
tests.support.hostile_peers KEYS SECONDS SEED OWNER=ENDPOINT...`.
"""

from __future__ import annotations

import asyncio
import random
import sys
import time
from pathlib import Path
from typing import Any

import msgpack
import zmq
import zmq.asyncio

from jitsu_protocol import messages
from jitsu_protocol.access import ROLES
from jitsu_protocol.curve import Curve
from jitsu_protocol.messages import Request

KINDS = sorted(
    {
        each.kind
        for each in vars(messages).values()
        if isinstance(each, type) and issubclass(each, Request) and each is not Request
    }
)
FIELDS = ("changes", "values", "uses", "vms", "leaves", "expect", "drains", "vm", "path", "author", "message", "branch")


def value(chance: random.Random, depth: int = 0) -> Any:
    """Return something that a field may not be."""
    match chance.randrange(9 if depth < 4 else 6):
        case 0:
            return chance.choice([None, True, -1, 2**63, 1.5, float("inf"), "", "x", b"\0"])
        case 1:
            return "x" * chance.choice([10, 1000, 70_000, 3_000_000])
        case 2:
            return [{}] * chance.choice([1, 1000, 300_000])
        case 3:
            return {str(n): str(n) for n in range(chance.choice([1, 100, 30_000]))}
        case 4:
            return [[1, 2, "x", -1]] * chance.choice([1, 1000, 30_000])
        case 5:
            return [{"path": "a/b", "value": 3}] * chance.choice([1, 1000, 30_000])
        case 6:
            return [value(chance, depth + 1) for _ in range(chance.randrange(4))]
        case 7:
            return {str(n): value(chance, depth + 1) for n in range(chance.randrange(4))}
        case _:
            nested: Any = "x"
            for _ in range(chance.choice([10, 500])):
                nested = [nested]
            return nested


def frame(chance: random.Random) -> bytes:
    """Return a request with a body that is wrong in some way."""
    fields = chance.sample(FIELDS, chance.randrange(1, 5))
    body = {field: value(chance) for field in fields}
    id = chance.randbytes(16)
    packed: bytes = msgpack.packb([[1, 1], chance.choice(KINDS), id, chance.choice([0.0, 1.0, 600.0]), body])
    if chance.random() < 0.2:
        packed = packed[: chance.randrange(len(packed))]
    if chance.random() < 0.02:
        packed += b"\0" * 40_000_000
    return packed


async def attack(keys: Path, role: str, owners: dict[str, str], seed: str, until: float) -> int:
    """Send to all owners what nobody should, and read what they answer; returns how many requests were sent."""
    chance, sent = random.Random(f"{seed} {role}"), 0
    context, tasks = zmq.asyncio.Context(), list[asyncio.Task[None]]()
    curve = Curve(context, keys, role, lambda work: tasks.append(asyncio.create_task(work)))
    sockets: list[Any] = []
    for owner, endpoint in owners.items():
        socket = context.socket(zmq.DEALER)
        socket.setsockopt(zmq.LINGER, 0)
        socket.setsockopt(zmq.SNDHWM, 4)
        curve.connect(socket, endpoint, owner, "")
        sockets.append(socket)
    while time.monotonic() < until:
        socket = chance.choice(sockets)
        if await socket.poll(50, zmq.POLLOUT):
            await socket.send(frame(chance))
            sent += 1
        for each in sockets:
            while await each.poll(0):
                await each.recv_multipart()
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    context.destroy(linger=0)
    return sent


async def main(keys: str, seconds: str, seed: str, *owners: str) -> None:
    """Attack with all roles at once, and print how many requests were sent."""
    endpoints = dict(each.split("=", 1) for each in owners)
    until = time.monotonic() + float(seconds)
    print(sum(await asyncio.gather(*(attack(Path(keys), role, endpoints, seed, until) for role in ROLES))))


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
