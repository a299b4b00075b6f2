"""A reaper in a made-up situation, for tests of `jitsu why`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from jitsu_protocol.messages import NotedClient, Report, Use, VmBoot, VmStatus, VmStop
from jitsu_protocol.model.inventory import VmChanged
from jitsu_protocol.model.states import VmState
from jitsu_reaper.rules.events import StateChanged, UsageReported, VmsConfigured
from jitsu_reaper.rules.reaper import Reaper
from tests.support.vms import make_vm

if TYPE_CHECKING:
    from jitsu_protocol.messages import Connected, WhyReport
    from jitsu_protocol.model.vm import VM

WWW = make_vm(ttl="60", idle_timeout="300")
NAME = "www.jitsu.test"
WALL = 1_000_000.0
"""Unix time when the reaper's own clock is at 0."""
TOKEN = "dns-0#abc-1"


class Ears:
    """The reporters that the reaper hears."""

    def __init__(self) -> None:
        self.store = True
        self.vmds = {"": True}

    def hears_store(self) -> bool:
        return self.store

    def hears_vmds(self) -> dict[str, bool]:
        return self.vmds


class Situation:
    """A reaper that started at 0, with one VM, and `now` at 1,000 s; a dns replica is heard every second."""

    def __init__(self, vm: VM = WWW, *, dns: bool = True) -> None:
        self.vm, self.now, self.ears = vm, 1000.0, Ears()
        self.reaper = Reaper(self.ears, 3.0, 0.0)
        self.recorded = self.reaper.recorder.recorded
        self._batch, self._dns = 0, dns
        self.reaper.handle(VmsConfigured([VmChanged(None, vm)]), 0.0)
        for second in range(1, 1001):
            if dns:
                self.report(at=float(second))
            self.reaper.tick(float(second))

    def report(self, at: float | None = None, **fields: Any) -> None:
        """Have a dns replica report."""
        at = self.now if at is None else at
        self._batch += 1
        known = {"replica": "dns-0", "instance": "i", "batch": self._batch, "lease_s": 300.0} | fields
        self.reaper.handle(UsageReported(Report.model_validate(known), WALL + at), at)

    def used(self, age_s: float, ttl: int = 60) -> None:
        """Have the replica report a query that was answered so long ago."""
        self.report(uses=[Use(self.vm.uuid, NAME, 1, age_s)], ttls=[ttl])

    def asked(self, age_s: float, what: str = "query", about: str = f"{NAME} A", **more: Any) -> None:
        """Have a client noticed."""
        reporter = {"replica": "dns-0"} | {key: more[key] for key in more if key in ("replica", "service", "host")}
        token, client = more.get("token", ""), more.get("client", "192.0.2.0/24")
        self.report(asked=[NotedClient(self.vm.uuid, token, what, about, client, age_s)], **reporter)  # type: ignore[arg-type]

    def connected(self, connected: Connected) -> None:
        """Have Synjitsu report who is connected; that counts as use now."""
        uses = [Use(self.vm.uuid, "", 0, 0.0)]
        self.report(replica="synjitsu", service="synjitsu", host="", uses=uses, connected=[connected])

    def state(self, state: VmState, age_s: float, **more: Any) -> None:
        """Have vmd publish a state."""
        status = VmStatus(uuid=self.vm.uuid, name=self.vm.name, state=state, state_age_s=age_s, **more)
        self.reaper.handle(StateChanged(status, wall=WALL + self.now), self.now)

    def ready(self, age_s: float, **more: Any) -> None:
        """Have vmd publish that it is ready, after a boot that a query caused."""
        self.state(VmState.READY, age_s, **({"boot": boot(age_s + 0.25)} | more))

    def why(self) -> WhyReport:
        """Look at everything, then ask."""
        self.reaper.tick(self.now)
        return self.reaper.recorder.why(self.vm.uuid, self.now, WALL + self.now)


def boot(age_s: float, **more: Any) -> VmBoot:
    """Return a boot that a query of dns-0 caused so long ago."""
    known = {"trigger": "dns", "by": TOKEN, "begun_mono": 5.0, "age_s": age_s, "took_s": 0.25} | more
    return VmBoot.model_validate(known)


def stop(why: str, age_s: float, **more: Any) -> VmStop:
    """Return a stop so long ago."""
    return VmStop.model_validate({"why": why, "begun_mono": 90.0, "age_s": age_s, "took_s": 0.5} | more)
