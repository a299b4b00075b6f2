"""What vmd publishes about each VM: its status on the feed, and a line in the log."""

from __future__ import annotations

from typing import TYPE_CHECKING

from jitsu_protocol.messages import VmStateChanged, VmStatus
from jitsu_protocol.model.states import VmState
from jitsu_vmd.wires.history import log_state
from jitsu_vmd.wires.passing import PASSED_THROUGH, Passing

if TYPE_CHECKING:
    from jitsu_runtime.world import Feed, World
    from jitsu_vmd.rules.fleet import Fleet
    from jitsu_vmd.rules.summon import VmMachine
    from jitsu_vmd.wires.seen import Sightings


class Statuses:
    """The statuses of all VMs."""

    def __init__(self, world: World, feed: Feed, fleet: Fleet, seen: Sightings) -> None:
        self.feed = feed
        self._host, self._clock = world.host, world.clock
        self._fleet = fleet
        self._seen = seen
        self._passing = Passing(lambda vm: self.publish(fleet.machines[vm]), world.clock)

    def changed(self, machine: VmMachine) -> None:
        """Publish and log that a VM has changed; a state that it only passes through is published later."""
        if machine.state in PASSED_THROUGH:
            self._passing.add(machine.vm.uuid)
        else:
            self.publish(machine)
        log_state(machine, is_news=self._fleet.is_complete)

    def publish(self, machine: VmMachine, *, gone: bool = False) -> None:
        """Publish a VM as it is now."""
        self._passing.drop(machine.vm.uuid)
        if self._fleet.is_complete:  # before that, nobody has had a snapshot that this would change
            self.feed.publish("vm", VmStateChanged(vm=self.status(machine), gone=gone))

    def all(self) -> list[VmStatus]:
        """Return the status of each VM."""
        return [self.status(machine) for machine in self._fleet.machines.values()]

    def status(self, machine: VmMachine) -> VmStatus:
        """Return the status of a VM."""
        now, vm, boot, runs = self._clock.now(), machine.vm, machine.boot, machine.runs()
        wait = machine.backoff.wait(now)
        shortage = self._fleet.admission.awaited(vm.uuid)
        nic = self._seen.nic(vm)
        return VmStatus(
            uuid=vm.uuid,
            name=vm.name,
            state=machine.state,
            host=self._host,
            drain=machine.drains.current,
            state_age_s=now - machine.since,
            up_s=now - boot.started_at if runs and boot.started_at is not None else None,
            idle_s=now - machine.usage.used_at if runs else None,
            starts=machine.summons.starts,
            last_error=machine.error
            or self._seen.note(vm.uuid)
            or str(self._fleet.refusals.get(vm.uuid, ""))
            or machine.terms.unwanted(),
            addresses=machine.addresses() if runs else [],
            mac=nic.mac,
            bridge=nic.bridge,
            interface=nic.interface if runs or machine.state is VmState.PAUSED else "",
            retry_after_s=wait if wait > 0 else None,
            waits_for="" if shortage is None else shortage.reason,
            wants_room=shortage is not None and shortage.needs_stop,
            hold=machine.terms.orders.hold,
            kept=machine.terms.orders.kept,
            asleep=machine.terms.orders.asleep,
            boot=machine.summons.causes.boot_at(now),
            stop=machine.summons.causes.stop_at(now),
        )
