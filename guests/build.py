"""Make a small Linux guest from Debian's packages, for demonstrations and tests.

    python guests/build.py DIRECTORY

writes DIRECTORY/kernel and DIRECTORY/initrd: the kernel of linux-image-cloud-amd64 and an initramfs with busybox-static
that boots in some seconds, on QEMU (virtio) and on Xen (PV, PVH). It takes what it is from the kernel's command line:

    jitsu.name=www jitsu.ip=10.0.0.9/24 jitsu.ip=fd00::9/64 jitsu.listen_after=0

announces its addresses, serves a page on port 80, echoes TCP and UDP on port 7, and powers off on ACPI's button or
Xen's request. The packages are downloaded with apt-get, unless they are installed; nothing of them is kept. It needs
gcc, and on Xen the command line wants console=hvc0.
"""

from __future__ import annotations

import gzip
import io
import lzma
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

KERNEL_PACKAGE, BUSYBOX_PACKAGE = "linux-image-cloud-amd64", "busybox-static"
WANTED = ("virtio_pci", "virtio_net", "xen-netfront", "button", "evdev")
"""Modules, beside those that they need."""
DIRECTORIES = ("bin", "dev", "etc", "proc", "sys", "tmp", "www", "modules")

INIT = """#!/bin/sh
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs dev /dev
for module in $(cat /modules/order); do insmod /modules/$module; done
ip link set lo up
n=0
while [ ! -e /sys/class/net/eth0 ] && [ $n -lt 500 ]; do n=$((n + 1)); usleep 10000; done
name=guest
after=0
addresses=
for word in $(cat /proc/cmdline); do
  case "$word" in
    jitsu.name=*) name=${word#*=} ;;
    jitsu.ip=*) addresses="$addresses ${word#*=}" ;;
    jitsu.listen_after=*) after=${word#*=} ;;
  esac
done
echo 0 > /proc/sys/net/ipv6/conf/eth0/accept_dad
echo 1 > /proc/sys/net/ipv4/conf/eth0/arp_notify
echo 1 > /proc/sys/net/ipv6/conf/eth0/ndisc_notify
for address in $addresses; do ip address add "$address" dev eth0; done
serve() {
  httpd -h /www
  /bin/echoes &
}
echo "<html><body>This is the VM <b>$name</b></body></html>" > /www/index.html
[ "$after" = 0 ] && serve  # before anybody can reach it
ip link set eth0 up
[ "$after" = 0 ] || { sleep "$after"; serve; }
echo "jitsu: $name is up" > /dev/console
acpid -c /etc/acpi -l /dev/null 2> /dev/null
while true; do sleep 3600; done
"""
POWER_OFF = """#!/bin/sh
exec poweroff -f
"""


def main() -> int:
    """Make it."""
    if len(sys.argv) != 2:
        print(__doc__, file=sys.stderr)
        return 2
    target = Path(sys.argv[1])
    target.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as directory:
        root = Path(directory)
        kernel, modules = _kernel(root)
        busybox = _file_of(root, BUSYBOX_PACKAGE, "bin/busybox")
        shutil.copy(kernel, target / "kernel")
        echoes = root / "echoes"
        subprocess.run(["gcc", "-static", "-Os", "-s", "-o", echoes, Path(__file__).with_name("echo.c")], check=True)
        archive = _initramfs({"busybox": busybox.read_bytes(), "echoes": echoes.read_bytes()}, modules)
        (target / "initrd").write_bytes(gzip.compress(archive, 1))
    print(f"{target}/kernel and {target}/initrd are made")
    return 0


def _kernel(root: Path) -> tuple[Path, Path]:
    """Return a kernel and the directory of its modules: those that are installed, else downloaded."""
    installed = sorted(Path("/boot").glob("vmlinuz-*-cloud-amd64"))
    if installed:
        return installed[-1], Path("/lib/modules") / installed[-1].name.removeprefix("vmlinuz-")
    depends = _output("apt-cache", "depends", KERNEL_PACKAGE)
    package = next(
        line.split()[-1] for line in depends.splitlines() if "Depends: linux-image-" in line and "cloud" in line
    )
    unpacked = _unpacked(root, package)
    kernel = next((unpacked / "boot").glob("vmlinuz-*"))
    return kernel, unpacked / "lib/modules" / kernel.name.removeprefix("vmlinuz-")


def _file_of(root: Path, package: str, path: str) -> Path:
    installed = Path("/") / path
    return installed if installed.exists() and _is_static(installed) else _unpacked(root, package) / path


def _is_static(program: Path) -> bool:
    return b"ld-linux" not in program.read_bytes()[:4096]


def _unpacked(root: Path, package: str) -> Path:
    """Download a package and take it apart, without installing it."""
    target = root / package
    target.mkdir()
    subprocess.run(["apt-get", "download", "-qq", package], cwd=root, check=True)
    subprocess.run(["dpkg-deb", "-x", next(root.glob(f"{package}_*.deb")), target], check=True)
    return target


def _output(*command: str) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def _initramfs(programs: Mapping[str, bytes], modules: Path) -> bytes:
    """Return an archive as the kernel unpacks it (cpio(5), newc)."""
    archive = io.BytesIO()
    for directory in DIRECTORIES:
        _member(archive, directory, 0o040755, b"")
    _member(archive, "etc/acpi", 0o040755, b"")
    _member(archive, "etc/acpi/PWRF", 0o040755, b"")
    _member(archive, "etc/acpi/PWRF/00000080", 0o100755, POWER_OFF.encode())
    for name, program in programs.items():
        _member(archive, f"bin/{name}", 0o100755, program)
    for applet in APPLETS:
        _member(archive, f"bin/{applet}", 0o120777, b"busybox")
    order = []
    for module in _in_order(modules):
        name = module.name.removesuffix(".xz").removesuffix(".ko") + ".ko"
        data = module.read_bytes()
        if module.suffix == ".xz":
            data = lzma.decompress(data)
        _member(archive, f"modules/{name}", 0o100644, data)
        order.append(name)
    _member(archive, "modules/order", 0o100644, "\n".join(order).encode())
    _member(archive, "init", 0o100755, INIT.encode())
    _member(archive, "TRAILER!!!", 0, b"")
    return archive.getvalue()


APPLETS = (
    "sh mount insmod ip cat usleep sleep echo httpd acpid poweroff reboot dmesg ps ls".split()  # noqa: SIM905
)


def _in_order(modules: Path) -> Iterator[Path]:
    """Yield the wanted modules, each after those that it needs (modules.dep)."""
    needs: dict[str, list[str]] = {}
    for line in (modules / "modules.dep").read_text().splitlines():
        path, _, others = line.partition(":")
        needs[path] = others.split()
    names = {Path(path).name.split(".")[0].replace("-", "_"): path for path in needs}
    done: set[str] = set()
    for name in WANTED:
        wanted = names.get(name.replace("-", "_"))
        for each in [] if wanted is None else [*reversed(needs[wanted]), wanted]:  # else it is built in
            if each not in done:
                done.add(each)
                yield modules / each


def _member(archive: io.BytesIO, name: str, mode: int, data: bytes) -> None:
    encoded = name.encode() + b"\0"
    fields = [archive.tell(), mode, 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(encoded), 0]
    archive.write(b"070701" + b"".join(b"%08x" % field for field in fields) + encoded)
    archive.write(b"\0" * (-archive.tell() % 4))
    archive.write(data)
    archive.write(b"\0" * (-archive.tell() % 4))


if __name__ == "__main__":
    sys.exit(main())
