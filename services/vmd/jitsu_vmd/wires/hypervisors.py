"""All hypervisors of one vmd, by name; "" is that of VMs that name none. One that is silent holds up no other."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, TypeVar

import structlog

from jitsu_protocol.model.errors import JitsuError, Unavailable
from jitsu_vmd.hypervisor import Examined, ReservesInterfaces
from jitsu_vmd.rules import means

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Collection, Coroutine, Iterable, Mapping
    from typing import Any

    from jitsu_protocol.model.vm import VM
    from jitsu_vmd.hypervisor import Guest, Hypervisor

RETRY_S = 1.0
EXAMINE_LIMIT_S = 5.0
"""Half of what `jitsu apply` waits."""
FIRST_OPEN_S = 3.0
"""vmd serves after that long, even if a hypervisor is away."""

CHANGES = frozenset({"start", "discard", "suspend", "pause", "destroy"})
"""Calls that leave half a domain behind if they are cut off."""
SETTLE_S = 10.0
"""They are waited for that long when vmd is asked to stop."""

T = TypeVar("T")

log = structlog.get_logger("vmd")


class Hypervisors:
    """They are opened, looked at, and chosen for a VM here."""

    def __init__(
        self, backends: Mapping[str, Hypervisor], spawn: Callable[[Coroutine[Any, Any, None]], object]
    ) -> None:
        self._backends = backends
        self._spawn = spawn
        self.troubles: dict[str, str] = dict.fromkeys(backends, "it is not connected yet")
        """Name -> why it does not answer, for those that do not."""
        self._under_way: set[asyncio.Future[None]] = set()

    def of(self, vm: VM) -> Hypervisor:
        """Return a VM's hypervisor; raises Unavailable."""
        name = hypervisor_name(vm)
        if name not in self._backends:
            raise Unavailable(f"{vm.name}: {self._nowhere(name)}")
        return self._backends[name]

    def refusal(self, vm: VM) -> str:
        """Return why a VM cannot run as it is configured, or nothing.

        What its hypervisor's rules cannot make anything of is the fault of that VM, whatever they raise then.
        """
        if (name := hypervisor_name(vm)) not in self._backends:
            return self._nowhere(name)
        try:
            return self._backends[name].refusal(vm)
        except (ValueError, LookupError, ArithmeticError, OSError, RecursionError) as error:
            return f"its configuration cannot be used: {error}"

    @staticmethod
    def _nowhere(name: str) -> str:
        return f"hypervisor: {name} is not listed in hypervisor.connections"

    async def examine(self, vms: Iterable[VM]) -> dict[str, Examined]:
        """Return what is found out about VMs as they would be configured, by uuid; nothing where none can tell now."""
        theirs: dict[str, list[VM]] = {}
        for vm in vms:
            if hypervisor_name(vm) in self._backends:
                theirs.setdefault(hypervisor_name(vm), []).append(vm)
        answers = await asyncio.gather(*(self._examine(self._backends[name], theirs[name]) for name in theirs))
        found = {vm: examined for answer in answers for vm, examined in answer.items()}
        for vm in (vm for each in theirs.values() for vm in each):
            if mistake := means.of_addresses(vm):
                examined = found.get(vm.uuid, Examined())
                found[vm.uuid] = Examined(examined.mistake or mistake, examined.writes_to_disk)
        return found

    @staticmethod
    async def _examine(backend: Hypervisor, vms: list[VM]) -> dict[str, Examined]:
        try:
            async with asyncio.timeout(EXAMINE_LIMIT_S):
                return await backend.examine(vms)
        except (JitsuError, TimeoutError) as error:
            log.warning("cannot examine VMs before they are configured", hypervisor=backend.name, reason=str(error))
            return {}

    def trouble(self, vm: VM) -> str:
        """Return why a VM's hypervisor does not answer, or nothing."""
        return self.troubles.get(hypervisor_name(vm), "")

    def notes(self) -> list[str]:
        """Return a line about each."""
        notes = []
        for name, backend in self._backends.items():
            trouble = f" does not answer: {self.troubles[name]}" if name in self.troubles else ""
            notes.append(f"hypervisor {f'{name}: ' if name else ''}{backend.name}{trouble}")
        return notes

    async def open(self) -> None:
        """Connect to all, as far as that can be done now; raises SetupFault."""
        opening = [asyncio.ensure_future(self._open(backend)) for backend in self._backends.values()]
        done, pending = await asyncio.wait(opening, timeout=FIRST_OPEN_S)
        for each in done:
            each.result()
        for each in pending:
            self._spawn(_finished(each))

    @staticmethod
    async def _open(backend: Hypervisor) -> None:
        waits = False
        while True:
            try:
                await backend.open()
            except Unavailable as error:
                if not waits:
                    log.warning("waiting for the hypervisor", hypervisor=backend.name, reason=str(error))
                waits = True
                await asyncio.sleep(RETRY_S)
            else:
                return

    def run(self, changed: Callable[[str], None]) -> None:
        """Have each tell what changes."""
        for backend in self._backends.values():
            self._spawn(backend.run(changed))

    async def call(self, vm: VM, how: str) -> str:
        """Call a VM's hypervisor; return "" or why it failed. A fault in a backend must not end vmd: nothing passes."""
        ended = asyncio.get_running_loop().create_future()
        if how in CHANGES:
            self._under_way.add(ended)
        try:
            return (await _tried(lambda: getattr(self.of(vm), how)(vm)))[1]
        finally:
            self._under_way.discard(ended)
            if not ended.done():
                ended.set_result(None)

    async def reserved(self, vm: VM) -> str:
        """Return the interface that the next start of a VM will use, "" where that is not known before it."""
        backend = self._backends.get(hypervisor_name(vm))
        if not isinstance(backend, ReservesInterfaces):
            return ""
        interface, _ = await _tried(lambda: backend.reserve(vm))  # the start meets the same fault, and reports it
        return interface or ""

    async def settle(self) -> None:
        """Wait for the calls that are under way and change domains."""
        if self._under_way:
            log.info("waiting for calls that are under way", calls=len(self._under_way))
            await asyncio.wait(self._under_way, timeout=SETTLE_S)

    async def guests(self, vms: Collection[VM]) -> tuple[dict[str, Guest], set[str]]:
        """Return what is known of these VMs, and the uuids of those whose hypervisor has answered."""
        theirs: dict[str, list[VM]] = {name: [] for name in self._backends}
        for vm in vms:
            theirs.get(hypervisor_name(vm), []).append(vm)
        asked = [name for name in theirs if theirs[name] or name in self.troubles]
        answers = await asyncio.gather(*(self._guests(name, theirs[name]) for name in asked))
        found: dict[str, Guest] = {}
        heard: set[str] = set()
        for name, answer in zip(asked, answers, strict=True):
            if answer is not None:
                found |= answer
                heard |= {vm.uuid for vm in theirs[name]}
        return found, heard

    async def _guests(self, name: str, vms: list[VM]) -> dict[str, Guest] | None:
        backend = self._backends[name]
        found, reason = await _tried(lambda: backend.guests(vms))
        if found is None:
            if self.troubles.get(name) != reason:
                log.error("the hypervisor does not answer", hypervisor=backend.name, reason=reason)
            self.troubles[name] = reason
            return None
        self.troubles.pop(name, None)
        return found


async def _tried(call: Callable[[], Awaitable[T]]) -> tuple[T | None, str]:
    """Return what a call to a hypervisor returned, or why it failed: a fault in a backend must not end vmd."""
    try:
        return await call(), ""
    except JitsuError as error:
        return None, str(error)
    except Exception as error:
        log.error("hypervisor call failed unexpectedly", exc_info=error)
        return None, f"{type(error).__name__}: {error}"


def hypervisor_name(vm: VM) -> str:
    """Return the name of the connection on which a VM runs, "" for that of [hypervisor]."""
    return vm.config.get("hypervisor", ("",))[0]


async def _finished(work: asyncio.Future[None]) -> None:
    await work
