"""What keeps a fault in the code for one kind of hypervisor, or of one VM, from spreading.

An unexpected exception of a hypervisor's code becomes `Broken`, a JitsuError, and is logged with its traceback. While
looking at many VMs, one odd VM may be the reason for it: a domain whose XML nobody expected, for example. Then the VMs
are looked at in halves until the odd one is found; of n VMs, that costs 2 log2(n) looks. A VM that was found odd before
is looked at alone, so that the others need one look only.

A hypervisor may also say by itself that nothing is known of some VMs (`Guest.unseen`): a part of a cluster is cut off,
for example. That costs no further look.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

import structlog

from jitsu_protocol.model.errors import JitsuError
from jitsu_vmd.hypervisor import Unseen

if TYPE_CHECKING:
    from collections.abc import Iterator

    from jitsu_protocol.model.vm import VM
    from jitsu_vmd.hypervisor import Guest, Hypervisor

MAX_LOOKS = 64
"""In search of odd VMs; the rest of the search is left to the next look. It finds two among ten thousand VMs."""

log = structlog.get_logger("vmd")


class Broken(Unseen):
    """The code for a kind of hypervisor has raised what it should not raise."""


@contextmanager
def isolated(*, logs: bool = True) -> Iterator[None]:
    """Turn an unexpected exception into `Broken`: it must not end vmd."""
    try:
        yield
    except JitsuError:
        raise
    except Exception as error:
        broken = Broken(f"{type(error).__name__}: {error}")
        broken.__cause__ = error
        if logs:
            _log(broken)
        raise broken from error


def _log(error: Unseen) -> None:
    """Log what was not expected, with the traceback."""
    if isinstance(error, Broken):
        log.error("hypervisor call failed unexpectedly", exc_info=error.__cause__)


class OddVms:
    """The VMs of one hypervisor at which looking fails."""

    def __init__(self) -> None:
        self._faults: dict[str, str] = {}
        """uuid -> why."""
        self._unseen: dict[str, str] = {}
        """uuid -> why, as the hypervisor itself has said."""
        self._silent = ""
        """Why no VM could be looked at, the last time."""

    def fault(self, vm: VM) -> str:
        """Return why this VM cannot be looked at, "" if it can."""
        return self._faults.get(vm.uuid, "")

    def unseen(self, vm: VM) -> str:
        """Return why the hypervisor itself says that nothing is known of this VM, "" if it does not say so."""
        return self._unseen.get(vm.uuid, "")

    def forget(self, vm: VM) -> None:
        """Forget a VM that is gone."""
        self._faults.pop(vm.uuid, None)
        self._unseen.pop(vm.uuid, None)

    async def guests(self, backend: Hypervisor, vms: list[VM]) -> tuple[dict[str, Guest], set[str]]:
        """Return the guests of these VMs, and the uuids of those that could be looked at.

        Raises JitsuError if the hypervisor says that it is not there, or if no VM could be looked at.
        """
        groups = [[vm for vm in vms if vm.uuid not in self._faults], *([vm] for vm in vms if vm.uuid in self._faults)]
        waiting = [group for group in groups if group] or [[]]
        found: dict[str, Guest] = {}
        heard: set[str] = set()
        odd: list[tuple[VM, Unseen]] = []
        last: Unseen | None = None
        is_answered = False
        for _ in range(MAX_LOOKS):
            if not waiting:
                break
            group = waiting.pop(0)
            try:
                with isolated(logs=False):
                    guests = await backend.guests(group)
            except Unseen as error:
                last = error
                if len(group) == 1:
                    odd.append((group[0], error))
                elif group:
                    middle = len(group) // 2
                    waiting = [group[:middle], group[middle:], *waiting]
            else:
                is_answered = True
                heard |= {vm.uuid for vm in group if self._is_seen(vm, guests.get(vm.uuid))}
                found |= {vm: guest for vm, guest in guests.items() if not guest.unseen}
                if len(group) == 1:
                    self._faults.pop(group[0].uuid, None)
        if last is not None and not is_answered:
            if self._silent != str(last):
                _log(last)
            self._silent = str(last)
            raise last
        self._silent = ""
        for vm, fault in odd:
            self._note(vm, fault)
        return found, heard

    def _is_seen(self, vm: VM, guest: Guest | None) -> bool:
        """Note whether the hypervisor says that it knows nothing of a VM."""
        unseen = guest.unseen if guest is not None else ""
        before = self._unseen.pop(vm.uuid, "")
        if unseen:
            self._unseen[vm.uuid] = unseen
            if not before:
                log.error("the state of this VM is not known", vm=vm.name, reason=unseen)
        return not unseen

    def _note(self, vm: VM, error: Unseen) -> None:
        if self._faults.get(vm.uuid) != str(error):
            _log(error)
            log.error("looking at this VM fails: its state is not known", vm=vm.name, reason=str(error))
        self._faults[vm.uuid] = str(error)
