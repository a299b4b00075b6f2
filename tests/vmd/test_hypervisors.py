"""What vmd may expect of every hypervisor, asked of each that there is."""

from __future__ import annotations

import asyncio
import os
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from jitsu_protocol.errors import JitsuError, NotFound
from jitsu_protocol.vm import from_config
from jitsu_protocol.xenstore import Xenstore
from jitsu_vmd.rules.events import GuestState
from tests.support import fake_xl
from tests.support.lan import BRIDGE, Lan
from tests.support.libvirtd import URI, XEN_URI, guest_image, running_libvirtd
from tests.support.process import running_process
from tests.support.suite import SLOWER
from tests.support.xapi import FakeXapi, password_file, self_signed
from tests.support.xenstored import running_xenstored

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator

    from jitsu_protocol.vm import VM
    from jitsu_vmd.hypervisor import Hypervisor

LIMIT_S = 30.0 * SLOWER
STRANGER = "0d0f4f2a-6a69-5473-8175-76302e320001"
libvirt = pytest.mark.libvirt
XEN = [pytest.mark.xen, pytest.mark.timeout(300)]
BACKENDS = [
    pytest.param("mock", marks=pytest.mark.suite),
    "xapi",
    pytest.param("libxl", marks=pytest.mark.suite),
    pytest.param("libvirt test", marks=libvirt),
    pytest.param("libvirt qemu", marks=[libvirt, pytest.mark.timeout(300)]),
    pytest.param("libxl xen", marks=XEN),
]
LIBXL = [pytest.param("libxl", marks=pytest.mark.suite), pytest.param("libxl xen", marks=XEN)]


@pytest.fixture(scope="module")
def qemu() -> Iterator[None]:
    """Run libvirtd in a network namespace."""
    if os.geteuid():
        pytest.skip("needs root")
    lan = Lan(0)
    try:
        lan.make()
        with running_libvirtd(["ip", "netns", "exec", lan.host]):
            yield
    finally:
        lan.remove()


@pytest.fixture(scope="module")
def dom0() -> Iterator[None]:
    """Have a bridge beside Xen."""
    lan = Lan(0, host_pid=os.getpid())
    try:
        lan.make()
        yield
    finally:
        lan.remove()


@pytest.fixture(scope="module")
def libvirt_in_dom0(dom0: None) -> Iterator[None]:
    """Run libvirtd beside Xen."""
    with running_libvirtd(uri=XEN_URI):
        yield


NEEDS = {"libvirt qemu": "qemu", "libxl xen": "dom0"}


def with_what_it_needs(request: pytest.FixtureRequest) -> str:
    if request.param in NEEDS:
        request.getfixturevalue(NEEDS[request.param])
    return str(request.param)


@pytest.fixture(params=BACKENDS)
def kind(request: pytest.FixtureRequest) -> str:
    return with_what_it_needs(request)


class Running:
    """A hypervisor, a VM of it, and what it has told."""

    def __init__(self, hypervisor: Hypervisor, vm: VM) -> None:
        self.hypervisor = hypervisor
        self.vm = vm
        self.told: list[str] = []

    async def state(self) -> GuestState:
        guests = await self.hypervisor.guests([self.vm])
        return guests[self.vm.uuid].state if self.vm.uuid in guests else GuestState.OFF

    async def becomes(self, state: GuestState) -> None:
        async with asyncio.timeout(LIMIT_S):
            while await self.state() is not state:
                await asyncio.sleep(0.05)

    async def boots(self) -> None:
        """Wait until a guest of Xen says that it can be suspended."""
        store = Xenstore("", asyncio.ensure_future)
        key = f"/local/domain/{await self.hypervisor.domain_id(self.vm)}/control/feature-suspend"
        async with asyncio.timeout(LIMIT_S):
            while await store.read(key) != "1":
                await asyncio.sleep(0.2)
        store.close()

    async def tells(self, what: Callable[[], object]) -> None:
        """Wait until the hypervisor has said that the VM changed."""
        async with asyncio.timeout(5):
            while not what():
                await asyncio.sleep(0.02)


@pytest.fixture(params=LIBXL)
def libxl(request: pytest.FixtureRequest) -> str:
    return with_what_it_needs(request)


def vm_of(kind: str, **keys: str) -> VM:
    config = {"name": "jitsu-conforms", "dns": "c.jitsu.test", "ip": "127.88.0.1", "boot_time": "0"}
    if kind == "libxl":
        config |= {"kernel": "/proc/version", "nic": "xenbr0"}
    elif kind.startswith(("libvirt", "libxl")):
        image = Path("/none") if kind == "libvirt test" else guest_image()
        console = "hvc0" if kind.endswith("xen") else "ttyS0"
        config |= {"kernel": f"{image}/kernel", "initrd": f"{image}/initrd", "memory": "98304", "nic": BRIDGE}
        config |= {"cmdline": f"console={console} quiet jitsu.ip=10.77.0.9/24", "shutdown_limit": "600"}
    return from_config({key: [value] for key, value in (config | keys).items()}, {})


@asynccontextmanager
async def running(kind: str, directory: Path, **keys: str) -> AsyncIterator[Running]:
    """Run a hypervisor, with one VM that may be started."""
    vm = vm_of(kind, **keys)
    if kind == "mock":
        async with _running(vm, directory) as made:
            yield made
            host = made.hypervisor._host  # type: ignore[attr-defined]
            await made.hypervisor.destroy(vm)
            host.terminate()
            host.wait()
    elif kind.startswith("libxl"):
        async with running_libxl(kind, vm, directory) as made:
            yield made
    elif kind == "xapi":
        with FakeXapi() as xapi:
            xapi.add(vm.name)
            async with running_xapi(vm, directory, xapi) as made:
                yield made
    else:
        uri = {"libvirt test": "test:///default", "libvirt qemu": URI, "libvirt xen": XEN_URI}[kind]
        settings = {"hypervisor__kind": "libvirt", "hypervisor__connect": uri, "hypervisor__accelerate": "tcg"}
        async with _running(vm, directory, **settings) as made:
            try:
                yield made
            finally:
                await made.hypervisor.destroy(vm)
                await made.hypervisor.forget(vm)


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
        async with _running(vm, directory, **settings) as made:
            try:
                yield made
            finally:
                await made.hypervisor.destroy(vm)
                await made.hypervisor.forget(vm)
                made.hypervisor._xenstore.close()  # type: ignore[attr-defined]


@asynccontextmanager
async def running_xapi(vm: VM, directory: Path, xapi: FakeXapi, **settings: str) -> AsyncIterator[Running]:
    """Run a hypervisor against an XAPI."""
    password = str(password_file(directory))
    shown = {"hypervisor__kind": "xapi", "hypervisor__connect": xapi.uri, "hypervisor__password_file": password}
    async with _running(vm, directory, **(shown | settings)) as made:
        yield made
        xapi.close_sessions()  # whoever waits for events


@asynccontextmanager
async def _running(vm: VM, directory: Path, **settings: str) -> AsyncIterator[Running]:
    async with running_process("vmd", directory, **settings) as process:
        from jitsu_vmd.main import hypervisors_for

        hypervisor = hypervisors_for(process)[""]
        await hypervisor.open()
        made = Running(hypervisor, vm)
        follows = process.spawn(hypervisor.run(made.told.append))
        await hypervisor.guests([made.vm])
        await asyncio.sleep(0.3)  # the feed of the mock connects
        try:
            yield made
        finally:
            follows.cancel()


async def test_a_vm_is_started_and_destroyed_and_that_is_told(kind: str, tmp_path: Path) -> None:
    async with running(kind, tmp_path) as made:
        assert await made.state() is GuestState.OFF
        await made.hypervisor.start(made.vm)
        assert await made.state() is GuestState.RUNNING
        await made.hypervisor.start(made.vm)
        assert await made.state() is GuestState.RUNNING, "one that runs is left alone"
        made.told.clear()
        await made.hypervisor.destroy(made.vm)
        assert await made.state() is GuestState.OFF
        await made.tells(lambda: {made.vm.uuid, ""} & set(made.told))
        await made.hypervisor.destroy(made.vm)
        await made.hypervisor.start(made.vm)
        assert await made.state() is GuestState.RUNNING, "and again"


async def test_a_vm_is_paused_and_runs_on(kind: str, tmp_path: Path) -> None:
    async with running(kind, tmp_path) as made:
        await made.hypervisor.start(made.vm)
        await made.hypervisor.pause(made.vm)
        assert await made.state() is GuestState.PAUSED
        await made.hypervisor.unpause(made.vm)
        assert await made.state() is GuestState.RUNNING


async def test_a_vm_is_suspended_to_disk_and_resumed(kind: str, tmp_path: Path) -> None:
    async with running(kind, tmp_path) as made:
        await made.hypervisor.start(made.vm)
        if kind == "libxl xen":
            await made.boots()
        await made.hypervisor.suspend(made.vm)
        assert await made.state() is GuestState.SUSPENDED
        await made.hypervisor.resume(made.vm)
        assert await made.state() is GuestState.RUNNING


async def test_a_guest_is_asked_to_shut_down(kind: str, tmp_path: Path) -> None:
    async with running(kind, tmp_path) as made:
        await made.hypervisor.start(made.vm)
        async with asyncio.timeout(LIMIT_S):  # it is not destroyed meanwhile: shutdown_limit is longer
            await made.hypervisor.shutdown(made.vm)
        assert await made.state() is GuestState.OFF


async def test_a_vm_that_it_can_run_is_not_refused(kind: str, tmp_path: Path) -> None:
    async with running(kind, tmp_path) as made:
        assert made.hypervisor.refusal(made.vm) == (
            "" if kind != "libvirt test" else "kernel: there is no file /none/kernel"
        )
        assert await made.hypervisor.domain_id(made.vm) is None, "it is off"


@pytest.fixture(params=[pytest.param("libvirt test", marks=libvirt), pytest.param("libvirt qemu", marks=libvirt)])
def real(request: pytest.FixtureRequest) -> str:
    return with_what_it_needs(request)


async def test_what_a_domain_has_is_told_and_it_is_gone_when_the_vm_is(real: str, tmp_path: Path) -> None:
    async with running(real, tmp_path, mac="02:00:5e:00:53:99") as made:
        guests = await made.hypervisor.guests([made.vm])
        assert [(nic.mac, nic.bridge) for nic in guests[made.vm.uuid].nics] == [("02:00:5e:00:53:99", BRIDGE)]
        await made.hypervisor.forget(made.vm)
        with pytest.raises(NotFound):
            await made.hypervisor.pause(made.vm)


async def test_a_vm_that_was_never_defined_is_told_of(real: str, tmp_path: Path) -> None:
    async with running(real, tmp_path) as made:
        stranger = from_config({"name": ["nobody"], "dns": ["n.jitsu.test"], "ip": ["127.88.0.2"]}, {})
        with pytest.raises(NotFound, match="has no domain nobody") as caught:
            await made.hypervisor.start(stranger)
        assert "virsh define" in caught.value.hint


@libvirt
async def test_a_domain_that_others_defined_is_used_by_its_name_or_uuid(tmp_path: Path) -> None:
    async with running("libvirt test", tmp_path) as made:
        by_name = from_config({"name": ["test"], "dns": ["t.jitsu.test"], "ip": ["127.88.0.3"]}, {})
        guests = await made.hypervisor.guests([by_name])
        assert guests[by_name.uuid].state is GuestState.RUNNING, "libvirt's test driver has one that runs"
        uuid = "6695eb01-f6a4-8304-79aa-97f2502e193f"
        by_uuid = from_config({"name": ["x"], "uuid": [uuid], "dns": ["u.jitsu.test"], "ip": ["127.88.0.4"]}, {})
        assert (await made.hypervisor.guests([by_uuid]))[uuid].state is GuestState.RUNNING
        await made.hypervisor.pause(by_name)
        assert (await made.hypervisor.guests([by_uuid]))[uuid].state is GuestState.PAUSED
        await made.tells(lambda: uuid in made.told)
        await made.hypervisor.unpause(by_uuid)


@libvirt
async def test_a_domain_of_the_operators_own_xml(tmp_path: Path) -> None:
    xml = tmp_path / "own.xml"
    xml.write_text("<domain type='test'><name>other</name><memory>8192</memory><os><type>hvm</type></os></domain>")
    async with running("libvirt test", tmp_path) as made:
        keys = {"name": "own", "dns": "o.jitsu.test", "ip": "127.88.0.5", "domain_xml": str(xml)}
        vm = from_config({key: [value] for key, value in keys.items()}, {})
        await made.hypervisor.guests([vm])
        await made.hypervisor.start(vm)
        assert (await made.hypervisor.guests([vm]))[vm.uuid].state is GuestState.RUNNING
        await made.hypervisor.destroy(vm)
        await made.hypervisor.forget(vm)


@libvirt
@pytest.mark.parametrize(
    ("keys", "refusal"),
    [
        ({"wait_for_key": "data/status"}, "wait_for_key: this hypervisor has no Xenstore"),
        ({"domain_xml": "/nowhere.xml"}, "domain_xml: /nowhere.xml cannot be read: No such file or directory"),
        ({"disk": "/no-target"}, "disk: '/no-target' is not DEVICE-OR-FILE@TARGET, as /images/www.img@vda is"),
    ],
)
async def test_what_it_cannot_do_is_refused_before_it_is_asked_to(
    tmp_path: Path, keys: dict[str, str], refusal: str
) -> None:
    async with running("libvirt test", tmp_path) as made:
        assert made.hypervisor.refusal(vm_of("libvirt test", **keys)) == refusal


@libvirt
async def test_a_call_that_hangs_delays_no_other_and_looking_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import threading

    import libvirt as library

    goes_on = threading.Event()
    async with running("libvirt test", tmp_path) as made:
        real_create = library.virDomain.create
        monkeypatch.setattr(library.virDomain, "create", lambda _: goes_on.wait(10))
        hangs = asyncio.ensure_future(made.hypervisor.start(made.vm))
        await asyncio.sleep(0.1)
        assert await made.state() is GuestState.OFF, "others, and looking, go on"
        monkeypatch.setattr(library.virConnect, "listAllDomains", lambda *_: goes_on.wait(10) and [])
        monkeypatch.setattr("jitsu_vmd.hypervisors.libvirt.LOOK_LIMIT_S", 0.2)
        for _ in range(2):
            with pytest.raises(JitsuError, match="does not answer"):
                await made.hypervisor.guests([made.vm])
        goes_on.set()
        await hangs
        monkeypatch.setattr(library.virDomain, "create", real_create)
        monkeypatch.undo()


# --- libxl: with an xl that plays Xen, and in a dom0 -------------------------------------------------------------


async def test_libxl_a_guest_finds_its_rumprun_configuration_before_it_runs(libxl: str, tmp_path: Path) -> None:
    (tmp_path / "rumprun.json").write_text('{\n "cmdline": "nginx",\n "net": {"if": "xenif0"}\n}\n')
    vm = vm_of(libxl, rumprun_config=str(tmp_path / "rumprun.json"))
    async with running_libxl(libxl, vm, tmp_path) as made:
        xenstore = made.hypervisor._xenstore  # type: ignore[attr-defined]
        seen: list[GuestState] = []
        real_change = xenstore.change

        async def change(values: dict[str, str]) -> None:
            seen.append(await made.state())
            await real_change(values)

        xenstore.change = change
        await made.hypervisor.start(vm)
        assert seen == [GuestState.PAUSED]
        assert await made.state() is GuestState.RUNNING
        domain = await made.hypervisor.domain_id(vm)
        written = await xenstore.read(f"/local/domain/{domain}/rumprun/cfg")
        assert written == '{"cmdline":"nginx","net":{"if":"xenif0"}}'


@pytest.mark.suite
async def test_libxl_waits_for_a_key_of_the_guest(tmp_path: Path) -> None:
    vm = vm_of("libxl", wait_for_key="data/status")
    async with running_libxl("libxl", vm, tmp_path) as made:
        await made.hypervisor.start(vm)
        await key_comes(made)


async def key_comes(made: Running) -> None:
    """See that vmd's wait for the VM's key ends when the key is there."""
    domain = await made.hypervisor.domain_id(made.vm)
    waits = asyncio.ensure_future(made.hypervisor.wait_for_key(made.vm))
    await asyncio.sleep(0.5)
    assert not waits.done()
    other = Xenstore(made.hypervisor._settings.xenstore, asyncio.ensure_future)  # type: ignore[attr-defined]
    await other.change({f"/local/domain/{domain}/{made.vm.wait_for_key}": "up"})
    other.close()
    async with asyncio.timeout(2 * SLOWER):
        await waits


@pytest.mark.xen
@pytest.mark.timeout(300)
async def test_libvirt_does_the_same_with_a_guest_of_xen(libvirt_in_dom0: None, tmp_path: Path) -> None:
    async with running("libvirt xen", tmp_path, wait_for_key="data/status") as made:
        assert made.hypervisor.refusal(made.vm) == ""
        await made.hypervisor.start(made.vm)
        await key_comes(made)
        await made.boots()
        await made.hypervisor.pause(made.vm)
        assert await made.state() is GuestState.PAUSED
        await made.hypervisor.unpause(made.vm)
        made.told.clear()
        async with asyncio.timeout(LIMIT_S):  # of shutdown_limit, after which it would be destroyed, far more is left
            await made.hypervisor.shutdown(made.vm)
        assert await made.state() is GuestState.OFF
        await made.tells(lambda: made.vm.uuid in made.told)
        await made.hypervisor.start(made.vm)
        await made.boots()
        await made.hypervisor.suspend(made.vm)
        assert await made.state() is GuestState.SUSPENDED
        await made.hypervisor.resume(made.vm)
        assert await made.state() is GuestState.RUNNING


async def test_libxl_says_why_xl_has_failed(libxl: str, tmp_path: Path) -> None:
    vm, other = vm_of(libxl), vm_of(libxl, uuid=STRANGER)
    async with running_libxl(libxl, vm, tmp_path) as made:
        await made.hypervisor.start(other)
        with pytest.raises(JitsuError, match=r'xl create: .*Domain with name "jitsu-conforms" already exists'):
            await made.hypervisor.start(vm)
        await made.hypervisor.destroy(other)


@pytest.mark.suite
@pytest.mark.parametrize(
    ("keys", "refusal"),
    [
        ({"kernel": "/nowhere"}, "kernel: there is no file /nowhere"),
        ({"disk": "x"}, "disk: 'x' is not DEVICE-OR-FILE@TARGET"),
        ({"cmdline": 'a "quote"'}, "cannot stand in a configuration of xl"),
        ({"rumprun_config": "/proc/version"}, "rumprun_config: it is no JSON"),
    ],
)
async def test_libxl_refuses_what_it_cannot_do(tmp_path: Path, keys: dict[str, str], refusal: str) -> None:
    async with running_libxl("libxl", vm_of("libxl"), tmp_path) as made:
        assert refusal in made.hypervisor.refusal(vm_of("libxl", **keys))


# --- XAPI ----------------------------------------------------------------------------------------


async def test_xapi_an_ambiguous_name_is_an_error_and_a_uuid_is_not(tmp_path: Path) -> None:
    with FakeXapi() as xapi:
        xapi.add("twice")
        chosen = xapi.add("twice", STRANGER)
        by_name = vm_of("xapi", name="twice")
        by_uuid = vm_of("xapi", name="twice", uuid=STRANGER)
        async with running_xapi(by_name, tmp_path, xapi) as made:
            with pytest.raises(JitsuError, match="2 VMs of the pool are called twice"):
                await made.hypervisor.start(by_name)
            assert await made.hypervisor.guests([by_name]) == {}
            await made.hypervisor.start(by_uuid)
            assert xapi.vms[chosen]["power_state"] == "Running"
            for missing in (vm_of("xapi", name="none"), vm_of("xapi", uuid="0d0f4f2a-6a69-5473-8175-76302e320009")):
                with pytest.raises(NotFound, match="the pool has no VM"):
                    await made.hypervisor.start(missing)


async def test_xapi_templates_and_snapshots_are_no_vms(tmp_path: Path) -> None:
    with FakeXapi() as xapi:
        xapi.add("jitsu-conforms", is_a_template=True)
        xapi.add("jitsu-conforms", is_a_snapshot=True, power_state="Suspended")
        async with running_xapi(vm_of("xapi"), tmp_path, xapi) as made:
            assert await made.hypervisor.guests([made.vm]) == {}


async def test_xapi_tells_the_interfaces_of_a_vm_in_their_order(tmp_path: Path) -> None:
    with FakeXapi() as xapi:
        xapi.add("jitsu-conforms", bridges=("OpaqueRef:net0", "OpaqueRef:net1"))
        async with running_xapi(vm_of("xapi"), tmp_path, xapi) as made:
            guest = (await made.hypervisor.guests([made.vm]))[made.vm.uuid]
            assert [(nic.mac, nic.bridge) for nic in guest.nics] == [
                ("02:00:5e:00:53:40", "xenbr0"),
                ("02:00:5e:00:53:41", "xenbr1"),
            ]


async def test_xapi_a_session_that_has_expired_is_renewed(tmp_path: Path) -> None:
    with FakeXapi() as xapi:
        xapi.add("jitsu-conforms")
        async with running_xapi(vm_of("xapi"), tmp_path, xapi) as made:
            for _ in range(3):
                before = xapi.logins
                xapi.sessions.clear()
                assert await made.state() is GuestState.OFF
                assert xapi.logins > before


async def test_xapi_a_host_that_is_no_master_any_more_is_left_for_the_one_that_is(tmp_path: Path) -> None:
    with FakeXapi() as slave, FakeXapi(host="127.0.0.2", port=int(slave.uri.rpartition(":")[2])) as master:
        master.add("jitsu-conforms")
        slave.master = "127.0.0.2"
        async with running_xapi(vm_of("xapi"), tmp_path, slave) as made:
            await made.hypervisor.start(made.vm)
            assert await made.state() is GuestState.RUNNING
        assert "VM.start" in master.calls
        assert "VM.start" not in slave.calls
        master.close_sessions()


async def test_xapi_what_others_do_is_told_within_a_second(tmp_path: Path) -> None:
    with FakeXapi() as xapi:
        ref = xapi.add("jitsu-conforms")
        async with running_xapi(vm_of("xapi"), tmp_path, xapi) as made:
            for state, seen in (("Running", GuestState.RUNNING), ("Halted", GuestState.OFF)):
                made.told.clear()
                xapi.becomes(ref, state)
                async with asyncio.timeout(1):
                    await made.tells(lambda: made.vm.uuid in made.told)
                assert await made.state() is seen


async def test_xapi_a_guest_that_does_not_hear_is_halted(tmp_path: Path) -> None:
    with FakeXapi() as xapi:
        ref = xapi.add("jitsu-conforms", power_state="Running")
        xapi.deaf = True
        vm = vm_of("xapi", shutdown_limit="0.3")
        async with running_xapi(vm, tmp_path, xapi) as made:
            await made.hypervisor.shutdown(vm)
            assert xapi.vms[ref]["power_state"] == "Halted"
            assert "VM.destroy" not in xapi.calls, "that would remove it"


async def test_xapi_certificates_and_passwords_are_checked(tmp_path: Path) -> None:
    vm = vm_of("xapi")
    certificate = self_signed(tmp_path)
    with FakeXapi(certificate) as xapi:
        xapi.add(vm.name)
        with pytest.raises(ExceptionGroup) as caught:
            async with running_xapi(vm, tmp_path, xapi):
                pass
        assert "CERTIFICATE_VERIFY_FAILED" in str(caught.value.exceptions[0])
        trusted = {"hypervisor__ca_file": str(certificate)}
        async with running_xapi(vm, tmp_path, xapi, **trusted) as made:
            assert await made.state() is GuestState.OFF
        (tmp_path / "wrong").write_text("wrong")
        with pytest.raises(ExceptionGroup) as caught:
            async with running_xapi(vm, tmp_path, xapi, **trusted, hypervisor__password_file=str(tmp_path / "wrong")):
                pass
        assert "XAPI takes neither user nor password" in str(caught.value.exceptions[0])


async def test_xapi_refuses_what_it_cannot_do(tmp_path: Path) -> None:
    with FakeXapi() as xapi:
        async with running_xapi(vm_of("xapi"), tmp_path, xapi) as made:
            assert "the pool has already" in made.hypervisor.refusal(vm_of("xapi", kernel="/boot/x"))
            assert "no access to Xenstore" in made.hypervisor.refusal(vm_of("xapi", wait_for_key="data/status"))


async def test_xapi_is_away_and_comes_back(tmp_path: Path) -> None:
    vm = vm_of("xapi")
    with FakeXapi() as xapi:
        xapi.add(vm.name)
        port = int(xapi.uri.rpartition(":")[2])
        async with running_xapi(vm, tmp_path, xapi) as made:
            xapi.close()
            with pytest.raises(JitsuError, match="cannot be reached"):
                await made.state()
            with FakeXapi(port=port) as again:
                again.add(vm.name, power_state="Running")
                assert await made.state() is GuestState.RUNNING
                again.close_sessions()
