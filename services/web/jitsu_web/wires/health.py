"""Whether the other services answer: each is pinged once in a while, however many pages are open."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from jitsu_protocol import __version__
from jitsu_protocol.messages import Leaves, List, Ping, Pong
from jitsu_protocol.model.errors import JitsuError
from jitsu_protocol.model.vm import REPLICA_ROOT
from jitsu_protocol.rows import below
from jitsu_runtime.clock import sleep
from jitsu_web.rules.events import ServiceEvent

if TYPE_CHECKING:
    from jitsu_runtime.world import Caller, World
    from jitsu_web.wires.hub import Hub

LOOK_S = 2.0
PING_S = 1.5
REPLICA_KEYS = ("address", "service", "host")


class SuiteHealth:
    """What each service has said about itself last."""

    def __init__(self, world: World, hub: Hub, store: Caller, vmds: dict[str, Caller], reaper: Caller) -> None:
        self._world = world
        self._hub = hub
        self._store = store
        self._callers: dict[tuple[str, str], Caller] = {("store", ""): store}
        self._callers |= {("vmd", host): caller for host, caller in vmds.items()}
        self._callers |= {("synjitsu", ""): world.client("synjitsu"), ("reaper", ""): reaper}
        self._services: dict[str, dict[str, Any]] = {}
        self._heard_at: dict[str, float] = {}
        self._replicas: dict[str, dict[str, Any]] = {}

    def start(self) -> None:
        """Begin to look."""
        self._world.spawn(self._look_for_ever(), "health")

    def services(self) -> list[dict[str, Any]]:
        """Return each service and dns replica."""
        now = self._world.clock.now()
        found = [{**each, "lag_s": self._lag(each["name"], now)} for each in self._services.values()]
        return [*found, self._own(), *self._replicas.values()]

    def _own(self) -> dict[str, Any]:
        return {**_unheard("web", "web"), "answers": True, "version": __version__, "lag_s": 0.0}

    def _lag(self, name: str, now: float) -> float | None:
        return round(now - self._heard_at[name], 3) if name in self._heard_at else None

    async def _look_for_ever(self) -> None:
        while True:
            await asyncio.gather(*(self._look(*key) for key in self._callers), self._look_for_replicas())
            await sleep(self._world.clock, LOOK_S)

    async def _look(self, owner: str, host: str) -> None:
        name = f"{owner} of {host}" if host else owner
        try:
            pong = await self._callers[owner, host].call(Ping(), Pong, PING_S)
        except JitsuError:
            found = {**self._services.get(name, _unheard(name, owner)), "answers": False}
        else:
            self._heard_at[name] = self._world.clock.now()
            found = {
                "name": name,
                "role": owner,
                "answers": True,
                "version": pong.version,
                "pid": pong.pid,
                "uptime_s": pong.uptime_s,
                "notes": pong.notes,
                "lag_s": 0.0,
            }
        before = self._services.get(name)
        self._services[name] = found
        if _is_news(before, found):
            self._hub.publish([ServiceEvent(found)])

    async def _look_for_replicas(self) -> None:
        """Read which reporters the reaper has registered."""
        try:
            read = await self._store.call(List(prefix=REPLICA_ROOT, topic="stats"), Leaves, PING_S)
        except JitsuError:
            return
        self._replicas = {
            name: {
                **_unheard(name, "dns"),
                "answers": True,
                "notes": [f"{key} {own[key]}" for key in REPLICA_KEYS if own.get(key)],
            }
            for name, own in sorted(below(read.leaves, REPLICA_ROOT).items())
            if own.get("service", "dns") == "dns"
        }


def _unheard(name: str, role: str) -> dict[str, Any]:
    return {
        "name": name,
        "role": role,
        "answers": False,
        "version": "",
        "pid": None,
        "uptime_s": None,
        "notes": [],
        "lag_s": None,
    }


def _is_news(before: dict[str, Any] | None, found: dict[str, Any]) -> bool:
    keys = ("answers", "version", "pid", "notes")
    return before is None or any(before[key] != found[key] for key in keys)
