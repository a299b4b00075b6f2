"""A vmd in a test's own event loop, with a hypervisor that the test plays."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import zmq.asyncio

from jitsu_protocol.messages import Done, Leaves, List, ListVms, Message, Record, StartDiscarding, Summon
from jitsu_protocol.model.errors import Unavailable
from jitsu_protocol.model.inventory import VmChanged
from jitsu_protocol.model.vm import STATS_ROOT, to_tree
from jitsu_protocol.model.vm_keys import StopMode
from jitsu_runtime.bus.zeromq import rpc_server
from jitsu_vmd.hypervisor import Examined, Guest
from jitsu_vmd.rules.events import GuestState
from jitsu_vmd.wires.hypervisors import Hypervisors
from jitsu_vmd.wires.server import VmDaemon
from tests.support.process import running_process

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence
    from pathlib import Path

    from jitsu_protocol.messages import Request
    from jitsu_protocol.model.states import VmState
    from jitsu_protocol.model.vm import VM
    from jitsu_runtime.world import Feed, Handler, World


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

    async def guests(self, vms: Sequence[VM]) -> dict[str, Guest]:
        self.looks.append([vm.name for vm in vms])
        return {vm.uuid: self.states[vm.uuid] for vm in vms if vm.uuid in self.states}

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

    def __init__(self, process: World, starts: dict[str, int], *vms: VM) -> None:
        self._leaves = {path: value for vm in vms for path, value in to_tree(vm).items()}
        self._leaves |= {f"{STATS_ROOT}/{vm}/total_starts": str(count) for vm, count in starts.items()}
        self.recorded: dict[str, str] = {}
        endpoint = process.settings.bus.endpoint("store", "rpc")
        handlers: dict[type[Request], Handler] = {List: self.list, Record: self.record}
        process.spawn(rpc_server(zmq.asyncio.Context.instance(), endpoint, handlers).run())

    def list(self, request: List) -> Leaves:
        found = {path: value for path, value in self._leaves.items() if path.startswith(request.prefix + "/")}
        return Leaves(leaves=found, commit="", epoch="e", number=0)

    def record(self, request: Record) -> Done:
        self.recorded |= request.values
        return Done()


class PlayedVmd:
    """A vmd and its hypervisor."""

    def __init__(self, daemon: VmDaemon, hypervisor: PlayedHypervisor, feed: Feed) -> None:
        self.daemon = daemon
        self.feed = feed
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
        listing = self.daemon.list_vms(ListVms())
        try:
            listing.send(None)
        except StopIteration as listed:
            return {vm.name: (vm.state, vm.last_error) for vm in listed.value.vms}
        raise AssertionError("vmd does not know its VMs yet")

    async def becomes(self, name: str, state: VmState) -> None:
        """Wait until a VM is in a state."""
        await self.until(lambda: self.status().get(name, ("", ""))[0] is state)

    async def until(self, is_so: Callable[[], object]) -> None:
        """Wait until something is so."""
        async with asyncio.timeout(5):
            while not is_so():
                await asyncio.sleep(0.005)


@asynccontextmanager
async def running_vmd(directory: Path, *vms: VM, runs: str = "", **settings: str) -> AsyncIterator[PlayedVmd]:
    """Run a vmd that has these VMs, and has looked at them; `runs` is the UUID of one whose guest runs already."""
    hypervisor = PlayedHypervisor()
    if runs:
        hypervisor.states[runs] = Guest(GuestState.RUNNING)
    async with running_process("vmd", directory, **settings) as process:
        hypervisors = Hypervisors({"": hypervisor}, process.spawn)
        feed = process.publish("vm")
        made = PlayedVmd(VmDaemon(process, hypervisors, feed), hypervisor, feed)
        made.daemon.holds.known.set()
        await hypervisors.open()
        looking = process.spawn(made.daemon.looks.go_on())
        made.configure(*vms)
        made.daemon.adopt_forgotten()
        await made.daemon.looks.at_all()
        made.daemon.complete()
        hypervisors.run(made.daemon.hint)
        await asyncio.sleep(0)
        try:
            yield made
        finally:
            looking.cancel()
