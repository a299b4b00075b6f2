"""Run the tests that need Xen (marked `xen`) in a real dom0, which QEMU emulates: `make test-xen`.

Xen and dom0's kernel are Debian's. Dom0's root is this machine's own root file system, shared with it read-only
(virtio-9p) under a tmpfs: so the checkout and its environment are there, at their paths, and nothing of a run remains.
What is slow to make is kept between runs, in .cache/xen of the checkout. Dom0 prints the tests' status at the end, and
is then switched off.
"""

from __future__ import annotations

import gzip
import re
import shlex
import shutil
import struct
import subprocess
import sys
import tempfile
from pathlib import Path
from time import monotonic

from guests.initramfs import LOAD_MODULES, initramfs, kernel_of

ROOT = Path(__file__).parents[2]
CACHE = ROOT / ".cache" / "xen"
HYPERVISOR = Path("/boot/xen-4.17-amd64.gz")
LIMIT_S = 1800
RUNS = [
    (
        "qemu64,+ssse3,+sse4.1,+sse4.2,+svm,+npt",
        [
            "tests/runtime/test_xenstore.py",
            "tests/vmd/test_hypervisors.py",
            "tests/vmd/test_libxl.py",
            "tests/system/test_xen.py",
        ],
    ),
    ("Penryn", ["tests/vmd/test_libvirt.py"]),
]
"""Dom0's processor, and the tests that run on it: those with something that is marked `xen`, as to look for it in all
of them takes minutes there.

PVH needs hardware virtualisation, which the first processor has; with it libvirtd does not start in this dom0. With
more (max, EPYC) dom0 does not come up under QEMU's emulation.
"""
QEMU = ["qemu-system-x86_64", "-M", "pc", "-m", "3072", "-smp", "2", "-nographic", "-no-reboot", "-nic", "none"]
XEN = "console=com1 com1=115200 dom0_mem=2048M noreboot loglvl=warning guest_loglvl=all"
SHARE = "local,id=root,path=/,security_model=none,readonly=on,multidevs=remap"
UNIT = "jitsu-dom0.service"
"""The only one of dom0's systemd that is started: the machine's own take minutes there."""
MODULES = [
    *("xen-evtchn", "xen-gntdev", "xen-gntalloc", "xen-privcmd", "xenfs", "xen-netback"),
    *("bridge", "veth", "af_packet", "virtio_pci", "9pnet_virtio", "9p", "overlay"),
]
INIT = f"""#!/bin/sh
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs dev /dev
{LOAD_MODULES}
mkdir /below /above
mount -t 9p -o trans=virtio,version=9p2000.L,ro,cache=loose,msize=512000 root /below
mount -t tmpfs above /above
mkdir /above/upper /above/work
mount -t overlay -o lowerdir=/below,upperdir=/above/upper,workdir=/above/work root /root
mount -t proc proc /root/proc
mount -t sysfs sysfs /root/sys
mount -t devtmpfs dev /root/dev
cat > /root/etc/systemd/system/{UNIT} <<'END'
[Unit]
DefaultDependencies=no
[Service]
StandardOutput=tty
TTYPath=/dev/console
ExecStart=/bin/sh {ROOT}/tests/xen/dom0.sh {ROOT} {sys.executable} TESTS
END
exec switch_root /root /lib/systemd/systemd --unit={UNIT}
"""


def main() -> int:
    """Run them all; arguments are pytest's."""
    return max([run(cpu, tests) for cpu, tests in RUNS])


def run(cpu: str, tests: list[str]) -> int:
    """Run some of the tests in a dom0 with such a processor; return pytest's status."""
    with tempfile.TemporaryDirectory() as directory:
        kernel = make(Path(directory), INIT.replace("TESTS", shlex.join([*tests, *sys.argv[1:]])))
    begun = monotonic()
    boot = [
        "-kernel",
        f"{CACHE}/xen",
        "-append",
        XEN,
        "-initrd",
        f"{kernel} console=hvc0 quiet panic=-1 fstab=no,{CACHE}/initrd",
    ]
    share = ["-fsdev", SHARE, "-device", "virtio-9p-pci,fsdev=root,mount_tag=root"]
    machine = subprocess.Popen(
        [*QEMU, "-cpu", cpu, *boot, *share],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        text=True,
        errors="replace",
    )
    status = 1
    try:
        assert machine.stdout is not None
        for line in machine.stdout:
            print(line, end="", flush=True)
            if ended := re.match(r"dom0: status (\d+)", line):
                status = int(ended[1])
                break
            if monotonic() > begun + LIMIT_S:
                print(f"dom0: not done within {LIMIT_S} s")
                break
    finally:
        machine.kill()
        machine.wait()
    print(f"dom0: {monotonic() - begun:.0f} s")
    return status


def make(scratch: Path, init: str) -> Path:
    """Make what is not there yet; return dom0's kernel."""
    kernel, modules = kernel_of(scratch, "linux-image-amd64")
    stamp = CACHE / kernel.name
    if not stamp.exists():
        shutil.rmtree(CACHE, ignore_errors=True)
        CACHE.mkdir(parents=True)
        (CACHE / "xen").write_bytes(gzip.decompress(HYPERVISOR.read_bytes()))
        subprocess.run([sys.executable, "-m", "guests.build", CACHE / "guest"], cwd=ROOT, check=True)
        guest = CACHE / "guest" / "kernel"
        guest.write_bytes(uncompressed(guest.read_bytes()))
        shutil.copy(kernel, stamp)
    install = ["make", "install", f"DESTDIR={CACHE}/installed", "WITH=pyxs"]
    subprocess.run(install, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
    applets = ["sh", "mount", "insmod", "switch_root", "mkdir", "cat"]
    (CACHE / "initrd").write_bytes(initramfs(scratch, applets, {"init": init.encode()}, modules, MODULES))
    return stamp


def uncompressed(kernel: bytes) -> bytes:
    """Return the ELF file in a bzImage that is compressed with LZ4 (Linux, Documentation/arch/x86/boot.rst).

    Xen's tools take that as well, and need not unpack it for each domain: under emulation that takes ten seconds.
    """
    (offset, length), setup_sectors = struct.unpack_from("<II", kernel, 0x248), kernel[0x1F1] or 4
    begin = (setup_sectors + 1) * 512 + offset
    payload = kernel[begin : begin + length - 4]  # then follows its size
    return subprocess.run(["lz4", "-dc"], input=payload, check=True, stdout=subprocess.PIPE).stdout


if __name__ == "__main__":
    sys.exit(main())
