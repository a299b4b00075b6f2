"""Asks other services in the name of whoever asked us: each call has a limit, and each change names its user."""

from __future__ import annotations

import asyncio
import re
import secrets
from typing import TYPE_CHECKING, Any, TypeVar

import structlog

from jitsu_protocol.messages import (
    MASTER,
    Applied,
    Apply,
    Check,
    Checked,
    Diff,
    Difference,
    Done,
    Leaves,
    List,
    Message,
    OperatorStop,
    Summon,
    Summoned,
    Why,
    WhyReport,
)
from jitsu_protocol.model.errors import Conflict, Invalid, JitsuError, TimedOut, Unavailable
from jitsu_web.rules.problems import HttpProblem

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence

    from jitsu_protocol.messages import Change, Request
    from jitsu_runtime.world import World
    from jitsu_web.rules.callers import ApiCaller
    from jitsu_web.wires.live import Live

R = TypeVar("R", bound=Message)

CALL_S = 30.0
"""A question about the past may make the store read through a long history."""
SILENT_S = 2.0
"""The limit for a service that is not heard: it may be about to come back."""
LOOK_S = 0.25
MAX_TAGS = 5
MAX_SEARCHES = 2
"""At most this many users at once may have the store search its past, or hypervisors list all that they have."""
CHECK_S = 5.0
HAND_S = 130.0
"""A start or stop by hand may last as long as the hypervisor's own limits."""

log = structlog.get_logger("web")


async def while_heard(call: Coroutine[Any, Any, R], is_heard: Callable[[], bool], who: str) -> R:
    """Return the reply to a call; raises Unavailable when the service has not been heard for SILENT_S in a row."""
    waiting = asyncio.ensure_future(call)
    try:
        silent_s = 0.0
        while not (await asyncio.wait({waiting}, timeout=LOOK_S))[0]:
            silent_s = 0.0 if is_heard() else silent_s + LOOK_S
            if silent_s >= SILENT_S:
                raise Unavailable(f"{who} is not heard", hint="`jitsu status` shows what runs; try again when it does")
        return waiting.result()
    finally:
        waiting.cancel()


class Asker:
    """The other services."""

    def __init__(self, world: World, live: Live) -> None:
        self._live = live
        self._store, self._vmds = live.store, live.vmds
        self.reaper = world.client("reaper")
        self.searches = asyncio.Semaphore(MAX_SEARCHES)
        self._hand = world.metrics.counter("asked_by_hand", "Starts and stops that users have asked for.", ["what"])

    @property
    def hosts(self) -> Iterable[str]:
        """The hosts that have a vmd."""
        return self._vmds.keys()

    async def store(self, request: Request, reply: type[R]) -> R:
        """Ask the store; raises JitsuError."""
        return await while_heard(self._store.call(request, reply, CALL_S), self._live.hears_store, "the store")

    async def vmd(self, host: str, request: Request, reply: type[R], timeout: float = CALL_S) -> R:
        """Ask the vmd of a host; raises JitsuError."""
        if host not in self._vmds:
            raise Unavailable(f"no vmd of the host {host!r} is configured", hint="see bus.hosts in jitsu.toml")
        who = f"the vmd of {host}" if host else "vmd"
        return await while_heard(
            self._vmds[host].call(request, reply, timeout), lambda: self._live.hears_vmds().get(host, False), who
        )

    async def leaves(self, prefix: str, branch: str = MASTER) -> Leaves:
        """Return the leaves below a path."""
        return await self.store(List(prefix=prefix, branch=branch), Leaves)

    async def why(self, uuid: str) -> WhyReport:
        """Ask the reaper why a VM is up; raises JitsuError."""
        return await self.reaper.call(Why(vm=uuid), WhyReport, SILENT_S)

    # --- changes ---

    async def apply(
        self,
        caller: ApiCaller,
        changes: Sequence[Change],
        message: str,
        branch: str = MASTER,
        expect: Mapping[str, str | None] | None = None,
    ) -> Applied:
        """Commit changes; raises Conflict if a value of `expect` is another one now."""
        request = Apply(
            changes=list(changes),
            author=caller.identity,
            message=message,
            request=secrets.token_hex(8),
            branch=branch,
            expect=dict(expect or {}),
        )
        return await self.store(request, Applied)

    async def check_match(self, if_match: str, prefix: str, branch: str = MASTER) -> None:
        """Raise HttpProblem if what is below a path has changed since one of the commits in an If-Match header."""
        if not if_match or if_match.strip() == "*":
            return
        for tag in re.findall(r'"([0-9a-f]{4,64})"', if_match)[:MAX_TAGS]:
            try:
                found = await self.store(Diff(old=tag, new=branch, prefix=prefix), Difference)
            except JitsuError as error:
                if isinstance(error, Unavailable):
                    raise
                continue
            if not found.changes:
                return
        raise HttpProblem(412, f"{prefix or 'the tree'} is no longer as it was", "read it again, then decide")

    async def check(self, host: str, vm: str, leaves: Mapping[str, str]) -> Checked:
        """Return what the hypervisor says about a VM's configuration; raises Invalid if it could not run it."""
        try:
            checked = await self.vmd(host, Check(vms={vm: dict(leaves)}), Checked, CHECK_S)
        except Unavailable as error:
            log.info("not checked whether a hypervisor can run it", vm=vm, reason=str(error))
            return Checked(refusals={}, writes_to_disk={})
        if vm in checked.refusals:
            raise Invalid(checked.refusals[vm], hint="with ?force=true it is done all the same")
        return checked

    # --- by hand ---

    async def start(self, caller: ApiCaller, uuid: str, host: str, wait_s: float) -> bool:
        """Start a VM; return whether it may be reached already. It goes on starting if `wait_s` is over."""
        self._hand.labels("start").inc()
        request = Summon(vm=uuid, trigger="operator", by=caller.identity)
        log.info("start", vm=uuid, by=caller.identity)
        return await self._by_hand(host, request, Summoned, wait_s)

    async def stop(self, caller: ApiCaller, uuid: str, host: str, wait_s: float) -> bool:
        """Stop a VM, whoever uses it; return whether it has stopped."""
        self._hand.labels("stop").inc()
        log.info("stop", vm=uuid, by=caller.identity)
        return await self._by_hand(host, OperatorStop(vm=uuid, by=caller.identity), Done, wait_s)

    async def _by_hand(self, host: str, request: Request, reply: type[Message], wait_s: float) -> bool:
        if not self._live.hears_vmds().get(host, False):
            raise Unavailable(
                f"the vmd{f' of {host}' if host else ''} is not heard", hint="`jitsu status` shows what runs"
            )
        try:
            await self.vmd(host, request, reply, wait_s)
        except TimedOut:
            return False
        return True


def conflict_is_a_precondition(error: Conflict) -> HttpProblem:
    """Return the problem that a failed precondition of a change is."""
    return HttpProblem(412, error.message, error.hint or "read it again, then decide", details=error.details)
