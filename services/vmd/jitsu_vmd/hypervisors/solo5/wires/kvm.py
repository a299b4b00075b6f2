"""Whether KVM can run solo5-hvt: that /dev/kvm is there does not say so. A guest of four instructions is tried.

One of them is of SSE, which every unikernel uses for its floating-point numbers: a KVM that emulates instructions runs
the others but not that one.

Run as a program, it exits with status 0 if that guest has run. It is run as a program because some hosts leave a guest
hanging, inside a system call that nothing but the end of the process cuts short.
"""

from __future__ import annotations

import asyncio
import ctypes
import fcntl
import mmap
import os
import struct
import sys

LIMIT_S = 1.5
DEVICE = "/dev/kvm"
_GET_API_VERSION, _CREATE_VM, _GET_VCPU_MMAP_SIZE = 0xAE00, 0xAE01, 0xAE04
_CREATE_VCPU, _RUN, _SET_USER_MEMORY_REGION = 0xAE41, 0xAE80, 0x4020AE46
_GET_REGS, _SET_REGS, _GET_SREGS, _SET_SREGS = 0x8090AE81, 0x4090AE82, 0x8138AE83, 0x4138AE84
_EXIT_IO = 2
_PORT, _VALUE = 0xF4, 49
_GUEST = bytes([0x0F, 0x58, 0xC0, 0xB0, _VALUE, 0xE6, _PORT, 0xF4])
"""addps xmm0, xmm0; mov al, 49; out 0xf4, al; hlt, in real mode at address 0."""
_CR0_AT, _CR4_AT, _CR0_EM, _CR4_OSFXSR = 224, 248, 0x4, 0x200


async def kvm_runs() -> bool:
    """Say whether a guest runs on KVM within `LIMIT_S`."""
    if not os.path.exists(DEVICE):
        return False
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        __name__,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.DEVNULL,
    )
    try:
        async with asyncio.timeout(LIMIT_S):
            return await process.wait() == 0
    except TimeoutError:
        return False
    finally:
        if process.returncode is None:
            process.kill()


def run_guest() -> bool:
    """Run the guest, and say whether it has written its value to its port; raises OSError."""
    kvm = os.open(DEVICE, os.O_RDWR | os.O_CLOEXEC)
    if fcntl.ioctl(kvm, _GET_API_VERSION, 0) != 12:
        return False
    machine = fcntl.ioctl(kvm, _CREATE_VM, 0)
    memory = mmap.mmap(-1, 4096)
    memory[: len(_GUEST)] = _GUEST
    address = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    fcntl.ioctl(machine, _SET_USER_MEMORY_REGION, struct.pack("IIQQQ", 0, 0, 0, 4096, address))
    processor = fcntl.ioctl(machine, _CREATE_VCPU, 0)
    shared = mmap.mmap(processor, fcntl.ioctl(kvm, _GET_VCPU_MMAP_SIZE, 0))
    special = bytearray(fcntl.ioctl(processor, _GET_SREGS, bytes(312)))
    special[0:8] = bytes(8)  # cs: base 0
    special[12:14] = bytes(2)  # cs: selector 0
    cr0, cr4 = (struct.unpack_from("Q", special, at)[0] for at in (_CR0_AT, _CR4_AT))
    struct.pack_into("Q", special, _CR0_AT, cr0 & ~_CR0_EM)
    struct.pack_into("Q", special, _CR4_AT, cr4 | _CR4_OSFXSR)
    fcntl.ioctl(processor, _SET_SREGS, bytes(special))
    fcntl.ioctl(processor, _SET_REGS, struct.pack("18Q", *[0] * 17, 2))
    fcntl.ioctl(processor, _RUN, 0)
    (reason,) = struct.unpack_from("I", shared, 8)
    direction, size, port, _, offset = struct.unpack_from("BBHIQ", shared, 32)
    return reason == _EXIT_IO and (direction, size, port) == (1, 1, _PORT) and shared[offset] == _VALUE


if __name__ == "__main__":
    try:
        sys.exit(0 if run_guest() else 1)
    except OSError as error:
        sys.exit(f"{DEVICE}: {error.strerror}")
