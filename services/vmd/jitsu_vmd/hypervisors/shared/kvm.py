"""Whether KVM can be used. That there is a /dev/kvm does not prove it: under some hypervisors, guests hang on it."""

from __future__ import annotations

import asyncio
import shutil
from pathlib import Path

import structlog

from jitsu_vmd.hypervisors.shared.commands import memory_file

QEMU = "qemu-system-x86_64"
LIMIT_S = 1.5
"""The boot sector takes 0.2 s, even without KVM."""
EXITED = 99
"""What QEMU exits with when 49 is written to isa-debug-exit: 2 x 49 + 1."""
_BOOT_SECTOR = bytes.fromhex("b031 e6f4 f4 ebfe").ljust(510, b"\0") + b"\x55\xaa"  # mov al, 49; out 0xf4, al; hlt; jmp

log = structlog.get_logger("vmd")


async def kvm_works() -> bool:
    """Run a boot sector with KVM, and say whether that ended in time."""
    qemu = shutil.which(QEMU)
    if qemu is None or not Path("/dev/kvm").exists():
        return False
    with memory_file("boot sector") as image:
        image.write(_BOOT_SECTOR)
        image.flush()
        process = await asyncio.create_subprocess_exec(
            qemu,
            *("-accel", "kvm", "-M", "pc", "-m", "16", "-nodefaults", "-display", "none", "-no-reboot"),
            *(
                "-device",
                "isa-debug-exit,iobase=0xf4,iosize=0x04",
                "-drive",
                f"format=raw,file=/proc/self/fd/{image.fileno()},if=ide",
            ),
            pass_fds=(image.fileno(),),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.DEVNULL,
            stderr=asyncio.subprocess.DEVNULL,
        )
        try:
            async with asyncio.timeout(LIMIT_S):
                works = await process.wait() == EXITED
        except TimeoutError:
            works = False
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
    if not works:
        log.warning("KVM is there but does not work: domains run without it", limit_s=LIMIT_S)
    return works


if __name__ == "__main__":  # `jitsu doctor` asks so
    print("works" if asyncio.run(kvm_works()) else "does not work")
