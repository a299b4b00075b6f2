"""Taps of unikernels on a real bridge: nothing of one guest is left in a tap for the next."""

from __future__ import annotations

import asyncio
import errno
import fcntl
import os
import select
import socket
import struct
import subprocess
from contextlib import suppress
from typing import TYPE_CHECKING

import pytest

from jitsu_protocol.model.errors import BootFailed
from jitsu_protocol.model.vm_keys import StopMode
from jitsu_vmd.hypervisor import ReservesInterfaces
from jitsu_vmd.hypervisors.shared import taps
from jitsu_vmd.hypervisors.solo5.wires import guest_taps
from jitsu_vmd.hypervisors.solo5.wires.addresses import BridgeAddresses
from jitsu_vmd.hypervisors.solo5.wires.tap_pool import TapPool
from tests.support.hypervisors import running_solo5, vm_of
from tests.support.lan import BRIDGE, Lan, made_lan
from tests.support.solo5 import image, open_directory, written

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

pytestmark = [
    pytest.mark.wires,
    pytest.mark.net,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root: taps on a bridge"),
]
NAME, LIMIT_S = "jstest-0", 5.0
MAC = "02:00:00:00:00:aa"
TUNSETIFF, IFF_TAP_NO_PI = 0x400454CA, 0x1002


@pytest.fixture(scope="module")
def lan() -> Iterator[Lan]:
    with made_lan(1) as lan:
        yield lan


def opened(name: str) -> int:
    """Open a tap as a tender does."""
    descriptor = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    try:
        fcntl.ioctl(descriptor, TUNSETIFF, struct.pack("16sH22x", name.encode(), IFF_TAP_NO_PI))
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


def learned() -> str:
    return subprocess.run(["bridge", "fdb", "show", "br", BRIDGE], check=True, capture_output=True, text=True).stdout


def broadcast(count: int) -> None:
    """Have the bridge send frames to all its ports."""
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as sender:
        sender.bind((BRIDGE, 0))
        for _ in range(count):
            sender.send(b"\xff" * 6 + bytes.fromhex("020000000bbb") + b"\x88\xb5" + bytes(46))


def frames(descriptor: int) -> Iterator[bytes]:
    """Yield what waits in a tap; the host's kernel may have sent something of its own."""
    with suppress(BlockingIOError):
        while True:
            yield os.read(descriptor, 2048)


def can_be_opened(name: str, user: int) -> int:
    """Return the error number with which a user is refused a tap, 0 if not at all."""
    pid = os.fork()
    if pid == 0:
        status = 255
        try:
            os.setgroups([])
            os.setresgid(user, user, user)
            os.setresuid(user, user, user)
            opened(name)
            status = 0
        except OSError as error:
            status = error.errno or 255
        finally:
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def test_a_tap_that_is_opened_again_has_no_frame_and_no_forwarding_entry_of_its_last_guest(lan: Lan) -> None:
    def on_host() -> None:
        taps.make(NAME, 70_000)
        taps.join(NAME, BRIDGE)
        first = opened(NAME)
        os.write(first, b"\xff" * 6 + bytes.fromhex(MAC.replace(":", "")) + b"\x88\xb5" + bytes(46))
        deadline = 50
        while f"{MAC} dev {NAME}" not in learned():
            deadline -= 1
            assert deadline, "the bridge has learned the guest's address"
            select.select([], [], [], 0.1)  # the port forwards only when the kernel has handled its carrier
            os.write(first, b"\xff" * 6 + bytes.fromhex(MAC.replace(":", "")) + b"\x88\xb5" + bytes(46))
        broadcast(50)
        assert select.select([first], [], [], LIMIT_S)[0], "frames wait in the tap"
        os.close(first)
        taps.flush(NAME)  # the bridge forgets by itself only when the kernel has handled the loss of the carrier
        assert MAC not in learned()
        second = opened(NAME)
        try:
            assert not [frame for frame in frames(second) if frame[6:12] == bytes.fromhex("020000000bbb")]
        finally:
            os.close(second)
            taps.remove(NAME)

    lan.run_on_host(on_host)


def test_a_tap_can_be_opened_by_its_own_user_only(lan: Lan) -> None:
    def on_host() -> None:
        taps.make(NAME, 70_000)
        try:
            assert can_be_opened(NAME, 70_001) == errno.EPERM
            assert can_be_opened(NAME, 70_000) == 0
            taps.give(NAME, 70_001)
            assert can_be_opened(NAME, 70_000) == errno.EPERM
            assert can_be_opened(NAME, 70_001) == 0
        finally:
            taps.remove(NAME)
        assert not taps.exists(NAME)

    lan.run_on_host(on_host)


async def _run(work: Callable[[], None]) -> None:
    work()


def pool(keep: int) -> TapPool:
    return TapPool("jstest-", keep, lambda work: asyncio.ensure_future(_run(work)))


def test_taps_are_kept_up_to_a_number_and_found_by_the_next_vmd(lan: Lan) -> None:
    async def on_host() -> None:
        made = pool(2)
        await made.open([], BRIDGE)
        assert sorted(taps.names("jstest-")) == ["jstest-0", "jstest-1"]
        taken = [await made.take(70_000 + n, BRIDGE) for n in range(3)]
        assert len(set(taken)) == 3, "more are made when they are wanted"
        assert sorted(taps.names("jstest-")) == sorted(taken)
        for n, name in enumerate(taken):
            assert can_be_opened(name, 70_000 + n) == 0
            assert can_be_opened(name, 70_009) == errno.EPERM
            await made.release([name], 70_000 + n, [BRIDGE])
        assert len(taps.names("jstest-")) == 2, "no more than two are kept"
        again = await made.take(70_001, BRIDGE)
        assert again == taken[1], "the one that this user had"
        following = pool(1)
        await following.open([again], BRIDGE)
        assert len(taps.names("jstest-")) == 2, "one is taken, one is kept"
        await following.release([again], 70_001, [BRIDGE])
        assert len(taps.names("jstest-")) == 1
        last = pool(0)
        await last.open([], BRIDGE)
        assert taps.names("jstest-") == []
        with pytest.raises(BootFailed, match="there is no bridge nosuch0"):
            await last.take(70_000, "nosuch0")
        assert taps.names("jstest-") == []

    lan.run_on_host(lambda: asyncio.run(on_host()))


def test_a_tap_that_somebody_has_open_is_not_given_to_another_guest(lan: Lan) -> None:
    async def on_host() -> None:
        made = pool(1)
        await made.open([], BRIDGE)
        stolen = opened("jstest-0")
        try:
            assert await made.take(70_000, BRIDGE) == "jstest-1"
        finally:
            os.close(stolen)
            for name in taps.names("jstest-"):
                taps.remove(name)

    lan.run_on_host(lambda: asyncio.run(on_host()))


def test_the_addresses_of_a_bridge_are_read_and_followed(lan: Lan) -> None:
    def on_host() -> None:
        addresses = BridgeAddresses()
        try:
            before = {str(each) for each in addresses.of(BRIDGE)}
            assert {"10.77.0.1/24", "fd77::1/64"} <= before
            assert addresses.of(BRIDGE) is addresses.of(BRIDGE), "nothing has changed, and the kernel is not asked"
            subprocess.run(["ip", "address", "add", "10.77.1.1/24", "dev", BRIDGE], check=True)
            assert {str(each) for each in addresses.of(BRIDGE)} == before | {"10.77.1.1/24"}
            subprocess.run(["ip", "address", "delete", "10.77.1.1/24", "dev", BRIDGE], check=True)
            assert {str(each) for each in addresses.of(BRIDGE)} == before
            assert addresses.of("nosuch0") == []
        finally:
            addresses.close()

    lan.run_on_host(on_host)


async def test_the_tap_of_the_next_start_is_known_before_it_and_given_back_if_that_does_not_come(
    lan: Lan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def on_host() -> None:
        asyncio.run(reserve_and_start())

    async def reserve_and_start() -> None:
        keys = {"hypervisor__bridge": BRIDGE, "hypervisor__taps": "1"}
        with open_directory() as public:
            kernel = str(written(public / "net.spt", image(networks=["service"])))
            async with running_solo5(tmp_path, keys, kernel=kernel) as made:
                assert isinstance(made.hypervisor, ReservesInterfaces)
                first = await made.hypervisor.reserve(made.vm)
                assert taps.exists(first)
                assert await made.hypervisor.reserve(made.vm) == first, "it is asked for again"
                await made.hypervisor.start(made.vm)
                (nic,) = (await made.hypervisor.guests([made.vm]))[made.vm.uuid].nics
                assert nic.interface == first
                assert await made.hypervisor.reserve(made.vm) == "", "it runs"
                await made.hypervisor.stop(made.vm, StopMode.DESTROY)
                other = vm_of("solo5", name="other", dns="o.jitsu.test", ip="127.88.0.2", kernel=kernel)
                unused = await made.hypervisor.reserve(other)
                monkeypatch.setattr(guest_taps, "RESERVED_S", 0.0)
                await made.hypervisor.guests([other])
                assert await made.hypervisor.reserve(made.vm) == unused, "the start did not come: another VM gets it"

    await asyncio.to_thread(lan.run_on_host, on_host)
