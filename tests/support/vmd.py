"""A vmd in a test's own event loop, with a hypervisor that the test plays."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from jitsu_protocol.messages import Done, Leaves, List, ListVms, Message, Record, StartDiscarding, Summon
from jitsu_protocol.model.errors import Unavailable
from jitsu_protocol.model.inventory import VmChanged
from jitsu_protocol.model.vm import STATS_ROOT, to_tree
from jitsu_protocol.model.vm_keys import StopMode
from jitsu_vmd.hypervisor import Examined, Guest, Nic
from jitsu_vmd.rules.events import GuestState
from jitsu_vmd.wires.hypervisors import Hypervisors
from jitsu_vmd.wires.server import VmDaemon
from tests.support.world import PlayedWorld, played_world

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence
    from pathlib import Path

    from jitsu_protocol.messages import VmStatus
    from jitsu_protocol.model.states import VmState
    from jitsu_protocol.model.vm import VM


STEP_S = 0.001
"""So much time passes in each turn of the event loop. Time must not stand still while calls are under way: what was
seen before a call returned would seem to be as new as what was seen after it.
"""
LIMIT_S = 60.0


class PlayedHypervisor:
    """Does what it is asked at once, and notes it; `fails` is the error of the next call."""

    name = "played"

    def __init__(self) -> None:
        self.calls: list[tuple[str, str]] = []
        """(call, VM's name), without looks."""
        self.looks: list[list[str]] = []
        """The names of the VMs that were looked at, for each look."""
        self.started_as: list[VM] = []
        self.stopped_as: list[VM] = []
        self.states: dict[str, Guest] = {}
        """By UUID, for those that are not off."""
        self.examined: dict[str, Examined] = {}
        self.nics: tuple[Nic, ...] = ()
        """Of guests that are off."""
        self.fails = ""
        self.changed: Callable[[str], None] = lambda _: None
        self.goes_on = asyncio.Event()
        """Unset: calls wait."""
        self.goes_on.set()

    def check(self, vm: VM) -> None:
        """Refuse nothing."""

    async def examine(self, vms: Sequence[VM]) -> dict[str, Examined]:
        return {vm.uuid: self.examined.get(vm.name, Examined()) for vm in vms}

    async def open(self) -> None:
        pass

    async def run(self, changed: Callable[[str], None]) -> None:
        self.changed = changed
        await asyncio.Event().wait()

    async def guests(self, vms: Sequence[VM]) -> dict[str, Guest]:
        self.looks.append([vm.name for vm in vms])
        off = {vm.uuid: Guest(GuestState.OFF, nics=self.nics) for vm in vms if self.nics}
        return off | {vm.uuid: self.states[vm.uuid] for vm in vms if vm.uuid in self.states}

    async def _call(self, call: str, vm: VM, state: GuestState) -> None:
        self.calls.append((call, vm.name))
        if call in [mode.value for mode in StopMode]:
            self.stopped_as.append(vm)
        await self.goes_on.wait()
        fails, self.fails = self.fails, ""
        if fails:
            raise Unavailable(fails)
        self.states.pop(vm.uuid, None)
        if state is not GuestState.OFF:
            self.states[vm.uuid] = Guest(state)

    async def start(self, vm: VM) -> None:
        self.started_as.append(vm)
        await self._call("start", vm, GuestState.RUNNING)

    async def discard(self, vm: VM) -> None:
        await self._call("discard", vm, GuestState.OFF)

    async def stop(self, vm: VM, how: StopMode) -> None:
        states = {StopMode.SUSPEND: GuestState.SUSPENDED, StopMode.PAUSE: GuestState.PAUSED}
        await self._call(how.value, vm, states.get(how, GuestState.OFF))

    async def forget(self, vm: VM) -> None:
        self.calls.append(("forget", vm.name))


class PlayedStore:
    """A store that serves these VMs, and their numbers of starts."""

    def __init__(self, world: PlayedWorld, starts: dict[str, int], *vms: VM) -> None:
        self._leaves = {path: value for vm in vms for path, value in to_tree(vm).items()}
        self._leaves |= {f"{STATS_ROOT}/{vm}/total_starts": str(count) for vm, count in starts.items()}
        self.recorded: dict[str, str] = {}
        world.answers |= {List: self.list, Record: self.record}

    def list(self, request: List) -> Leaves:
        found = {path: value for path, value in self._leaves.items() if path.startswith(request.prefix + "/")}
        return Leaves(leaves=found, commit="", epoch="e", number=0)

    def record(self, request: Record) -> Done:
        self.recorded |= request.values
        return Done()


class PlayedVmd:
    """A vmd and its hypervisor."""

    def __init__(self, world: PlayedWorld, hypervisors: Hypervisors, hypervisor: PlayedHypervisor) -> None:
        self.world = world
        self.feed = world.publish("vm")
        self.daemon = VmDaemon(world, hypervisors, self.feed)
        self.hypervisor = hypervisor
        self._vms: dict[str, VM] = {}

    def configure(self, *vms: VM) -> None:
        """Have these VMs configured, and no others."""
        new = {vm.uuid: vm for vm in vms}
        changes = [
            VmChanged(self._vms.get(uuid), new.get(uuid))
            for uuid in {**self._vms, **new}
            if self._vms.get(uuid) != new.get(uuid)
        ]
        self._vms = new
        self.daemon.configure(changes)

    async def summoned(self, request: Summon | StartDiscarding) -> Message:
        """Return the answer to a summon."""
        make = self.daemon.summon if isinstance(request, Summon) else self.daemon.start_discarding
        reply = make(request)  # type: ignore[arg-type]
        return reply if isinstance(reply, Message) else await reply

    def status(self) -> dict[str, tuple[VmState, str]]:
        """Return each VM's state and last error, by name."""
        return {vm.name: (vm.state, vm.last_error) for vm in self.listed()}

    def listed(self) -> list[VmStatus]:
        """Return what vmd says about each VM."""
        listing = self.daemon.list_vms(ListVms())
        try:
            listing.send(None)
        except StopIteration as listed:
            return list(listed.value.vms)
        raise AssertionError("vmd does not know its VMs yet")

    async def becomes(self, name: str, state: VmState) -> None:
        """Wait until a VM is in a state."""
        await self.until(lambda: self.status().get(name, ("", ""))[0] is state)

    async def until(self, is_so: Callable[[], object]) -> None:
        """Wait until something is so."""
        ends = self.world.time.now() + LIMIT_S
        while not is_so():
            assert self.world.time.now() < ends, f"it has not become so within {LIMIT_S:g} s of virtual time"
            await asyncio.sleep(0)

    async def pass_time(self, seconds: float) -> None:
        """Wait until that much time has passed."""
        await self.world.pass_time(seconds)


@asynccontextmanager
async def vmd_world(directory: Path, **settings: str) -> AsyncIterator[PlayedWorld]:
    """Play the world of a vmd whose files are in a directory; time passes as fast as everybody works."""
    async with played_world("vmd", bus__runtime_dir=str(directory), **settings) as world:
        world.spawn(_pass_time(world))
        yield world


async def _pass_time(world: PlayedWorld) -> None:
    while True:
        await asyncio.sleep(0)
        world.time.advance(STEP_S)


@asynccontextmanager
async def running_vmd(
    directory: Path, *vms: VM, runs: str = "", plays: type[PlayedHypervisor] = PlayedHypervisor, **settings: Any
) -> AsyncIterator[PlayedVmd]:
    """Run a vmd that has these VMs, and has looked at them; `runs` is the UUID of one whose guest runs already."""
    hypervisor = plays()
    if runs:
        hypervisor.states[runs] = Guest(GuestState.RUNNING)
    async with vmd_world(directory, **settings) as world:
        hypervisors = Hypervisors({"": hypervisor}, world.spawn, world.clock)
        made = PlayedVmd(world, hypervisors, hypervisor)
        made.daemon.orders.holds.known.set()
        await hypervisors.open()
        world.spawn(made.daemon.looks.go_on())
        made.configure(*vms)
        made.daemon.adopt_forgotten()
        await made.daemon.looks.at_all()
        made.daemon.complete()
        hypervisors.run(made.daemon.hint)
        await asyncio.sleep(0)
        yield made
