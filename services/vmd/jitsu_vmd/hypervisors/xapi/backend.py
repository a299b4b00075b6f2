"""XAPI (XenAPI), of XenServer and XCP-ng: VMs that a pool has already.

Calls block, so each runs on a thread with a session of its own; XenAPI logs in again when one has expired. A host that
is not the pool's master names it, and is left for it.
"""

from __future__ import annotations

import asyncio
import http.client
import ssl
import threading
import xmlrpc.client
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import structlog

from jitsu_protocol.model.errors import JitsuError, NotFound, Refused, SetupFault, Unavailable
from jitsu_protocol.model.vm_keys import StopMode
from jitsu_vmd.hypervisor import Examined, Guest, Nic
from jitsu_vmd.rules import domain as rules
from jitsu_vmd.rules import means
from jitsu_vmd.rules.events import GuestState
from jitsu_vmd.wires.threads import Threads

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from jitsu_protocol.model.hypervisors import Connection
    from jitsu_protocol.model.vm import VM
    from jitsu_runtime.world import World

LOOK_LIMIT_S, OPEN_LIMIT_S = 10.0, 15.0
EVENT_WAIT_S = 30.0
RETRY_S = 1.0
FEW = 16
"""So many VMs are asked for one by one; beyond that the records of all cost less."""
VERSION, ORIGINATOR = "1.0", "jitsu"
_STATES = {
    "Halted": GuestState.OFF,
    "Running": GuestState.RUNNING,
    "Suspended": GuestState.SUSPENDED,
    "Paused": GuestState.PAUSED,
}

log = structlog.get_logger("vmd")


def make(world: World, connection: Connection) -> Xapi:
    """Return XAPI at an address."""
    return Xapi(world, connection.uri)


class Xapi:
    """The VMs of one pool."""

    def __init__(self, process: World, uri: str) -> None:
        self._settings = process.settings.hypervisor
        self._uri = uri
        self.name = f"XAPI ({uri})"
        self._threads = Threads(self.name, self._translated)
        self._local = threading.local()
        self._library: Any = None
        self._refs: dict[str, str] = {}
        """XAPI's reference -> uuid of the VM."""
        self._nics: dict[str, tuple[Nic, ...]] = {}
        """By reference; `interface` is the number of the device only, as each start gives a VM another domain id."""

    def check(self, vm: VM) -> None:
        """Raise Refused if XAPI cannot do what a VM's keys ask for."""
        if vm.wait_for_key:
            raise Refused("wait_for_key: XAPI gives no access to Xenstore")
        if rules.is_made(vm):
            raise Refused("kernel and domain_xml: on XAPI a VM is one that the pool has already")

    async def examine(self, vms: Sequence[VM]) -> dict[str, Examined]:
        """Look for keys that count for nothing, and for VMs that the pool does not have."""
        otherwise = f"{self._uri} does not answer"
        return await self._threads.within(LOOK_LIMIT_S, otherwise, lambda: self._examine(list(vms)))

    def _examine(self, vms: list[VM]) -> dict[str, Examined]:
        session = self._session()
        found = {}
        for vm in vms:
            records = self._found(session, vm)
            writes = len(records) == 1 and any(
                (disk := session.xenapi.VBD.get_record(each))["type"] == "Disk" and disk["mode"] == "RW"
                for each in records[0][1]["VBDs"]
            )
            found[vm.uuid] = Examined(str(_not_one(vm, len(records)) or "") or means.of_xapi(vm), writes)
        return found

    # --- sessions ---

    async def open(self) -> None:
        """Log in."""
        try:
            from XenAPI import XenAPI
        except ImportError:
            raise SetupFault("XenAPI is not installed", hint='pip install "jitsu-vmd[xapi]"') from None
        if urlsplit(self._uri).scheme not in ("http", "https"):
            raise SetupFault(
                f"hypervisor.connect: {self._uri!r} is not an address of XAPI; expected something like https://host"
            )
        if self._settings.password_file and not Path(self._settings.password_file).exists():
            raise SetupFault(f"hypervisor.password_file: there is no file {self._settings.password_file}")
        self._library = XenAPI
        await self._threads.within(OPEN_LIMIT_S, f"{self._uri} does not answer", self._session)
        log.info("connected", hypervisor=self.name)

    def _session(self) -> Any:
        """Return this thread's session."""
        session = getattr(self._local, "session", None)
        if session is None or self._local.uri != self._uri:
            session = self._local.session = self._logged_in()
            self._local.uri = self._uri
        return session

    def _logged_in(self) -> Any:
        password = ""
        if self._settings.password_file:
            password = Path(self._settings.password_file).read_text().rstrip("\n")
        for _ in range(3):  # a host names the master, which may have changed meanwhile
            session = self._library.Session(self._uri, transport=self._transport())
            try:
                session.xenapi.login_with_password(self._settings.user, password, VERSION, ORIGINATOR)
            except self._library.Failure as failure:
                if failure.details[0] != "HOST_IS_SLAVE":
                    raise
                self._follow(failure.details[1])
            else:
                return session
        raise Unavailable(f"{self._uri} and others name each other as the pool's master")

    def _follow(self, master: str) -> None:
        parts = urlsplit(self._uri)
        port = f":{parts.port}" if parts.port else ""
        host = f"[{master}]" if ":" in master else master
        log.warning("the pool has another master", was=self._uri, master=master)
        self._uri = f"{parts.scheme}://{host}{port}"

    def _transport(self) -> xmlrpc.client.Transport:
        if urlsplit(self._uri).scheme == "http":
            return xmlrpc.client.Transport()
        context = ssl.create_default_context(cafile=self._settings.ca_file or None)
        return xmlrpc.client.SafeTransport(context=context)

    def _translated(self, error: Exception) -> Exception | None:
        self._local.session = None  # a connection that failed once is not used again
        if self._library is not None and isinstance(error, self._library.Failure):
            code, *details = map(str, error.details)
            if code == "HOST_IS_SLAVE" and details:
                self._follow(details[0])
            if code == "SESSION_AUTHENTICATION_FAILED":
                return Unavailable("XAPI takes neither user nor password", hint="see hypervisor.password_file")
            return Unavailable(f"XAPI says {code}{': ' + ', '.join(details) if details else ''}")
        if isinstance(error, xmlrpc.client.ProtocolError):
            return Unavailable(f"{self._uri} answers {error.errcode} {error.errmsg}")
        if isinstance(error, (OSError, xmlrpc.client.Error, http.client.HTTPException)):
            return Unavailable(f"{self._uri} cannot be reached: {error}")
        return None

    # --- looking ---

    async def run(self, changed: Callable[[str], None]) -> None:
        """Follow XAPI's events."""
        token = ""
        while True:
            try:
                token, refs = await self._threads.run(partial(self._next_events, token))
            except JitsuError as error:
                log.debug("no events from XAPI", reason=str(error))
                token = ""
                await asyncio.sleep(RETRY_S)
                changed("")
                continue
            for ref in refs:
                self._nics.pop(ref, None)
                if ref in self._refs:
                    changed(self._refs[ref])

    def _next_events(self, token: str) -> tuple[str, set[str]]:
        answer = self._session().xenapi.event_from(["vm"], token, EVENT_WAIT_S)
        return str(answer["token"]), {str(event["ref"]) for event in answer["events"]}

    async def guests(self, vms: Sequence[VM]) -> dict[str, Guest]:
        """Look at these VMs."""
        return await self._threads.look(LOOK_LIMIT_S, lambda: self._look(list(vms)))

    def _look(self, vms: list[VM]) -> dict[str, Guest]:
        session = self._session()
        found = {}
        for vm, ref, record in self._records(session, vms):
            self._refs[ref] = vm.uuid
            found[vm.uuid] = self._guest(session, ref, record)
        return found

    def _records(self, session: Any, vms: list[VM]) -> list[tuple[VM, str, dict[str, Any]]]:
        """Return these VMs' references and records, for those that the pool has exactly once."""
        if len(vms) <= FEW:
            each = [(vm, self._found(session, vm)) for vm in vms]
            return [(vm, *found[0]) for vm, found in each if len(found) == 1]
        records = {ref: record for ref, record in session.xenapi.VM.get_all_records().items() if _is_vm(record)}
        by_uuid = {record["uuid"]: ref for ref, record in records.items()}
        by_name: dict[str, list[str]] = {}
        for ref, record in records.items():
            by_name.setdefault(record["name_label"], []).append(ref)
        found = []
        for vm in vms:
            refs = [by_uuid[vm.uuid]] if vm.uuid in by_uuid else by_name.get(vm.name, [])
            if "uuid" in vm.config:
                refs = refs if vm.uuid in by_uuid else []
            if len(refs) == 1:
                found.append((vm, refs[0], records[refs[0]]))
        return found

    def _guest(self, session: Any, ref: str, record: dict[str, Any]) -> Guest:
        nics = self._nics.get(ref)
        if nics is None:
            vifs = [session.xenapi.VIF.get_record(each) for each in record["VIFs"]]
            nics = tuple(
                Nic(vif["MAC"].lower(), session.xenapi.network.get_bridge(vif["network"]), vif["device"])
                for vif in sorted(vifs, key=lambda vif: int(vif["device"]))
            )
            self._nics[ref] = nics
        domain = int(record.get("domid", -1))  # -1 while it does not run
        if domain > 0:
            nics = tuple(replace(nic, interface=f"vif{domain}.{nic.interface}") for nic in nics)
        else:
            nics = tuple(replace(nic, interface="") for nic in nics)
        return Guest(_STATES.get(record["power_state"], GuestState.OFF), nics=nics)

    # --- calls ---

    async def start(self, vm: VM) -> None:
        """Let a VM run: continue it if it is paused, restore its suspend image, or boot it.

        An image is restored paused, so that the guest does not run before XAPI has noted that the image is used.
        """

        def begin(session: Any, ref: str) -> None:
            calls = session.xenapi.VM
            match calls.get_power_state(ref):
                case "Halted":
                    calls.start(ref, False, False)
                case "Suspended":
                    calls.resume(ref, True, False)
                    calls.unpause(ref)
                case "Paused":
                    calls.unpause(ref)

        await self._on_vm(vm, begin)

    async def discard(self, vm: VM) -> None:
        """Halt a VM that is paused or suspended; its suspend image goes with that."""

        def halt(session: Any, ref: str) -> None:
            state = session.xenapi.VM.get_power_state(ref)
            if state == "Running":
                raise Refused(f"{vm.name} runs: its saved state is not discarded", hint="stop it first")
            if state != "Halted":
                session.xenapi.VM.hard_shutdown(ref)

        await self._on_vm(vm, halt)

    async def stop(self, vm: VM, how: StopMode) -> None:
        """Stop a VM."""
        match how:
            case StopMode.DESTROY:
                await self._destroy(vm)
            case StopMode.SHUTDOWN:
                await self._shut_down(vm)
            case StopMode.SUSPEND:
                await self._suspend(vm)
            case StopMode.PAUSE:
                await self._pause(vm)

    async def _shut_down(self, vm: VM) -> None:
        """Ask the guest to shut down; XAPI waits for it, and we for XAPI as long as the VM says."""
        limit = float(vm.key("shutdown_limit"))
        begun = monotonic()
        try:
            async with asyncio.timeout(limit):
                await self._on_vm(vm, lambda session, ref: session.xenapi.VM.clean_shutdown(ref))
        except (TimeoutError, JitsuError) as error:
            if isinstance(error, NotFound):
                raise
            took = round(monotonic() - begun, 1)
            log.warning("the guest did not shut down and was destroyed", vm=vm.name, after_s=took, reason=str(error))
            await self._destroy(vm)

    async def _destroy(self, vm: VM) -> None:
        """Stop a VM that runs, at once; what XAPI calls VM.destroy would remove it."""

        def halt(session: Any, ref: str) -> None:
            match session.xenapi.VM.get_power_state(ref):
                case "Running":
                    session.xenapi.VM.hard_shutdown(ref)
                case "Paused":
                    raise Unavailable(f"{vm.name} is paused: it is not destroyed, because its memory would be lost")

        with suppress(NotFound):
            await self._on_vm(vm, halt)

    async def _suspend(self, vm: VM) -> None:
        """Suspend a VM to disk."""
        await self._on_vm(vm, lambda session, ref: session.xenapi.VM.suspend(ref))

    async def _pause(self, vm: VM) -> None:
        """Pause a VM."""
        await self._on_vm(vm, lambda session, ref: session.xenapi.VM.pause(ref))

    async def forget(self, _: VM) -> None:
        """Nothing was made for it."""

    async def _on_vm(self, vm: VM, work: Callable[[Any, str], None]) -> None:
        def with_session() -> None:
            session = self._session()
            work(session, self._ref(session, vm))

        await self._threads.run(with_session)

    def _ref(self, session: Any, vm: VM) -> str:
        """Return XAPI's reference of a VM; an ambiguous name is an error."""
        found = self._found(session, vm)
        if (error := _not_one(vm, len(found))) is not None:
            raise error
        return found[0][0]

    def _found(self, session: Any, vm: VM) -> list[tuple[str, dict[str, Any]]]:
        """Return reference and record of each VM that may be meant."""
        calls = session.xenapi.VM
        if "uuid" not in vm.config:
            refs = calls.get_by_name_label(vm.name)
        else:
            try:
                refs = [calls.get_by_uuid(vm.uuid)]
            except self._library.Failure as failure:
                if failure.details[0] != "UUID_INVALID":
                    raise
                refs = []
        records = [(str(ref), calls.get_record(ref)) for ref in refs]
        return [(ref, record) for ref, record in records if _is_vm(record)]


def _not_one(vm: VM, found: int) -> JitsuError | None:
    """Return what is wrong if the pool has so many VMs that may be meant."""
    if not found:
        which = f"with the uuid {vm.uuid}" if "uuid" in vm.config else vm.name
        return NotFound(f"the pool has no VM {which}", hint="`xe vm-list` shows the VMs of the pool")
    if found > 1:
        return Unavailable(f"{found} VMs of the pool are called {vm.name}", hint="name one of them with the key uuid")
    return None


def _is_vm(record: dict[str, Any]) -> bool:
    return not (record["is_a_template"] or record["is_a_snapshot"] or record["is_control_domain"])
