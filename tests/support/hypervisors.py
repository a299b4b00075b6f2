"""A hypervisor's backend as vmd has it, with one VM; what the tests of each and of all use."""

from __future__ import annotations

import asyncio
import os
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import pytest

from jitsu_protocol.model.errors import JitsuError, Refused, Unavailable
from jitsu_protocol.model.vm import from_config
from jitsu_protocol.model.vm_keys import StopMode
from jitsu_runtime.xenstore import Xenstore
from jitsu_vmd.hypervisor import DomainIds, XenstoreKeys
from jitsu_vmd.hypervisors.libxl.backend import Libxl
from jitsu_vmd.hypervisors.loopback.backend import Loopback
from jitsu_vmd.hypervisors.solo5.backend import Solo5
from jitsu_vmd.rules.events import GuestState
from tests.support import dockerd, fake_xl, solo5
from tests.support.lan import BRIDGE
from tests.support.libvirtd import URI, XEN_URI, guest_image
from tests.support.machine_command import CommandMachines
from tests.support.process import running_process
from tests.support.proxmox import FakePve, token_file
from tests.support.proxmox_qemu import QemuBody
from tests.support.suite import SLOWER
from tests.support.xapi import FakeXapi, password_file
from tests.support.xenstored import running_xenstored

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Mapping

    from jitsu_protocol.model.vm import VM
    from jitsu_vmd.hypervisor import Hypervisor
    from jitsu_vmd.wires.hypervisors import Hypervisors

LIMIT_S = 30.0 * SLOWER
NEEDS = {
    "libvirt qemu": "qemu",
    "libxl xen": "dom0",
    "lxd": "lxd",
    "qemu microvm": "bridge_here",
    "qemu q35": "bridge_here",
    "proxmox qemu": "bridge_here",
    "docker": "dockerd",
    "docker podman": "podman",
}
XEN = [pytest.mark.xen, pytest.mark.timeout(300)]
libvirt = pytest.mark.libvirt


def with_what_it_needs(request: pytest.FixtureRequest) -> str:
    """Return the kind that a fixture is asked for, and run what that takes."""
    if request.param in NEEDS:
        request.getfixturevalue(NEEDS[request.param])
    return str(request.param)


def raised(check: Callable[[VM], None], vm: VM) -> str:
    """Return why a check refuses a VM, "" if it does not."""
    try:
        check(vm)
    except Refused as refused:
        return str(refused)
    return ""


def refusal_of(hypervisor: Hypervisor | Hypervisors, vm: VM) -> str:
    """Return why a hypervisor refuses a VM, "" if it does not."""
    return raised(hypervisor.check, vm)


async def domain_id(hypervisor: Hypervisor, vm: VM) -> int | None:
    """Return a VM's id in Xenstore, None where there is none."""
    return await hypervisor.domain_id(vm) if isinstance(hypervisor, DomainIds) else None


class Running:
    """A hypervisor, one of its VMs, and what it has reported."""

    def __init__(self, hypervisor: Hypervisor, vm: VM, spawn: Callable[..., asyncio.Task[None]]) -> None:
        self.hypervisor = hypervisor
        self.vm = vm
        self.told: list[str] = []
        self._spawn = spawn
        self.follows = self._followed()
        """Runs its event loop."""
        self.xapi: FakeXapi | None = None
        self.pve: FakePve | None = None
        self.machines: CommandMachines | None = None
        self.tender = Path()
        """The tender of Solo5."""
        self.xenstore = ""
        """xenstored's socket; empty: the usual one."""

    async def saved(self, kind: str, how: str) -> None:
        """Have the VM started, and paused or suspended."""
        await self.hypervisor.start(self.vm)
        if kind == "libxl xen" and how == "suspend":
            await self.boots()
        await self.hypervisor.stop(self.vm, StopMode(how))

    def _followed(self) -> asyncio.Task[None]:
        return self._spawn(self.hypervisor.run(self.told.append))

    async def opened_again(self) -> None:
        """Have its event loop ended, as by a fault, and what vmd does then."""
        self.follows.cancel()
        await asyncio.wait([self.follows])
        await self.hypervisor.open()
        self.follows = self._followed()
        self.told.clear()

    async def start_fails(self, kind: str) -> None:
        """Start the VM, which its hypervisor refuses this time."""
        if kind == "mock":
            with pytest.raises(JitsuError, match="refuses to start"):
                await self.hypervisor.start(vm_of(kind, boot_failure="start"))
            return
        with pytest.MonkeyPatch.context() as patch:
            if self.machines is not None:
                saved = await self.state() in (GuestState.PAUSED, GuestState.SUSPENDED)
                fails = f"fail-{'resume' if saved else 'start'}"
                self.machines.on(fails)
            elif kind == "solo5":
                _launcher_refuses(patch)
            elif self.pve is not None:
                verb = "resume" if await self.state() is GuestState.PAUSED else "start"
                self.pve.fails = {f"qm{verb}": "start failed: Not enough free memory"}
            elif self.xapi is not None:
                self.xapi.fails = {await self._call_that_starts(): 1}
            elif kind.startswith("libvirt"):
                _libvirt_refuses(patch)
            elif kind.startswith("qemu"):
                _qemu_refuses(patch)
            elif kind == "lxd":
                _lxd_refuses(patch)
            elif kind.startswith("docker"):
                _docker_refuses(patch)
            else:
                home = Path(os.environ["FAKE_XL"])
                (home / f"fail-{'unpause' if await self.state() is GuestState.PAUSED else 'restore'}").touch()
            with pytest.raises(JitsuError, match=r"NOT_ENOUGH_FREE_MEMORY|Not enough free memory"):
                await self.hypervisor.start(self.vm)
        if self.machines is not None:
            self.machines.off(fails)

    async def _call_that_starts(self) -> str:
        states = {GuestState.PAUSED: "unpause", GuestState.SUSPENDED: "resume", GuestState.OFF: "start"}
        return states[await self.state()]

    async def state(self) -> GuestState:
        guests = await self.hypervisor.guests([self.vm])
        return guests[self.vm.uuid].state if self.vm.uuid in guests else GuestState.OFF

    @asynccontextmanager
    async def forgotten(self) -> AsyncIterator[None]:
        """Leave nothing of the VM."""
        try:
            yield
        finally:
            if await self.state() is GuestState.RUNNING:
                await self.hypervisor.stop(self.vm, StopMode.DESTROY)
            await self.hypervisor.discard(self.vm)
            await self.hypervisor.forget(self.vm)

    async def becomes(self, state: GuestState) -> None:
        async with asyncio.timeout(LIMIT_S):
            while await self.state() is not state:
                await asyncio.sleep(0.05)

    async def boots(self) -> None:
        """Wait until a guest of Xen says that it can be suspended."""
        store = Xenstore("", asyncio.ensure_future)
        key = f"/local/domain/{await domain_id(self.hypervisor, self.vm)}/control/feature-suspend"
        async with asyncio.timeout(LIMIT_S):
            while await store.read(key) != "1":
                await asyncio.sleep(0.2)
        store.close()

    async def tells(self, what: Callable[[], object]) -> None:
        """Wait until the hypervisor has said that the VM changed."""
        async with asyncio.timeout(5):
            while not what():
                await asyncio.sleep(0.02)


def _launcher_refuses(patch: pytest.MonkeyPatch) -> None:
    from jitsu_vmd.hypervisors.solo5.wires.client import LauncherClient

    real = LauncherClient.call

    async def call(self: LauncherClient, call: str, **arguments: Any) -> dict[str, Any]:
        if call == "list":
            return await real(self, call, **arguments)
        return {"error": "Not enough free memory"}

    patch.setattr(LauncherClient, "call", call)


def _qemu_refuses(patch: pytest.MonkeyPatch) -> None:
    from jitsu_vmd.hypervisors.qemu.wires.monitor import QmpMonitor

    real = QmpMonitor.call

    async def call(self: QmpMonitor, command: str, **arguments: Any) -> dict[str, Any]:
        if command == "query-status":
            return await real(self, command, **arguments)
        raise Unavailable("Not enough free memory")

    patch.setattr(QmpMonitor, "call", call)


def _lxd_refuses(patch: pytest.MonkeyPatch) -> None:
    from jitsu_vmd.hypervisors.lxd.rules.answers import LxdError
    from jitsu_vmd.hypervisors.lxd.wires.client import LxdClient

    async def refuse(*_: object, **__: object) -> None:
        raise LxdError(400, "Not enough free memory")

    patch.setattr(LxdClient, "change", refuse)


def _docker_refuses(patch: pytest.MonkeyPatch) -> None:
    from jitsu_vmd.hypervisors.docker.wires.engine import Engine

    async def refuse(*_: object, **__: object) -> None:
        raise Unavailable("the engine fails with 500: Not enough free memory")

    patch.setattr(Engine, "change", refuse)


def _libvirt_refuses(patch: pytest.MonkeyPatch) -> None:
    import libvirt as library

    def refuse(*_: object) -> None:
        raise library.libvirtError("Not enough free memory")

    for call in ("create", "createWithFlags", "resume"):
        patch.setattr(library.virDomain, call, refuse)


WORKER = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
"""Tests that run at the same time have a loopback address of their own each: a mock guest listens there."""


def vm_of(kind: str, **keys: str) -> VM:
    config = {"name": "jitsu-conforms", "dns": "c.jitsu.test", "ip": f"127.88.{WORKER}.1", "boot_time": "0"}
    if kind == "libxl":
        config |= {"kernel": "/proc/version", "nic": "xenbr0"}
    elif kind == "solo5":
        config |= {"memory": "16384"}
    elif kind.startswith("docker"):
        config |= {"image": dockerd.IMAGE, "ip": f"{dockerd.PREFIX}.9", "shutdown_limit": "600"}
        del config["boot_time"]
    elif kind == "command":
        config = {key: value for key, value in config.items() if key != "boot_time"} | {"command": "machine"}
    elif kind.startswith(("libvirt", "libxl", "qemu")):
        image = Path("/none") if kind == "libvirt test" else guest_image()
        console = "hvc0" if kind.endswith("xen") else "ttyS0"
        config |= {"kernel": f"{image}/kernel", "initrd": f"{image}/initrd", "memory": "98304", "nic": BRIDGE}
        config |= {"cmdline": f"console={console} quiet jitsu.ip=10.77.0.9/24", "shutdown_limit": "600"}
    if kind.startswith("qemu"):
        config |= {"machine": kind.split()[1]} | ({"stop_mode": "suspend"} if kind.endswith("microvm") else {})
    return from_config({key: [value] for key, value in (config | keys).items()}, {})


@asynccontextmanager
async def running(kind: str, directory: Path, **keys: str) -> AsyncIterator[Running]:
    """Run a hypervisor, with one VM that may be started."""
    vm = vm_of(kind, **keys)
    if kind == "mock":
        async with _running(vm, directory) as made:
            yield made
            assert isinstance(made.hypervisor, Loopback)
            host = made.hypervisor.host_process
            assert host is not None
            host.terminate()
            host.wait()
    elif kind == "solo5":
        async with running_solo5(directory, {}, **keys) as made:
            yield made
    elif kind == "command":
        async with running_command(directory, **keys) as made:
            yield made
    elif kind.startswith("libxl"):
        async with running_libxl(kind, vm, directory) as made:
            yield made
    elif kind.startswith("qemu"):
        settings = {"hypervisor__kind": "qemu", "hypervisor__accelerate": "tcg"}
        settings["hypervisor__save_directory"] = str(directory / "saved")
        async with _running(vm, directory, **settings) as made, made.forgotten():
            yield made
    elif kind == "lxd":
        async with running_in_lxd(vm, directory) as made:
            yield made
    elif kind.startswith("docker"):
        async with running_docker(vm, directory, hypervisor__connect=dockerd.URIS[kind]) as made:
            yield made
    elif kind.startswith("proxmox"):
        async with FakePve(directory) as pve:
            if kind.endswith("qemu"):
                pve.shutdown_limit_s = LIMIT_S
                pve.add(vm.name, body=QemuBody(directory / "machine"))
            else:
                pve.add(vm.name)
            async with running_proxmox(vm, directory, pve) as made:
                yield made
    elif kind == "xapi":
        with FakeXapi() as xapi:
            xapi.add(vm.name)
            async with running_xapi(vm, directory, xapi) as made:
                yield made
    else:
        uri = {"libvirt test": "test:///default", "libvirt qemu": URI, "libvirt xen": XEN_URI}[kind]
        settings = {"hypervisor__kind": "libvirt", "hypervisor__connect": uri, "hypervisor__accelerate": "tcg"}
        async with _running(vm, directory, **settings) as made, made.forgotten():
            yield made


@asynccontextmanager
async def running_solo5(
    directory: Path, settings: Mapping[str, str] = MappingProxyType({}), **keys: str
) -> AsyncIterator[Running]:
    """Run the backend of Solo5 with a tender that does nothing, and an image without networks unless `keys` has one."""
    if os.geteuid():
        pytest.skip("needs root: each tender has a user of its own")
    with solo5.open_directory() as public:
        kernel = solo5.written(public / "guest.spt", solo5.image())
        tender = str(solo5.tender(public))
        shown = {"hypervisor__kind": "solo5", "hypervisor__tender": tender, "hypervisor__taps": "0"}
        vm = vm_of("solo5", **({"kernel": str(kernel)} | keys))
        try:
            async with _running(vm, directory, **(shown | dict(settings))) as made:
                made.tender = Path(tender)
                async with made.forgotten():
                    yield made
                assert isinstance(made.hypervisor, Solo5)
                launcher = made.hypervisor.launcher
                launcher.close()
        finally:
            solo5.end_launcher(directory)
        launcher.wait()


@asynccontextmanager
async def running_command(directory: Path, section: str = "", **keys: str) -> AsyncIterator[Running]:
    """Run the backend of commands with a program that drives real processes; `section` is its part of jitsu.toml."""
    machines = CommandMachines(directory / "machines")
    file = directory / "jitsu.toml"
    file.write_text(section or machines.toml("machine"))
    try:
        async with _running(vm_of("command", **keys), directory, toml=str(file), hypervisor__kind="command") as made:
            made.machines = machines
            async with made.forgotten():
                yield made
    finally:
        machines.end()


@asynccontextmanager
async def running_libxl(kind: str, vm: VM, directory: Path) -> AsyncIterator[Running]:
    """Run libxl's backend: with an xl that plays Xen and an unmodified xenstored, or in a dom0."""
    if os.geteuid():
        pytest.skip("needs root: xenstored")
    settings = {"hypervisor__kind": "libxl", "hypervisor__save_directory": str(directory / "saved")}
    with ExitStack() as stack:
        if kind == "libxl":
            daemon = stack.enter_context(running_xenstored(directory / "xen"))
            fake_xl.install(directory / "fake", daemon, stack.enter_context(pytest.MonkeyPatch.context()))
            settings["hypervisor__xenstore"] = str(daemon.socket)
        else:
            fake_xl.wrap_real(directory / "wrapped", stack.enter_context(pytest.MonkeyPatch.context()))
        async with _running(vm, directory, **settings) as made:
            try:
                async with made.forgotten():
                    yield made
            finally:
                assert isinstance(made.hypervisor, Libxl)
                made.hypervisor.xenstore.close()


@asynccontextmanager
async def running_docker(vm: VM, directory: Path, **settings: str) -> AsyncIterator[Running]:
    """Run the backend of Docker against an engine."""
    async with _running(vm, directory, hypervisor__kind="docker", **settings) as made, made.forgotten():
        yield made


@asynccontextmanager
async def running_in_lxd(vm: VM, directory: Path, *, makes: bool = True, **settings: str) -> AsyncIterator[Running]:
    """Run the backend of LXD against the server of LXD_DIR, which has an instance for the VM if `makes`."""
    from tests.support.lxd import IMAGE, lxc, remove

    if makes:
        lxc("init", "-q", IMAGE, vm.name)
    try:
        async with _running(vm, directory, hypervisor__kind="lxd", **settings) as made:
            yield made
    finally:
        remove(vm.name)


@asynccontextmanager
async def running_xapi(vm: VM, directory: Path, xapi: FakeXapi, **settings: str) -> AsyncIterator[Running]:
    """Run a hypervisor against an XAPI."""
    password = str(password_file(directory))
    shown = {"hypervisor__kind": "xapi", "hypervisor__connect": xapi.uri, "hypervisor__password_file": password}
    async with _running(vm, directory, **(shown | settings)) as made:
        made.xapi = xapi
        yield made
        xapi.close_sessions()  # whoever waits for events


@asynccontextmanager
async def running_proxmox(vm: VM, directory: Path, pve: FakePve, **settings: str) -> AsyncIterator[Running]:
    """Run the backend against a Proxmox VE; nothing that passes between them may misfit the published description."""
    shown = {
        "hypervisor__kind": "proxmox",
        "hypervisor__connect": pve.uri,
        "hypervisor__token_file": str(token_file(directory)),
        "hypervisor__fingerprint": pve.fingerprint,
        "hypervisor__save_directory": str(directory / "saved"),
    }
    async with _running(vm, directory, **(shown | settings)) as made:
        made.pve = pve
        yield made
    assert not pve.misfits, "\n".join(pve.misfits)


@asynccontextmanager
async def _running(vm: VM, directory: Path, **settings: str) -> AsyncIterator[Running]:
    async with running_process("vmd", directory, **settings) as process:
        from jitsu_vmd.main import hypervisors_for

        hypervisor = hypervisors_for(process)[""]
        await hypervisor.open()
        made = Running(hypervisor, vm, process.spawn)
        made.xenstore = process.settings.hypervisor.xenstore
        await hypervisor.guests([made.vm])
        await asyncio.sleep(0.3)  # the feed of the mock connects
        try:
            yield made
        finally:
            made.follows.cancel()


async def key_comes(made: Running) -> None:
    """See that vmd's wait for the VM's key ends when the key is there."""
    assert isinstance(made.hypervisor, XenstoreKeys)
    domain = await made.hypervisor.domain_id(made.vm)
    waits = asyncio.ensure_future(made.hypervisor.wait_for_key(made.vm))
    await asyncio.sleep(0.5)
    assert not waits.done()
    other = Xenstore(made.xenstore, asyncio.ensure_future)
    await other.change({f"/local/domain/{domain}/{made.vm.wait_for_key}": "up"})
    other.close()
    async with asyncio.timeout(2 * SLOWER):
        await waits
