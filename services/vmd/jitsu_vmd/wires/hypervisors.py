"""All hypervisors of one vmd, by the name of their connection; "" is that of VMs that name none.

A hypervisor that is silent delays no other, and a call that fails raises a JitsuError, whatever the code for its kind
has raised (isolation.py).
"""

from __future__ import annotations

import asyncio
from contextlib import contextmanager
from typing import TYPE_CHECKING

import structlog

from jitsu_protocol.model.errors import JitsuError, Refused, Unavailable
from jitsu_runtime.clock import SYSTEM_CLOCK
from jitsu_vmd.hypervisor import DomainIds, Examined, HasNotes, ReservesInterfaces, XenstoreKeys
from jitsu_vmd.rules.interfaces import check_addresses
from jitsu_vmd.wires.connection import Connection
from jitsu_vmd.wires.isolation import Broken, isolated

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Collection, Coroutine, Iterable, Iterator, Mapping
    from typing import Any

    from jitsu_protocol.model.vm import VM
    from jitsu_protocol.model.vm_keys import StopMode
    from jitsu_runtime.clock import Clock
    from jitsu_vmd.hypervisor import Guest, Hypervisor

EXAMINE_LIMIT_S = 5.0
"""Half of what `jitsu apply` waits."""
FIRST_OPEN_S = 3.0
"""vmd serves after that long, even if a hypervisor is away."""
SETTLE_S = 10.0
"""When vmd is asked to stop, it waits that long for calls that would leave half a domain behind if cut off."""

log = structlog.get_logger("vmd")


class Hypervisors:
    """Opens the hypervisors, looks at their guests, and calls the one that a VM belongs to."""

    def __init__(
        self,
        backends: Mapping[str, Hypervisor],
        spawn: Callable[[Coroutine[Any, Any, None]], object],
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        self._spawn = spawn
        self.connections = {name: Connection(each, spawn, clock) for name, each in backends.items()}
        self._with_keys = {name for name, each in backends.items() if isinstance(each, XenstoreKeys)}
        """Those that can watch keys. isinstance with a protocol takes 30 us, and it is asked of each VM."""
        self._under_way: set[asyncio.Future[None]] = set()

    def _of(self, vm: VM) -> Hypervisor:
        """Return a VM's hypervisor; raises Refused if there is none of that name."""
        name = hypervisor_name(vm)
        if name not in self.connections:
            raise Refused(f"hypervisor: {name} is not listed in hypervisor.connections")
        return self.connections[name].backend

    # --- before a VM starts ---

    def check(self, vm: VM) -> None:
        """Raise Refused if a VM cannot run as it is configured.

        If the rules of its hypervisor cannot make anything of its keys, that is the fault of this VM, whatever they
        raise.
        """
        hypervisor = self._of(vm)
        try:
            with isolated(logs=False):
                hypervisor.check(vm)
        except Broken as broken:
            raise Refused(f"its configuration cannot be used: {broken.__cause__}") from None

    def check_answers(self, vm: VM) -> None:
        """Raise Unavailable if a VM's hypervisor is silent, or cannot look at this VM."""
        connection = self.connections.get(hypervisor_name(vm))
        if connection is None:
            return  # `check` refuses it
        trouble = connection.trouble
        if not trouble and (unseen := connection.odd.unseen(vm)):
            raise Unavailable(f"{vm.name}: {unseen}")
        if trouble := trouble or connection.odd.fault(vm):
            raise Unavailable(f"{vm.name}: its hypervisor does not answer: {trouble}")

    def is_unseen(self, vm: VM) -> bool:
        """Say whether a VM's hypervisor answers, and says that nothing is known of this VM."""
        connection = self.connections.get(hypervisor_name(vm))
        return connection is not None and not connection.trouble and bool(connection.odd.unseen(vm))

    async def examine(self, vms: Iterable[VM]) -> dict[str, Examined]:
        """Return what is found out about VMs as they would be configured, by uuid; nothing where none can tell now."""
        theirs: dict[str, list[VM]] = {}
        for vm in vms:
            if hypervisor_name(vm) in self.connections:
                theirs.setdefault(hypervisor_name(vm), []).append(vm)
        answers = await asyncio.gather(
            *(self._examine(self.connections[name].backend, theirs[name]) for name in theirs)
        )
        found = {vm: examined for answer in answers for vm, examined in answer.items()}
        for vm in (vm for each in theirs.values() for vm in each):
            try:
                check_addresses(vm)
            except Refused as mistake:
                examined = found.get(vm.uuid, Examined())
                found[vm.uuid] = Examined(examined.mistake or str(mistake), examined.writes_to_disk)
        return found

    @staticmethod
    async def _examine(backend: Hypervisor, vms: list[VM]) -> dict[str, Examined]:
        try:
            async with asyncio.timeout(EXAMINE_LIMIT_S):
                with isolated():
                    return await backend.examine(vms)
        except (JitsuError, TimeoutError) as error:
            log.warning("cannot examine VMs before they are configured", hypervisor=backend.name, reason=str(error))
            return {}

    # --- the connections ---

    def notes(self) -> list[str]:
        """Return a line about each."""
        notes = []
        for name, connection in self.connections.items():
            backend, reason = connection.backend, connection.trouble
            trouble = f" does not answer: {reason}" if reason else ""
            notes.append(f"hypervisor {f'{name}: ' if name else ''}{backend.name}{trouble}")
            if isinstance(backend, HasNotes):
                notes += backend.notes()
        return notes

    async def open(self) -> None:
        """Connect to all, as far as that can be done now; raises SetupFault."""
        opening = [connection.open() for connection in self.connections.values()]
        done, pending = await asyncio.wait(opening, timeout=FIRST_OPEN_S) if opening else (set(), set())
        for each in done:
            each.result()
        for each in pending:
            self._spawn(_finished(each))

    def run(self, changed: Callable[[str], None]) -> None:
        """Have each report what changes, as soon as it is open."""
        for connection in self.connections.values():
            connection.follow(changed)

    def faults(self) -> dict[tuple[str, ...], float]:
        """Return how often each connection has broken, by its name."""
        return {(name,): float(each.machine.faults) for name, each in self.connections.items()}

    # --- calls: each raises a JitsuError if it fails ---

    async def start(self, vm: VM) -> None:
        """Let a VM run."""
        with self._changing(), isolated():
            await self._of(vm).start(vm)

    async def stop(self, vm: VM, how: StopMode) -> None:
        """Stop a VM."""
        with self._changing(), isolated():
            await self._of(vm).stop(vm, how)

    async def discard(self, vm: VM) -> None:
        """Delete the saved state of a VM that does not run."""
        with self._changing(), isolated():
            await self._of(vm).discard(vm)

    async def forget(self, vm: VM) -> None:
        """Remove what was made for a VM that is no longer configured, and is off."""
        with isolated():
            await self._of(vm).forget(vm)
        self.connections[hypervisor_name(vm)].odd.forget(vm)

    def watches_keys(self, vm: VM) -> bool:
        """Say whether a VM's `wait_for_key` can be watched; raises Refused if it has no hypervisor."""
        self._of(vm)
        return hypervisor_name(vm) in self._with_keys

    async def wait_for_key(self, vm: VM) -> None:
        """Return when a VM's key is in Xenstore."""
        hypervisor = self._of(vm)
        if not isinstance(hypervisor, XenstoreKeys):
            raise Unavailable(f"{vm.name}: {hypervisor.name} has no Xenstore here")
        with isolated():
            await hypervisor.wait_for_key(vm)

    async def domain_id(self, vm: VM) -> int | None:
        """Return the id that a VM has in Xenstore, None if there is no Xenstore or the VM is off."""
        hypervisor = self._of(vm)
        if not isinstance(hypervisor, DomainIds):
            return None
        with isolated():
            return await hypervisor.domain_id(vm)

    async def reserved(self, vm: VM) -> str:
        """Return the interface that the next start of a VM will use, "" where that is not known before it."""
        try:
            hypervisor = self._of(vm)
            if not isinstance(hypervisor, ReservesInterfaces):
                return ""
            with isolated():
                return await hypervisor.reserve(vm)
        except JitsuError:
            return ""  # the start meets the same fault, and reports it

    @contextmanager
    def _changing(self) -> Iterator[None]:
        """Have `settle` wait for what is done in here."""
        ended: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._under_way.add(ended)
        try:
            yield
        finally:
            self._under_way.discard(ended)
            if not ended.done():
                ended.set_result(None)

    async def settle(self) -> None:
        """Wait for the calls that are under way and change domains."""
        if self._under_way:
            log.info("waiting for calls that are under way", calls=len(self._under_way))
            await asyncio.wait(self._under_way, timeout=SETTLE_S)

    # --- looking ---

    async def guests(self, vms: Collection[VM]) -> tuple[dict[str, Guest], set[str]]:
        """Return what is known of these VMs, and the uuids of those whose hypervisor has answered."""
        theirs: dict[str, list[VM]] = {name: [] for name in self.connections}
        for vm in vms:
            theirs.get(hypervisor_name(vm), []).append(vm)
        asked = [name for name, each in self.connections.items() if theirs[name] or each.trouble]
        answers = await asyncio.gather(*(self.connections[name].guests(theirs[name]) for name in asked))
        found: dict[str, Guest] = {}
        heard: set[str] = set()
        for guests, seen in answers:
            found |= guests
            heard |= seen
        return found, heard


async def failure(call: Awaitable[None]) -> JitsuError | None:
    """Wait for a call, and return with what it failed; None if it did not."""
    try:
        await call
    except JitsuError as error:
        return error
    return None


def hypervisor_name(vm: VM) -> str:
    """Return the name of the connection on which a VM runs, "" for that of [hypervisor]."""
    return vm.config.get("hypervisor", ("",))[0]


async def _finished(work: asyncio.Future[None]) -> None:
    await work
