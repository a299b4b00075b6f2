"""libxl, through xl(1): domains that are made for VMs, and Xenstore.

A domain is created paused; what the guest is to find in Xenstore is written; then it is let run. What was suspended is
a file in `hypervisor.save_directory`.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING

import structlog

from jitsu_protocol.errors import NotFound, SetupFault, Unavailable
from jitsu_protocol.xenstore import Xenstore
from jitsu_vmd.hypervisor import Guest, Nic
from jitsu_vmd.rules import xl as rules
from jitsu_vmd.rules.domain import nth_mac
from jitsu_vmd.rules.events import GuestState
from jitsu_vmd.wires import commands

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from jitsu_protocol.process import Process
    from jitsu_protocol.vm import VM

LOOK_LIMIT_S = 10.0
ASK_AGAIN_S, WATCH_S = 5.0, 0.25
DOMAINS = ("@introduceDomain", "@releaseDomain")
"""Xenstore's watches for domains that come and go (docs/misc/xenstore.txt)."""

log = structlog.get_logger("vmd")


class Libxl:
    """The domains of this dom0."""

    watches_keys = True
    name = "libxl (xl)"

    def __init__(self, process: Process) -> None:
        self._settings = process.settings.hypervisor
        self._directory = process.settings.bus.directory / "xl"
        self._saves = Path(self._settings.save_directory)
        self._xenstore = Xenstore(self._settings.xenstore, process.spawn)

    def refusal(self, vm: VM) -> str:
        """Return why libxl cannot do what a VM's keys ask for, or nothing."""
        try:
            rules.config(vm, self._settings.bridge)
            self._rumprun(vm)
        except rules.XlFault as fault:
            return str(fault)
        missing = [key for key in ("kernel", "initrd") if vm.key(key) and not Path(vm.key(key)).exists()]
        return f"{missing[0]}: there is no file {vm.key(missing[0])}" if missing else ""

    @staticmethod
    def _rumprun(vm: VM) -> str:
        path = vm.key("rumprun_config")
        if not path:
            return ""
        try:
            return rules.rumprun(Path(path).read_text())
        except OSError as error:
            raise rules.XlFault(f"rumprun_config: {path} cannot be read: {error.strerror}") from None

    async def open(self) -> None:
        """See that xl and Xenstore answer."""
        try:
            await self._list()
        except FileNotFoundError:
            raise SetupFault("xl is not installed", hint="apt-get install xen-utils, and boot Xen") from None
        await self._xenstore.children("/")

    async def run(self, changed: Callable[[str], None]) -> None:
        """Tell when domains come and go."""
        for path in DOMAINS:
            await self._xenstore.watch(path, lambda: changed(""))
        await asyncio.Event().wait()

    async def guests(self, vms: Sequence[VM]) -> dict[str, Guest]:
        """Look at these VMs' domains."""
        domains = {each.uuid: each for each in await self._list()}
        found = {}
        for vm in vms:
            domain = domains.get(vm.uuid)
            state = GuestState.OFF if domain is None else domain.state
            if state is GuestState.OFF and self._save(vm).exists():
                state = GuestState.SUSPENDED
            found[vm.uuid] = Guest(state, nics=self._nics(vm, domain))
        return found

    def _nics(self, vm: VM, domain: rules.Listed | None) -> tuple[Nic, ...]:
        """Return the interfaces of a VM; xl names the host's end of each vifDOMID.N (xl-network-configuration(5))."""
        bridges = vm.config.get("nic", (self._settings.bridge,))
        vif = "" if domain is None else f"vif{domain.id}."
        return tuple(Nic(nth_mac(vm.mac, n), bridge, vif and f"{vif}{n}") for n, bridge in enumerate(bridges))

    async def start(self, vm: VM) -> None:
        """Create a domain, write what it is to find in Xenstore, and let it run."""
        if await self._find(vm) is not None:
            return
        self._directory.mkdir(parents=True, exist_ok=True)
        path = self._directory / f"{vm.name}.cfg"
        path.write_text(rules.config(vm, self._settings.bridge))
        await self._xl("create", "-q", "-p", str(path))
        domain = await self._domain(vm)
        if config := self._rumprun(vm):
            await self._xenstore.change({f"/local/domain/{domain.id}/rumprun/cfg": config})
        await self._xl("unpause", str(domain.id))

    async def resume(self, vm: VM) -> None:
        """Restore a domain from its file."""
        await self._xl("restore", str(self._save(vm)))
        self._save(vm).unlink(missing_ok=True)

    async def unpause(self, vm: VM) -> None:
        """Let a paused domain run on."""
        await self._xl("unpause", str((await self._domain(vm)).id))

    async def shutdown(self, vm: VM) -> None:
        """Ask the guest to shut down, until it has or its time is over."""
        ends, asked_at = monotonic() + float(vm.key("shutdown_limit")), 0.0
        while (domain := await self._find(vm)) is not None:
            if monotonic() >= ends:
                log.warning("has not shut down in time, destroyed", vm=vm.name)
                await self.destroy(vm)
                return
            if monotonic() >= asked_at + ASK_AGAIN_S:
                asked_at = monotonic()
                with suppress(Unavailable):  # it may have gone just now
                    await self._xl("shutdown", "-F", str(domain.id))
            await asyncio.sleep(WATCH_S)

    async def destroy(self, vm: VM) -> None:
        """Stop a domain at once."""
        domain = await self._find(vm)
        if domain is not None:
            await self._xl("destroy", str(domain.id))

    async def suspend(self, vm: VM) -> None:
        """Save a domain to its file."""
        domain = await self._domain(vm)
        self._saves.mkdir(parents=True, exist_ok=True)
        partial = self._save(vm).with_suffix(".new")
        await self._xl("save", str(domain.id), str(partial))
        partial.replace(self._save(vm))

    async def pause(self, vm: VM) -> None:
        """Pause a domain."""
        await self._xl("pause", str((await self._domain(vm)).id))

    async def forget(self, vm: VM) -> None:
        """Remove the files of a VM."""
        for path in (self._directory / f"{vm.name}.cfg", self._save(vm)):
            path.unlink(missing_ok=True)

    async def domain_id(self, vm: VM) -> int | None:
        """Return the domain's id while it is there."""
        domain = await self._find(vm)
        return None if domain is None else domain.id

    async def wait_for_key(self, vm: VM) -> None:
        """Return when the VM's key is in Xenstore."""
        domain = await self._domain(vm)
        await self._xenstore.wait_for(f"/local/domain/{domain.id}/{vm.wait_for_key}")

    def _save(self, vm: VM) -> Path:
        return self._saves / f"{vm.uuid}.save"

    async def _domain(self, vm: VM) -> rules.Listed:
        domain = await self._find(vm)
        if domain is None:
            raise NotFound(f"Xen has no domain {vm.name}")
        return domain

    async def _find(self, vm: VM) -> rules.Listed | None:
        return next((each for each in await self._list() if each.uuid == vm.uuid), None)

    async def _list(self) -> list[rules.Listed]:
        try:
            async with asyncio.timeout(LOOK_LIMIT_S):
                return rules.listed(await self._xl("list", "-v"))
        except TimeoutError:
            raise Unavailable("xl does not answer") from None

    @staticmethod
    async def _xl(*arguments: str) -> str:
        """Run xl; vmd limits how long that may take."""
        status, out, err = await commands.run("xl", *arguments)
        if status:
            raise Unavailable(f"xl {arguments[0]}: {rules.reason(err) or f'status {status}'}")
        return out
