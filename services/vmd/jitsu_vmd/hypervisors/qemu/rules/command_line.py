"""QEMU's command line (qemu(1)), made of a launch and nothing else.

QEMU reads most of its options as lists with commas, in which a comma of a value is written twice. Files that only root
may open are given as descriptors (`Opened`), which QEMU inherits: its user needs no right to their directories.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from jitsu_vmd.hypervisors.qemu.rules.launch import Launch, LaunchDisk, MadeFiles

SANDBOX = "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny"
"""What QEMU's seccomp filter forbids beside what it always does: to run programs, and to become somebody else."""
VARIABLES_SET = 1000
"""The number of a set of descriptors; those of disks begin at 1."""
QMP, SERIAL, AGENT = "own/qmp", "own/serial", "own/agent"
"""The sockets, relative to the directory of the VM, in which QEMU is started."""


@dataclass(frozen=True)
class Opened:
    """A file or tap that is opened for QEMU, in the order of their descriptors."""

    kind: str
    """file, read (a file, to read only), tap, memory (of the template), overlay (over a disk), copy (of a file)."""
    path: str
    """Of the file; of a tap, its name."""


def opened(launch: Launch, files: MadeFiles) -> tuple[Opened, ...]:
    """Return what is opened for QEMU."""
    is_clone = bool(launch.template)
    memory = [Opened("memory", "")] if is_clone else [Opened("file", files.ram)] if launch.shares_memory else []
    variables = [Opened("copy" if is_clone else "file", files.variables)] if launch.boot.firmware else []
    taps = [Opened("tap", nic.tap) for nic in launch.nics]
    disks = [
        Opened(kind, disk.path) for disk in launch.disks for kind in (("overlay", "read") if is_clone else ("file",))
    ]
    return (*memory, *variables, *taps, *disks)


def command_line(
    qemu: str, launch: Launch, descriptors: Sequence[int], tsc_khz: int, *, is_incoming: bool
) -> list[str]:
    """Return the words of the command line; `tsc_khz` is the frequency of this host's time stamp counter.

    `descriptors` are those of what `opened` returns, in its order.

    QEMU always starts with its processors stopped (-S): the guest runs when vmd has heard QEMU, and follows its serial
    port from its first character on.
    """
    numbers = iter(descriptors)
    is_incoming = is_incoming or bool(launch.template)
    return [
        qemu,
        *("-no-user-config", "-nodefaults", "-display", "none", "-S", "-sandbox", SANDBOX),
        *("-name", f"guest={escaped(launch.name)}", "-uuid", launch.uuid),
        *_machine(launch),
        *_memory(launch, numbers),
        *_firmware(launch, numbers),
        *("-smp", str(launch.vcpus)),
        *_boot(launch, tsc_khz),
        *("-chardev", f"socket,id=qmp,path={QMP},server=on,wait=off", "-mon", "chardev=qmp,mode=control"),
        *("-chardev", f"socket,id=serial,path={SERIAL},server=on,wait=off", "-serial", "chardev:serial"),
        *("-object", "rng-builtin,id=random", "-device", _device(launch, "virtio-rng", "rng=random")),
        *_agent(launch),
        *_nics(launch, numbers),
        *_disks(launch, numbers),
        *(("-incoming", "defer") if is_incoming else ()),
    ]


def escaped(value: str) -> str:
    """Return a value as it is written in one of QEMU's lists."""
    return value.replace(",", ",,")


def _machine(launch: Launch) -> Iterator[str]:
    accelerator = "kvm" if launch.is_kvm else "tcg"
    kind = f"{escaped(launch.machine)},accel={accelerator},memory-backend=ram"
    if launch.boot.firmware:
        kind += ",pflash0=code,pflash1=variables"
    # acpi: without it, Debian's kernel finds no device, and no guest could be asked to shut down.
    yield from ("-machine", f"{kind},acpi=on,rtc=on" if launch.is_microvm else f"{kind},usb=off")
    if launch.is_kvm:
        yield from ("-cpu", "host")
    if not launch.is_microvm:
        yield from ("-device", "pvpanic", "-global", "ICH9-LPC.disable_s3=1", "-global", "ICH9-LPC.disable_s4=1")


def _memory(launch: Launch, numbers: Iterator[int]) -> Iterator[str]:
    size = f"size={launch.memory_mib}M"
    yield from ("-m", size)
    if launch.shares_memory or launch.template:
        # By its descriptor: the directory of saved guests is open to root only. The file belongs to QEMU's user. A
        # clone sees the memory of its template until it writes to it, and nobody else sees what it writes.
        path, share = f"/proc/self/fd/{next(numbers)}", "off" if launch.template else "on"
        yield from ("-object", f"memory-backend-file,id=ram,mem-path={path},share={share},{size}")
    else:
        yield from ("-object", f"memory-backend-ram,id=ram,{size}")


def _firmware(launch: Launch, numbers: Iterator[int]) -> Iterator[str]:
    """Yield two chips of flash memory: the first is the same for all VMs, and the second is the VM's own."""
    if not launch.boot.firmware:
        return
    yield from ("-add-fd", f"fd={next(numbers)},set={VARIABLES_SET}")
    files = {"code": f"read-only=on,filename={escaped(launch.boot.firmware)}"}
    files["variables"] = f"filename=/dev/fdset/{VARIABLES_SET}"
    for name, file in files.items():
        yield from ("-blockdev", f"driver=file,node-name={name}-file,{file}")
        read_only = ",read-only=on" if name == "code" else ""
        yield from ("-blockdev", f"driver=raw,node-name={name},file={name}-file{read_only}")


def _boot(launch: Launch, tsc_khz: int) -> Iterator[str]:
    if not launch.boot.kernel:
        return
    words = launch.boot.cmdline
    if launch.is_microvm and not launch.is_kvm and "tsc_early_khz=" not in words:
        # A microvm has no other timer that Linux could measure the counter with, and without KVM nothing tells it.
        words = f"{words} tsc_early_khz={tsc_khz}".strip()
    if "panic=" not in words:
        words = f"{words} panic=-1".strip()  # a kernel that cannot go on reboots, which QEMU reports
    yield from ("-kernel", launch.boot.kernel)
    if launch.boot.initrd:
        yield from ("-initrd", launch.boot.initrd)
    yield from ("-append", words)


def _device(launch: Launch, kind: str, *properties: str) -> str:
    bus = "device" if launch.is_microvm else "pci"
    return ",".join([f"{kind}-{bus}", *properties])


def _agent(launch: Launch) -> Iterator[str]:
    """Yield the channel of the guest agent, and what has a kernel's random numbers begin again when it is restored."""
    if not launch.has_agent:
        return
    yield from ("-chardev", f"socket,id=agent,path={AGENT},server=on,wait=off")
    yield from ("-device", _device(launch, "virtio-serial"))
    yield from ("-device", "virtserialport,chardev=agent,name=org.qemu.guest_agent.0")
    if not launch.is_microvm:
        yield from ("-device", "vmgenid,guid=auto")


def _nics(launch: Launch, numbers: Iterator[int]) -> Iterator[str]:
    for n, nic in enumerate(launch.nics):
        yield from ("-netdev", f"tap,id=net{n},fd={next(numbers)}")
        properties = [f"netdev=net{n}", f"id=nic{n}", f"mac={nic.mac}"]
        yield from ("-device", _device(launch, "virtio-net", *properties, *(() if launch.is_microvm else ["romfile="])))


def _disks(launch: Launch, numbers: Iterator[int]) -> Iterator[str]:
    for n, disk in enumerate(launch.disks):
        file, over = f"file{n}", ""
        if launch.template:
            yield from _file(f"overlay{n}", "file", 2 * n + 1, next(numbers))
            yield from _file(file, _driver(disk), 2 * n + 2, next(numbers), ",read-only=on")
            yield from ("-blockdev", f"driver={disk.format},node-name=base{n},file={file},read-only=on")
            file, over = f"overlay{n}", f",backing=base{n}"
        else:
            yield from _file(file, _driver(disk), n + 1, next(numbers))
        yield from ("-blockdev", f"driver={'qcow2' if over else disk.format},node-name=disk{n},file={file}{over}")
        properties = [f"drive=disk{n}", *([f"serial={escaped(disk.serial)}"] if disk.serial else ())]
        if not launch.is_microvm:
            properties.append(f"bootindex={n + 1}")
        yield from ("-device", _device(launch, "virtio-blk", *properties))


def _driver(disk: LaunchDisk) -> str:
    return "host_device" if disk.is_device else "file"


def _file(node: str, driver: str, number: int, descriptor: int, more: str = "") -> Iterator[str]:
    yield from ("-add-fd", f"fd={descriptor},set={number}")
    yield from ("-blockdev", f"driver={driver},node-name={node},filename=/dev/fdset/{number}{more}")
