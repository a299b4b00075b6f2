"""vmd's rpc and feed: performs what the machines in rules/summon.py ask for, and feeds them what happens."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from functools import partial
from time import monotonic
from typing import TYPE_CHECKING, Any

import structlog

from jitsu_protocol.messages import (
    CancelDrain,
    Check,
    Checked,
    Disarm,
    Done,
    Drain,
    Draining,
    HandedOver,
    ListVms,
    Message,
    OperatorStop,
    StartDiscarding,
    StopDrained,
    Summon,
    Trace,
    VmList,
    VmStateChanged,
    VmStatus,
)
from jitsu_protocol.model.errors import JitsuError, NotFound, Unavailable
from jitsu_protocol.model.guests import is_found_elsewhere
from jitsu_protocol.model.inventory import on_host
from jitsu_protocol.model.states import AT_REST, VmState
from jitsu_protocol.model.vm import VM, InvalidVm, from_tree
from jitsu_protocol.model.vm_keys import HandoverKind
from jitsu_runtime.driver import Alarm
from jitsu_vmd.rules import events
from jitsu_vmd.rules.room import PATIENCE_S, Lack, Room, memory
from jitsu_vmd.rules.summon import VmMachine
from jitsu_vmd.rules.vm.parts import Terms
from jitsu_vmd.wires.held import ArmPatience, arm_request, nic_of_next_start
from jitsu_vmd.wires.history import History, log_state
from jitsu_vmd.wires.holds import Holds
from jitsu_vmd.wires.hypervisors import failure
from jitsu_vmd.wires.learn import learn
from jitsu_vmd.wires.looks import Looks
from jitsu_vmd.wires.passing import PASSED_THROUGH, Passing
from jitsu_vmd.wires.probe import wait_for_port
from jitsu_vmd.wires.seen import Seen
from jitsu_vmd.wires.started import Started, address_held, log_difference
from jitsu_vmd.wires.statistics import Statistics
from jitsu_vmd.wires.waiting import Waiting

if TYPE_CHECKING:
    from collections.abc import Awaitable, Coroutine, Sequence

    from jitsu_protocol.messages import Request
    from jitsu_protocol.model.inventory import VmChanged
    from jitsu_protocol.model.vm_keys import StopMode
    from jitsu_runtime.settings.load import Settings
    from jitsu_runtime.world import Caller, Feed, Handler, World
    from jitsu_vmd.hypervisor import Guest
    from jitsu_vmd.wires.hypervisors import Hypervisors

UNKNOWN_VM_WAIT_S = 0.5
"""dns may hear of a new VM some milliseconds before vmd does."""
TELL_TIMEOUT_S = 30.0
TELL_LACK_S = 0.1
REARM_S = 1.0

log = structlog.get_logger("vmd")


class VmDaemon:
    """All VMs of one hypervisor."""

    def __init__(self, process: World, hypervisors: Hypervisors, feed: Feed) -> None:
        self._process = process
        self._hypervisors = hypervisors
        self._feed = feed
        self._store: Caller = process.client("store")
        self._synjitsu: Caller = process.client("synjitsu")
        self._machines: dict[str, VmMachine] = {}
        self._waiting = Waiting()
        self._alarms: dict[str, Alarm] = {}
        self._watches: dict[str, asyncio.Task[None]] = {}
        self.statistics = Statistics(self._store, self._spawn)
        self._complete = asyncio.Event()  # all VMs are known, and have been looked at
        self.looks = Looks(hypervisors, self._machines, self._found)
        self._configured = asyncio.Event()
        self._settled: dict[str, list[asyncio.Future[None]]] = {}
        limits = process.settings.hypervisor
        self._room = Room(limits.max_booting, limits.max_running, limits.max_memory)
        host = f"-{process.host}" if process.host else ""
        self._started = Started(process.settings.bus.directory / f"guests{host}", freed=lambda: self._admit_in(0.0))
        self._room.blocked = partial(address_held, self._started, self._machines)
        self._lacks: dict[str, Lack] = {}
        """What those wait for that find no room, as the feed has it."""
        self._admits = Alarm(self._admit, process.clock)
        self._seen = Seen()
        self._passing = Passing(lambda vm: self._publish(self._machines[vm]))
        self._patience = ArmPatience()
        self.holds = Holds(self._store, self._hold)
        self._refusals: dict[str, str] = {}
        """VM -> why it cannot run as it is configured."""
        metrics = process.metrics
        self._history = History(metrics)
        self._joined = metrics.counter("joined_summons", "Requests that joined a summon under way.")
        self._stops = metrics.counter("stops", "Stop calls to the hypervisor.", ["mode"])
        metrics.gauge("queued", "VMs that wait for room to start.", lambda: float(len(self._room)))
        for state in VmState:
            metrics.gauge(f"vms_{state}", f"VMs that are {state}.", partial(self._room.tally.count, state))

    def handlers(self) -> dict[type[Request], Handler]:
        """Return what answers each request."""
        return {
            Summon: self.summon,
            StartDiscarding: self.start_discarding,
            Drain: self.drain,
            StopDrained: self.stop_drained,
            CancelDrain: self.cancel_drain,
            OperatorStop: self.operator_stop,
            Check: self.check,
            ListVms: self.list_vms,
            Trace: self._history.trace,
            HandedOver: self.handed_over,
        }

    def complete(self) -> None:
        """Note that all VMs are known and have been looked at: from now on changes of state are news."""
        self._complete.set()

    def notes(self) -> list[str]:
        """Return what an operator should know."""
        waits = [f"{len(self._room)} VMs wait for room to start"] if len(self._room) else []
        return self._hypervisors.notes() + self.holds.notes() + waits

    # --- requests ---

    def summon(self, request: Summon) -> Message | Awaitable[Message]:
        """Answer Summon."""
        if request.vm not in self._machines:
            return self._summon_unknown(request)
        machine = self._machines[request.vm]
        self._see_that_it_can_run(machine)
        if machine.state is VmState.UNKNOWN and self._complete.is_set():
            self._hypervisors.check_answers(machine.vm)
        return self._summoned(machine, events.SummonRequested(request.trigger, request.waited_s, ttl=request.ttl))

    def start_discarding(self, request: StartDiscarding) -> Message | Awaitable[Message]:
        """Answer StartDiscarding."""
        machine = self._machine(request.vm)
        self._see_that_it_can_run(machine)
        return self._summoned(machine, events.SummonRequested("operator", discard=True))

    def _summoned(self, machine: VmMachine, event: events.SummonRequested) -> Message | Awaitable[Message]:
        vm = machine.vm.uuid
        future = self._waiting.add(vm, event.trigger)
        if machine.state in (VmState.STARTING, VmState.BOOTING):
            self._joined.inc()
        is_kept = machine.terms.hold and event.trigger != "operator"
        if machine.state in AT_REST and not is_kept and (lack := self._room.lack(machine.vm, self._machines)):
            return self._queued(machine, event, lack, future)
        try:
            self._handle(machine, event)
        except JitsuError:
            self._waiting.remove(vm, future)
            raise
        return future.result() if future.done() else self._waited(vm, future)

    def _again(self, machine: VmMachine, event: events.SummonRequested) -> None:
        may_start = machine.state in AT_REST and not machine.terms.hold
        lack = self._room.lack(machine.vm, self._machines) if may_start else None
        if lack is None or not self._room.queue(machine.vm.uuid, event, lack, monotonic()):
            self._handle(machine, event)
        else:
            self._admit_in(0.0)

    def _queued(
        self, machine: VmMachine, event: events.SummonRequested, lack: Lack, future: asyncio.Future[Message]
    ) -> Awaitable[Message]:
        vm = machine.vm
        if not self._room.queue(vm.uuid, event, lack, monotonic()):
            raise Unavailable(f"{vm.name}: {lack.reason}, and too many VMs wait for that")
        self._admit_in(0.0)
        patience = PATIENCE_S
        if event.trigger == "dns":  # is told in time to answer with the reason
            patience = max(vm.max_wait - event.waited_s - TELL_LACK_S, TELL_LACK_S)
        return self._waited(vm.uuid, future, patience)

    async def _waited(self, vm: str, future: asyncio.Future[Message], patience: float | None = None) -> Message:
        """Wait for the answer to a summon; a VM that finds no room within `patience` may still do so later."""
        try:
            await asyncio.wait((future,), timeout=patience)
            if not future.done() and (lack := self._room.waits(vm)) is not None:
                raise Unavailable(f"{self._machine(vm).vm.name} waits for room: {lack.reason}")
            return await future
        finally:
            self._waiting.remove(vm, future)

    async def _summon_unknown(self, request: Summon) -> Message:
        if not self._complete.is_set():
            await self.holds.known.wait()
            changes, statistics = await learn(self._store, request.vm, self._process.host)
            if request.vm not in self._machines:
                self.statistics.restore(statistics)
                self.configure(on_host(changes, self._process.host))
        deadline = monotonic() + UNKNOWN_VM_WAIT_S
        while request.vm not in self._machines:
            self._configured.clear()
            try:
                async with asyncio.timeout(deadline - monotonic()):
                    await self._configured.wait()
            except TimeoutError:
                raise NotFound(f"no VM has the uuid {request.vm[:64]!r}") from None
        reply = self.summon(request)
        return reply if isinstance(reply, Message) else await reply

    def drain(self, request: Drain) -> Draining:
        """Answer Drain."""
        machine = self._machine(request.vm)
        self._handle(machine, events.DrainRequested(self._room.gives_way(machine.vm, self._machines)))
        return Draining(drain=machine.drains.current)

    def stop_drained(self, request: StopDrained) -> Done:
        """Answer StopDrained."""
        self._handle(self._machine(request.vm), events.StopApproved(request.drain))
        return Done()

    def cancel_drain(self, request: CancelDrain) -> Done:
        """Answer CancelDrain."""
        self._handle(self._machine(request.vm), events.DrainCancelled(request.drain))
        return Done()

    def handed_over(self, request: HandedOver) -> Done:
        """Answer HandedOver."""
        if not self._complete.is_set():
            raise Unavailable("vmd has just started", hint="try again in a moment")
        if request.vm in self._machines:
            self._handle(self._machines[request.vm], events.GuestHandedOver())
        return Done()

    async def operator_stop(self, request: OperatorStop) -> Done:
        """Answer OperatorStop."""
        machine = self._machine(request.vm)
        self._handle(machine, events.StopRequested())
        if machine.state is VmState.STOPPING:
            settled: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._settled.setdefault(request.vm, []).append(settled)
            await settled
        if machine.runs():
            raise Unavailable(f"{machine.vm.name} {machine.error or 'was started again'}")
        return Done()

    async def check(self, request: Check) -> Checked:
        """Answer Check."""
        vms = []
        for uuid, leaves in request.vms.items():
            with suppress(InvalidVm):  # the store has more to say about such a one
                vms.append(from_tree(uuid, leaves))
        refusals = {vm.uuid: refusal for vm in vms if (refusal := self._refusal(vm))}
        examined = await self._hypervisors.examine(vm for vm in vms if vm.uuid not in refusals)
        mistakes = {vm: found.mistake for vm, found in examined.items() if found.mistake}
        return Checked(
            refusals=refusals | mistakes, writes_to_disk={vm: found.writes_to_disk for vm, found in examined.items()}
        )

    async def list_vms(self, _: ListVms) -> VmList:
        """Answer ListVms; who asks before all VMs are known waits, as those that are missing would seem to be gone."""
        await self._complete.wait()
        feed = self._feed.feeds["vm"]
        now = monotonic()
        vms = [self._status(machine, now) for machine in self._machines.values()]
        return VmList(vms=vms, epoch=feed.epoch, number=feed.number)

    def _machine(self, vm: str) -> VmMachine:
        if vm in self._machines:
            return self._machines[vm]
        if not self._complete.is_set():
            raise Unavailable("vmd has just started and does not know its VMs yet", hint="try again in a moment")
        raise NotFound(f"no VM has the uuid {vm[:64]!r}")

    # --- configuration ---

    def take(self, settings: Settings) -> None:
        """Take other limits."""
        limits = settings.hypervisor
        self._room.limit(limits.max_booting, limits.max_running, limits.max_memory)
        for machine in self._machines.values():
            self._check(machine)
        self._admit()

    def configure(self, changes: Sequence[VmChanged]) -> None:
        """Take VMs that came, went or are configured otherwise."""
        for change in changes:
            if change.new is None and change.old is not None:
                self._remove(change.old.uuid)
            elif change.new is not None:
                self._put(change.new)
        self._configured.set()

    def adopt_forgotten(self) -> None:
        """Take the guests that a vmd before this one started and that are no longer configured: they are stopped."""
        for uuid in self._started.unread():
            if uuid not in self._machines and (started := self._started.recall(uuid)) is not None:
                machine = self._machines[uuid] = VmMachine(Terms(started, started, removed=True))
                if refusal := self._refusal(started):
                    log.warning("a guest that is no longer configured may run on", vm=started.name, reason=refusal)
                self._tally(machine)
                self.looks.at(uuid)

    def _put(self, vm: VM) -> None:
        if vm.uuid in self._machines:
            machine = self._machines[vm.uuid]
            log_difference(machine, vm)
            self._check(machine)
            self._handle(machine, events.Reconfigured(vm))
            self._check(machine)
            self._tally(machine)
            self._publish(machine)
            self.looks.at(vm.uuid)
            return
        machine = VmMachine(Terms(vm, self._started.recall(vm.uuid), hold=self.holds.reason(vm.uuid)))
        self._check(machine)
        machine.summons.starts = self.statistics.starts(vm.uuid)
        self._machines[vm.uuid] = machine
        self._tally(machine)
        self.looks.at(vm.uuid)

    def _check(self, machine: VmMachine) -> None:
        """See whether its hypervisor can run a VM as it is configured."""
        vm = machine.vm
        refusal = self._refusal(vm)
        if not refusal:
            self._refusals.pop(vm.uuid, None)
            machine.terms.watches_keys = self._hypervisors.watches_keys(vm)
        elif self._refusals.get(vm.uuid) != refusal:
            self._refusals[vm.uuid] = refusal
            log.warning("cannot run as it is configured", vm=vm.name, reason=refusal)

    def _see_that_it_can_run(self, machine: VmMachine) -> None:
        """Raise Unavailable if a VM is refused, and still is: a file that was missing may be there by now."""
        if machine.vm.uuid in self._refusals:
            self._check(machine)
        if refusal := self._refusals.get(machine.vm.uuid):
            raise Unavailable(f"{machine.vm.name}: {refusal}")

    def _refusal(self, vm: VM) -> str:
        return self._room.never(vm) or self._hypervisors.refusal(vm)

    def _hold(self) -> None:
        """Take what is held now, and refuse those who wait for room for a VM that is."""
        for vm, machine in list(self._machines.items()):
            if machine.terms.hold != (reason := self.holds.reason(vm)):
                self._handle(machine, events.HoldChanged(reason))
                if reason and (event := self._room.withdraw(vm)) is not None:
                    self._handle(machine, event)

    def _remove(self, vm: str) -> None:
        self._handle(self._machines[vm], events.Removed())

    def _forget_if_removed(self, machine: VmMachine) -> None:
        vm = machine.vm.uuid
        if not machine.terms.removed or machine.is_busy():
            return
        is_unseen = machine.state is VmState.UNKNOWN and machine.terms.started is not None  # it may run
        if not is_unseen and self._machines.get(vm) is machine:
            del self._machines[vm]
            machine.terms.started = None
            self._started.note(machine)
            self._tally(machine)
            self.statistics.removed(machine)
            self._seen.forget(vm)
            if not self._refusals.pop(vm, ""):
                self._spawn(self._forget(machine.guest))
            if vm in self._alarms:
                self._alarms.pop(vm).set(None)
            self._publish(machine, gone=True)

    # --- the machines' shell ---

    def _handle(self, machine: VmMachine, event: events.Event) -> None:
        self._perform(machine, machine.handle(event, monotonic()))

    def _passed(self, vm: str) -> None:
        machine = self._machines[vm]
        self._perform(machine, machine.tick(monotonic()))

    def _perform(self, machine: VmMachine, actions: Sequence[events.Action]) -> None:
        vm, again, published = machine.vm, None, False
        # Who waits is answered first: a client's time counts, a subscriber's does not.
        for action in sorted(actions, key=lambda action: not isinstance(action, events.AnswerSummons)):
            match action:
                case events.ArmSynjitsu(call, is_there):
                    if not is_there:
                        self._seen.starts(vm.uuid)
                    self._spawn(self._arm_synjitsu(machine, call, is_there))
                case events.DisarmSynjitsu(outcome):
                    self._spawn(self._tell("synjitsu", self._synjitsu, Disarm(vm=vm.uuid, outcome=outcome)))
                case events.StartGuest():
                    self._spawn(self._start_guest(machine, action))
                case events.StopGuest(call, mode):
                    self._spawn(self._stop_guest(machine, call, mode))
                case events.WatchGuest(call):
                    self._watches[vm.uuid] = self._spawn(self._watch_guest(machine, call))
                case events.AnswerSummons():
                    self._waiting.answer(machine.guest, action)
                case events.SummonAgain(event):
                    again = event
                case events.PublishState() if not published:
                    published = True  # with the state that it has after all of them
                    self._published(machine)
                case events.RecordStart():
                    self.statistics.started(machine)
        self._history.take(machine)
        self._tally(machine)
        self._started.note(machine)  # before the start call, which is made after this
        if again is not None:
            self._again(machine, again)
        if self._machines.get(vm.uuid) is machine:
            self._alarms.setdefault(vm.uuid, Alarm(partial(self._passed, vm.uuid), self._process.clock)).set(
                machine.deadline()
            )
        self._forget_if_removed(machine)

    def _tally(self, machine: VmMachine) -> None:
        vm = machine.vm
        if self._machines.get(vm.uuid) is machine:
            self._room.tally.note(vm.uuid, machine.state, memory(vm))
        else:
            self._room.tally.forget(vm.uuid)

    def _publish(self, machine: VmMachine, *, gone: bool = False) -> None:
        self._passing.drop(machine.vm.uuid)
        if self._complete.is_set():  # before, nobody has had a snapshot that this would change
            self._feed.publish("vm", VmStateChanged(vm=self._status(machine, monotonic()), gone=gone))

    def _published(self, machine: VmMachine) -> None:
        if machine.state in PASSED_THROUGH:
            self._passing.add(machine.vm.uuid)
        else:
            self._publish(machine)
        log_state(machine, is_news=self._complete.is_set())
        if machine.state is VmState.FAILED:
            self.looks.at(machine.vm.uuid)  # it may be paused or suspended, or even run
        if machine.state is not VmState.BOOTING and machine.vm.uuid in self._watches:
            self._watches.pop(machine.vm.uuid).cancel()
        if len(self._room):
            self._admit_in(0.0)
        if machine.state is not VmState.STOPPING:
            for settled in self._settled.pop(machine.vm.uuid, []):
                if not settled.done():
                    settled.set_result(None)

    def _admit_in(self, seconds: float) -> None:
        """Look once after many events: a look is at every VM that waits."""
        self._admits.set(monotonic() + seconds)

    def _admit(self) -> None:
        """Start those that there is room for now."""
        while (admitted := self._room.next(self._machines, monotonic())) is not None:
            vm, event = admitted
            with suppress(JitsuError):  # the others have their turn
                self._handle(self._machines[vm], event)
        told, self._lacks = self._lacks, self._room.waiting()
        for vm in told.keys() | self._lacks.keys():
            if vm in self._machines and told.get(vm) != self._lacks.get(vm):
                self._publish(self._machines[vm])
        if (deadline := self._room.next_deadline()) is not None:
            self._admits.set(deadline)

    def _spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        return self._process.spawn(work)

    # --- calls to the world ---

    async def _start_guest(self, machine: VmMachine, action: events.StartGuest) -> None:
        if not action.is_there:
            self._seen.starts(machine.vm.uuid)
        saved_as = action.saved_as or machine.vm
        error = await failure(self._hypervisors.discard(saved_as)) if action.discard else ""
        error = error or await failure(self._hypervisors.start(machine.guest))
        self._handle(machine, events.StartReturned(action.call, error))
        # Synjitsu needs to know at which interface the guest is; and when it has been seen to run, its save is useless.
        self.looks.at(machine.vm.uuid)

    async def _stop_guest(self, machine: VmMachine, call: int, mode: StopMode) -> None:
        self._stops.labels(mode.value).inc()
        guest = machine.guest
        error = await failure(self._hypervisors.stop(guest, mode))
        if not error and not machine.terms.removed and is_found_elsewhere(guest, machine.vm):
            await self._forget(guest)
        self._handle(machine, events.StopReturned(call, error))
        self.looks.after_call(machine, error)

    async def _forget(self, vm: VM) -> None:
        if reason := await failure(self._hypervisors.forget(vm)):
            log.warning("cannot remove what was made for a VM", vm=vm.name, reason=reason)

    async def _watch_guest(self, machine: VmMachine, call: int) -> None:
        if machine.vm.wait_for_port is not None:
            await wait_for_port(machine.vm)
        elif machine.terms.watches_keys and machine.vm.wait_for_key:
            if reason := await failure(self._hypervisors.wait_for_key(machine.vm)):
                log.warning("cannot watch the VM's Xenstore key", vm=machine.vm.name, reason=reason)
        else:
            await self._while_armed(machine)
        self._handle(machine, events.MaskSignalled(call))

    async def _while_armed(self, machine: VmMachine) -> None:
        """Return when Synjitsu holds the VM's addresses no more, and will not say when the guest is there.

        One that died meanwhile and is back holds them again. A guest that looks into Xenstore may do so from when it is
        known which domain it is.
        """
        domain: int | None = None
        every_s = min(REARM_S, 0.3 * machine.vm.boot_limit)  # what Synjitsu notes must be known when the boot fails
        waits = 0.0 if machine.vm.handover is HandoverKind.XENSTORE else every_s
        while True:
            await asyncio.sleep(waits)
            waits = every_s
            try:
                if machine.vm.handover is HandoverKind.XENSTORE and domain is None:
                    domain = await self._hypervisors.domain_id(machine.vm)
                done = await self._synjitsu.call(
                    arm_request(machine.vm, self._seen.nic(machine.vm), domain, is_there=True), Done, REARM_S
                )
                machine.boot.note = done.note
            except JitsuError as error:
                log.warning("Synjitsu is gone: the boot is hidden by delay", vm=machine.vm.name, reason=str(error))
                return

    async def _arm_synjitsu(self, machine: VmMachine, call: int, is_there: bool) -> None:
        nic = self._seen.nic(machine.vm)
        nic = nic if is_there else await nic_of_next_start(self._hypervisors, machine.guest, nic)
        try:
            limit_s = self._patience.limit_s(monotonic())
            await self._synjitsu.call(arm_request(machine.vm, nic, is_there=is_there), Done, limit_s)
            armed = True
        except JitsuError as error:
            log.warning("Synjitsu is not armed: the boot is hidden by delay", vm=machine.vm.name, reason=str(error))
            armed = False
        self._patience.note(monotonic(), answered=armed)
        self._handle(machine, events.ArmReturned(call, armed))

    async def _tell(self, owner: str, client: Caller, request: Request) -> None:
        try:
            await client.call(request, Done, TELL_TIMEOUT_S)
        except JitsuError as error:
            log.warning("a request failed", owner=owner, kind=request.kind, reason=str(error))

    # --- what the hypervisor says ---

    def _found(self, machine: VmMachine, guest: Guest, as_of: float) -> None:
        if not machine.runs() or machine.vm.uuid in self._refusals:  # what runs has all that it needs
            self._check(machine)
        if not self._is_older(as_of, machine) and self._seen.take(machine.vm, guest):
            self._publish(machine)
        self._handle(machine, events.GuestSeen(guest.state, as_of, guest.up_s, guest.reason))

    @staticmethod
    def _is_older(as_of: float, machine: VmMachine) -> bool:
        """Say whether what was seen then may be of the run before this one."""
        return machine.call.is_under_way or (machine.boot.started_at is not None and as_of < machine.boot.started_at)

    # --- views ---

    def _status(self, machine: VmMachine, now: float) -> VmStatus:
        runs = machine.runs()
        wait = machine.backoff.wait(now)
        lack = self._room.waits(machine.vm.uuid)
        nic = self._seen.nic(machine.vm)
        return VmStatus(
            uuid=machine.vm.uuid,
            name=machine.vm.name,
            state=machine.state,
            host=self._process.host,
            drain=machine.drains.current,
            state_age_s=now - machine.since,
            up_s=now - machine.boot.started_at if runs and machine.boot.started_at is not None else None,
            idle_s=now - machine.usage.used_at if runs else None,
            starts=machine.summons.starts,
            last_error=machine.error
            or self._seen.note(machine.vm.uuid)
            or self._refusals.get(machine.vm.uuid, "")
            or machine.terms.unwanted(),
            addresses=machine.addresses() if runs else [],
            mac=nic.mac,
            bridge=nic.bridge,
            interface=nic.interface if runs or machine.state is VmState.PAUSED else "",
            retry_after_s=wait if wait > 0 else None,
            waits_for="" if lack is None else lack.reason,
            wants_room=lack is not None and lack.of_room,
            hold=machine.terms.hold,
        )
