"""The answer to `jitsu why`: why a VM has booted, what keeps it up now, and when it stops.

The reasons are those of the policy itself (idle.py, vms.py, reporters.py), asked for one VM at one moment, so they
cannot differ from what the reaper does. What is recorded (recorded.py) adds who that was. These are the kinds:

    kind          the VM stays up because                               it is over
    unconfigured  the store does not have it, or not in a usable way    when the configuration changes
    held          an operator holds it                                  when that is released, or over
    kept          an operator keeps it up, or its schedule does         at the time that the reason names
    not-ready     it still starts or boots                              when it is ready, or has failed
    silence       not enough is heard to know that it is unused (G8)    when the reporter is back, or its lease over
    answers       an answer may still be within its TTL (G3)            when that TTL is over
    connections   clients are connected, or may be                      idle_timeout after the last one closes
    used          it was used within its idle_timeout                   when that is over
    started       the reaper, or a reporter, has just started           when idle_timeout has passed since
    retry         a drain came to nothing                               RETRY_S later
    draining      it is being drained just now: a use still saves it    within drain_limit
    turn          others of its host are drained first                  when one of those drains is over
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from jitsu_protocol.messages import WhyClient, WhyEvent, WhyPeer, WhyReason, WhyReport
from jitsu_protocol.model.errors import NotFound
from jitsu_protocol.model.states import VmState
from jitsu_reaper.rules import why_text
from jitsu_reaper.rules.recorded import VmRecord

if TYPE_CHECKING:
    from collections.abc import Iterator

    from jitsu_protocol.messages import VmStatus
    from jitsu_protocol.model.vm import VM
    from jitsu_reaper.rules.idle import Policy
    from jitsu_reaper.rules.recorded import Occurrence, Recorded

UP = frozenset({VmState.READY, VmState.DRAINING})
BOOTS = frozenset({VmState.STARTING, VmState.BOOTING})
SHOWN = 20
ENDLESS = frozenset({"unconfigured", "held", "kept", "not-ready", "silence", "connections"})
"""Of these reasons nobody can say when they are over."""


@dataclass(frozen=True)
class Moment:
    """Now, by both clocks."""

    now: float
    wall: float

    def wall_of(self, at: float) -> float:
        """Return the Unix time of a moment of the reaper's own clock."""
        return self.wall + at - self.now


class Explanation:
    """What is known of one VM at one moment."""

    def __init__(self, vm: str, policy: Policy, recorded: Recorded, moment: Moment) -> None:
        """Raises NotFound if nothing is known of it."""
        self.vm, self.moment = vm, moment
        self.status: VmStatus | None = policy.vms.states.get(vm)
        self.configured: VM | None = policy.vms.configured.get(vm)
        if self.status is None and self.configured is None:
            raise NotFound(f"nothing is known of a VM {vm[:64]!r}", hint="`jitsu status` lists the VMs")
        self.record = recorded.vms.get(vm) or VmRecord()
        self.connected = recorded.connections_of(vm, moment.wall)
        self.refusals = recorded.refusals.get(vm, [])
        self.heard_ago = recorded.heard_ago(vm, moment.wall)
        self.policy = policy
        self.host = policy.vms.host_of(vm)

    @property
    def name(self) -> str:
        """The VM's name."""
        return self.policy.vms.name_of(self.vm)

    @property
    def state(self) -> VmState:
        """Its state, as far as its vmd is heard."""
        return VmState.UNKNOWN if self.status is None else self.status.state

    def report(self) -> WhyReport:
        """Return the answer."""
        reasons = list(self.reasons())
        stops = self.stops_at(reasons)
        error = "" if self.status is None else self.status.last_error
        events = [_event(each) for each in reversed(self.record.events)][:SHOWN]
        return WhyReport(
            vm=self.vm,
            name=self.name,
            state=self.state.value,
            why_booted=why_text.why_booted(self, events),
            why_up=why_text.why_up(self, reasons, events),
            when_stops=why_text.when_stops(self, reasons, stops),
            reasons=reasons,
            stops_ts=stops,
            clients=self.clients(),
            connections=self.peers(),
            connections_open=0 if self.connected is None else self.connected.open,
            events=events,
            last_error=error,
            last_error_ts=self._error_ts(events) if error else None,
        )

    def clients(self) -> list[WhyClient]:
        """Return the clients that were noticed last, the latest first."""
        found = [WhyClient(**key._asdict(), ts=at.ts, count=at.times) for key, at in self.record.clients.items()]
        return sorted(found, key=lambda each: -each.ts)

    def peers(self) -> list[WhyPeer]:
        """Return those that are connected."""
        peers = () if self.connected is None else self.connected.peers
        return [WhyPeer(client=each.client, about=each.about, count=each.count) for each in peers]

    def stops_at(self, reasons: list[WhyReason]) -> float | None:
        """Return the Unix time at which the VM is stopped unless something happens; None if that is not known."""
        if self.state not in UP or any(reason.kind in ENDLESS for reason in reasons):
            return None
        return max([self.moment.wall, *(reason.until_ts for reason in reasons if reason.until_ts is not None)])

    # --- what keeps it up ---

    def reasons(self) -> Iterator[WhyReason]:
        """Yield why it is not stopped now; nothing if it does not run."""
        status, configured = self.status, self.configured
        if status is None or self.state not in UP | BOOTS:
            return
        if configured is None:
            yield WhyReason(kind="unconfigured", text="the configuration has no VM of this UUID that can be used")
            return
        if self.state in BOOTS:
            yield WhyReason(kind="not-ready", text="it still boots, and only a VM that is ready is stopped when idle")
        if status.hold:
            yield WhyReason(kind="held", text=f"it is {status.hold}")
        if status.kept:
            yield WhyReason(kind="kept", text=f"it is {status.kept}")
        yield from self._silence()
        if self.state not in UP:
            return
        found = [*self._answers(), *self._connections(), *self._use(configured), *self._retry()]
        yield from found
        if self.state is VmState.DRAINING or self.vm in self.policy.vms.draining:
            yield WhyReason(kind="draining", text="it is being drained at this moment, and a use still saves it")
        elif not found and self.policy.is_busy(self.host):
            yield WhyReason(kind="turn", text="as many VMs of its host as may be are being drained, and it is next")

    def _silence(self) -> Iterator[WhyReason]:
        reporters, obstacles, now = self.policy.usage.reporters, self.policy.obstacles, self.moment.now
        if reporters.listens(now):
            yield WhyReason(kind="silence", text="the reaper was suspended, and listens for a moment before it decides")
        for why in (obstacles.everywhere, obstacles.on_host.get(self.host, "")):
            if why:
                text = f"the reaper does not know enough to stop anything: {why}"
                yield WhyReason(kind="silence", text=text, until_ts=self._lease_ends())
                return

    def _lease_ends(self) -> float | None:
        """Return when the leases of all silent reporters of this host are over."""
        silent = self.policy.usage.reporters.silent(self.moment.now).values()
        ends = [each.heard_at + each.lease_s for each in silent if each.is_about(self.host)]
        return self.moment.wall_of(max(ends)) if ends else None

    def _answers(self) -> Iterator[WhyReason]:
        until, now = self.policy.usage.answers_until(self.vm), self.moment.now
        if until > now:
            text = f"an answer that was given for it is valid for {why_text.spoken(until - now)} more"
            yield WhyReason(kind="answers", text=text, until_ts=self.moment.wall_of(until))

    def _connections(self) -> Iterator[WhyReason]:
        if self.connected is None:
            return
        if self.connected.open:
            yield WhyReason(kind="connections", text=why_text.connections(self.connected))
        if self.connected.unseen:
            text = "clients may be connected to it, because Synjitsu did not see all of its connections begin"
            yield WhyReason(kind="connections", text=text)

    def _use(self, configured: VM) -> Iterator[WhyReason]:
        usage, now, timeout = self.policy.usage, self.moment.now, configured.idle_timeout
        used = usage.used_at(self.vm)
        floor, why = usage.reporters.used_until(self.host), usage.reporters.why_used(self.host)
        after = f"and it may be idle for {why_text.spoken(timeout)}"
        if used is not None and used + timeout > now and used >= floor:
            text = f"it was used {why_text.spoken(max(now - used, 0.0))} ago, {after}"
            yield WhyReason(kind="used", text=text, until_ts=self.moment.wall_of(used + timeout))
        ends = max(floor + timeout, usage.valid_until(self.vm, self.host))
        if (used is None or used < floor) and ends > now:
            text = f"{why} {why_text.spoken(max(now - floor, 0.0))} ago, so that it counts as used then, {after}"
            yield WhyReason(kind="started", text=text, until_ts=self.moment.wall_of(ends))

    def _retry(self) -> Iterator[WhyReason]:
        until, now = self.policy.vms.not_before.get(self.vm, 0.0), self.moment.now
        if until > now:
            last = f" ({self.refusals[-1].reason})" if self.refusals else ""
            text = f"a stop came to nothing{last}, and it is tried again in {why_text.spoken(until - now)}"
            yield WhyReason(kind="retry", text=text, until_ts=self.moment.wall_of(until))

    def _error_ts(self, events: list[WhyEvent]) -> float | None:
        failed = next((each for each in events if each.outcome.startswith("failed") or each.cause == "crashed"), None)
        return None if failed is None else failed.ts + (failed.took_s or 0.0)


def _event(occurrence: Occurrence) -> WhyEvent:
    return WhyEvent(
        what="boot" if occurrence.what == "boot" else "stop",
        ts=occurrence.ts,
        cause=occurrence.cause,
        decided_by=occurrence.by,
        about=occurrence.about,
        client=occurrence.client,
        took_s=occurrence.took_s,
        outcome=occurrence.outcome,
    )
