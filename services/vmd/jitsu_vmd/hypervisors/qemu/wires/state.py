"""Taking the state of a guest out of its process, and giving it to another (QEMU's migration, over a socket)."""

from __future__ import annotations

import asyncio
import errno
import os
from typing import TYPE_CHECKING

from jitsu_protocol.model.errors import Unavailable
from jitsu_vmd.hypervisors.qemu.wires.monitor import RETRY_S, peer
from jitsu_vmd.hypervisors.qemu.wires.spawn import END_LIMIT_S

if TYPE_CHECKING:
    from typing import BinaryIO

    from jitsu_vmd.hypervisors.qemu.wires.machine import QemuProcess

MOVE_LIMIT_S = 300.0
"""The memory of a guest that is not in a file is written to a slow disk."""
PART_BYTES = 1 << 20
MAX_DEVICES_BYTES = 256 << 20
"""For devices, firmware and headers, beside the guest's memory; whatever sends more has been taken over."""
MAX_BYTES_PER_S = 10 << 30
"""QEMU's own limit is for networks."""


async def save(machine: QemuProcess, user: int, into: BinaryIO) -> None:
    """Write the state of a guest that is stopped; raises Unavailable or OSError."""
    path = machine.directory / "save"  # only root may put anything there
    path.unlink(missing_ok=True)
    most = (machine.launch.memory_mib << 20) + MAX_DEVICES_BYTES
    done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    async def receive(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            if peer(writer.get_extra_info("socket")) == machine.pid and not done.done():
                while part := await reader.read(PART_BYTES):
                    if into.tell() + len(part) > most:
                        raise OSError(errno.EFBIG, "it is larger than the guest's memory")
                    into.write(part)
                done.set_result(None)
        except OSError as error:
            if not done.done():
                done.set_exception(error)
        finally:
            writer.close()

    at = os.open(machine.directory, os.O_PATH | os.O_CLOEXEC)
    try:
        server = await asyncio.start_unix_server(receive, f"/proc/self/fd/{at}/{path.name}")
    finally:
        os.close(at)
    try:
        os.chown(path, user, user)
        await _leave_out_files(machine)
        await machine.monitor.call("migrate-set-parameters", **{"max-bandwidth": MAX_BYTES_PER_S})
        await machine.monitor.call("migrate", uri=f"unix:{path.name}")
        await _moved(machine)
        async with asyncio.timeout(END_LIMIT_S):
            await done
    except TimeoutError:
        raise Unavailable(f"{machine.launch.name}: QEMU has not closed what it saved to") from None
    finally:
        server.close()
        path.unlink(missing_ok=True)
        if done.done():
            done.exception()


async def load(machine: QemuProcess, state: BinaryIO) -> None:
    """Give a process that waits for it the state of a guest; raises Unavailable or OSError."""
    await _leave_out_files(machine)
    await machine.monitor.call("migrate-incoming", uri="unix:own/load")
    with await machine.connected("own/load") as made:
        while part := state.read(PART_BYTES):
            await asyncio.get_running_loop().sock_sendall(made, part)
    await _moved(machine)


async def _leave_out_files(machine: QemuProcess) -> None:
    """Leave memory that is in a file out of what is saved and loaded."""
    if machine.launch.shares_memory or machine.launch.template:
        capability = {"capability": "x-ignore-shared", "state": True}
        await machine.monitor.call("migrate-set-capabilities", capabilities=[capability])


async def _moved(machine: QemuProcess) -> None:
    try:
        async with asyncio.timeout(MOVE_LIMIT_S):
            while (said := await machine.monitor.call("query-migrate")).get("status") != "completed":
                if said.get("status") in ("failed", "cancelled"):
                    why = said.get("error-desc", said["status"])
                    raise Unavailable(f"{machine.launch.name}: QEMU could not move the state: {why}")
                await asyncio.sleep(RETRY_S)
    except TimeoutError:
        raise Unavailable(f"{machine.launch.name}: QEMU has not moved the state in time") from None
