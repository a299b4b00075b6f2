"""A machine of the tests' Proxmox VE that is a real QEMU process, without KVM: driven by QMP, as qemu-server does.

And what `make bench-engines` needs of it.
"""

from __future__ import annotations

import asyncio
import json
import shutil
import ssl
import tempfile
import threading
import time
import urllib.request
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qemu import qmp

from tests.support.engine_bench import MACHINES, BenchMachine, EngineBench, address_of, mac_of
from tests.support.lan import BRIDGE, ip
from tests.support.libvirtd import guest_image
from tests.support.proxmox import TOKEN, FakePve, token_file
from tests.support.unikernel import add_tap

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from tests.support.lan import Lan

LIMIT_S, POLL_S = 60.0, 0.02
BOOTED = "is up"
NO_LINK = ("-device", "virtio-net-pci,romfile=")
"""An interface without a cable."""


class QemuBody:
    """One machine; its files are in a directory of its own, which may have a long path."""

    def __init__(self, directory: Path, nic: Sequence[str] = NO_LINK, cmdline: str = "") -> None:
        """`nic` are words for QEMU, and `cmdline` is for its kernel."""
        directory.mkdir(parents=True, exist_ok=True)
        self._words = ("-append", f"console=ttyS0 quiet panic=-1 {cmdline}", *nic)
        self._state, self._serial = directory / "vmstate", directory / "serial"
        self._sockets = Path(tempfile.mkdtemp(prefix="pve-"))
        """The path of a socket has at most 107 characters."""
        self._process: asyncio.subprocess.Process | None = None
        self._monitor: qmp.QMPClient | None = None

    @property
    def pid(self) -> int:
        """Its process."""
        assert self._process is not None
        return self._process.pid

    async def boot(self, *, restored: bool) -> None:
        """Start its process, and give it its saved memory."""
        await self.quit()
        if not restored:
            self._serial.unlink(missing_ok=True)
        image, socket = guest_image(), self._sockets / "qmp"
        socket.unlink(missing_ok=True)
        self._process = await asyncio.create_subprocess_exec(
            *("qemu-system-x86_64", "-no-user-config", "-nodefaults", "-display", "none"),
            *("-M", "q35,accel=tcg,usb=off"),
            *("-m", "96M", "-kernel", f"{image}/kernel", "-initrd", f"{image}/initrd"),
            *self._words,
            *("-chardev", f"file,id=serial,path={self._serial},append=on", "-serial", "chardev:serial"),
            *("-qmp", f"unix:{socket},server=on,wait=off"),
            *(("-incoming", f"exec:cat {self._state}") if restored else ()),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.DEVNULL,
        )
        self._monitor = qmp.QMPClient("pve")
        async with asyncio.timeout(LIMIT_S):
            while not socket.exists():
                await asyncio.sleep(POLL_S)
            await self._monitor.connect(str(socket))
            while restored and await self.qmp_status() == "inmigrate":
                await asyncio.sleep(POLL_S)
        if restored:
            await self._call("cont")
            self._state.unlink()

    async def quit(self) -> None:
        """End it at once."""
        if self._process is not None:
            with suppress(ProcessLookupError):
                self._process.kill()
            await self._process.wait()
        if self._monitor is not None:
            with suppress(qmp.QMPError, OSError, EOFError):
                await self._monitor.disconnect()
        self._process = self._monitor = None

    async def pause(self) -> None:
        """Stop its processors."""
        await self._call("stop")

    async def resume(self) -> None:
        """Let its processors run."""
        await self._call("cont")

    async def save(self) -> None:
        """Save its memory."""
        await self._call("stop")
        await self._call("migrate", uri=f"exec:cat > {self._state}")
        async with asyncio.timeout(LIMIT_S):
            while (await self._call("query-migrate")).get("status") != "completed":
                await asyncio.sleep(POLL_S)

    async def power_down(self) -> None:
        """Press its power button, which a guest that still boots would not hear."""
        async with asyncio.timeout(LIMIT_S):
            while not self.has_booted():
                await asyncio.sleep(POLL_S)
        await self._call("system_powerdown")

    async def qmp_status(self) -> str:
        """Return what query-status says, "" if it does not run."""
        if self._process is None or self._process.returncode is not None:
            return ""
        try:
            return str((await self._call("query-status"))["status"])
        except (qmp.QMPError, OSError, EOFError):
            return ""

    def boots(self) -> int:
        """Return how often its guest has come up since it was last started without a save."""
        return self._serial.read_text(errors="replace").count(BOOTED) if self._serial.exists() else 0

    def has_booted(self) -> bool:
        """Say whether its guest is up."""
        return self.boots() > 0

    async def end(self) -> None:
        """Leave nothing behind."""
        await self.quit()
        shutil.rmtree(self._sockets, ignore_errors=True)

    async def _call(self, command: str, **arguments: object) -> dict[str, object]:
        assert self._monitor is not None
        answer = await self._monitor.execute(command, arguments or None)
        return answer if isinstance(answer, dict) else {}


FIRST_VMID = 100


@contextmanager
def bench_engine(lan: Lan, directory: Path) -> Iterator[EngineBench]:
    """Yield machines of a Proxmox VE that runs in the host's namespace."""
    pve = FakePve(directory)
    machines = []
    for number in range(MACHINES):
        name, vmid = f"m{number}", FIRST_VMID + number
        tap = f"tap{vmid}i0"
        add_tap(lan, tap)
        nic = ["-netdev", f"tap,id=net,ifname={tap},script=no,downscript=no"]
        nic += ["-device", f"virtio-net-pci,netdev=net,mac={mac_of(number)},romfile="]
        body = QemuBody(directory / name, nic, f"jitsu.name={name} jitsu.ip={address_of(number)}/24")
        pve.add(name, vmid, body=body, config={"net0": f"virtio={mac_of(number).upper()},bridge={BRIDGE}"})
        start, stop = (partial(_changed, pve, vmid, verb) for verb in ("start", "stop"))
        machines.append(BenchMachine(name, address_of(number), "", start, partial(lan.run_on_host, stop)))
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    lan.run_on_host(thread.start)
    try:
        asyncio.run_coroutine_threadsafe(pve.open(), loop).result()
        place = f'kind = "proxmox"\nconnect = "{pve.uri}"\nfingerprint = "{pve.fingerprint}"\n'
        yield EngineBench(f'[hypervisor]\n{place}token_file = "{token_file(directory)}"\n', machines)
        assert not pve.misfits, pve.misfits
    finally:
        asyncio.run_coroutine_threadsafe(pve.__aexit__(), loop).result()
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        for number in range(MACHINES):
            ip("-n", lan.host, "link", "delete", f"tap{FIRST_VMID + number}i0")


def _changed(pve: FakePve, vmid: int, verb: str) -> None:
    """Have a machine started or stopped by the API, and return when its task has ended."""
    upid = _asked(pve, f"/nodes/pve1/qemu/{vmid}/status/{verb}", b"")
    until = time.monotonic() + LIMIT_S
    while _asked(pve, f"/nodes/pve1/tasks/{upid}/status")["status"] != "stopped":
        assert time.monotonic() < until, upid
        time.sleep(POLL_S)


def _asked(pve: FakePve, path: str, data: bytes | None = None) -> Any:
    request = urllib.request.Request(f"{pve.uri}/api2/json{path}", data, {"Authorization": f"PVEAPIToken={TOKEN}"})
    context = ssl.create_default_context(cafile=str(pve.certificate))
    with urllib.request.urlopen(request, context=context, timeout=LIMIT_S) as answer:
        return json.load(answer)["data"]
