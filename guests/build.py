"""Make a small Linux guest from Debian's packages, for demonstrations and tests.

    python -m guests.build DIRECTORY

writes DIRECTORY/kernel and DIRECTORY/initrd: the kernel of linux-image-cloud-amd64 and an initramfs with busybox-static
that boots in some seconds, on QEMU (virtio, also of microvm) and on Xen (PV, PVH). It takes what it is from the
kernel's command line:

    jitsu.name=www jitsu.ip=10.0.0.9/24 jitsu.ip=fd00::9/64 jitsu.listen_after=0

announces its addresses, serves a page on port 80, echoes TCP and UDP on port 7, and powers off on ACPI's button or
Xen's request. The packages are downloaded with apt-get, unless they are installed; nothing of them is kept. It needs
gcc, and on Xen the command line wants console=hvc0.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from guests.initramfs import LOAD_MODULES, initramfs, kernel_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

KERNEL_PACKAGE = "linux-image-cloud-amd64"
MODULES = ("virtio_pci", "virtio_mmio", "virtio_net", "xen-netfront", "button", "evdev")
"""Those that it wants, beside those that they need."""
APPLETS = (
    "sh mkdir mount insmod ip cat usleep sleep echo httpd acpid poweroff reboot dmesg ps ls".split()  # noqa: SIM905
)

INIT = f"""#!/bin/sh
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs dev /dev
{LOAD_MODULES}
ip link set lo up
n=0
while [ ! -e /sys/class/net/eth0 ] && [ $n -lt 500 ]; do n=$((n + 1)); usleep 10000; done
name=guest
after=0
addresses=
for word in $(cat /proc/cmdline); do
  case "$word" in
    jitsu.name=*) name=${{word#*=}} ;;
    jitsu.ip=*) addresses="$addresses ${{word#*=}}" ;;
    jitsu.listen_after=*) after=${{word#*=}} ;;
  esac
done
echo 0 > /proc/sys/net/ipv6/conf/eth0/accept_dad
echo 1 > /proc/sys/net/ipv4/conf/eth0/arp_notify
echo 1 > /proc/sys/net/ipv6/conf/eth0/ndisc_notify
for address in $addresses; do ip address add "$address" dev eth0; done
serve() {{
  httpd -h /www
  /bin/echoes
}}
mkdir /www
echo "<html><body>This is the VM <b>$name</b></body></html>" > /www/index.html
[ "$after" = 0 ] && serve  # before anybody can reach it
ip link set eth0 up
[ "$after" = 0 ] || {{ sleep "$after"; serve; }}
echo "jitsu: $name is up" > /dev/console
[ ! -x /etc/extra ] || /etc/extra
acpid -c /etc/acpi -l /dev/null 2> /dev/null
while true; do sleep 3600; done
"""
POWER_OFF = """#!/bin/sh
exec poweroff -f
"""


@dataclass(frozen=True)
class Extra:
    """What a guest has beside the usual: /etc/extra, if there is one, is run when it is up."""

    files: Mapping[str, bytes] = field(default_factory=dict)
    applets: Sequence[str] = ()
    modules: Sequence[str] = ()


def build(target: Path, extra: Extra | None = None) -> None:
    """Write a kernel and an initrd into a directory, which is made."""
    extra = extra or Extra()
    target.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as directory:
        root = Path(directory)
        kernel, modules = kernel_of(root, KERNEL_PACKAGE)
        shutil.copy(kernel, target / "kernel")
        echoes = root / "echoes"
        subprocess.run(["gcc", "-static", "-Os", "-s", "-o", echoes, Path(__file__).with_name("echo.c")], check=True)
        files = {
            "init": INIT.encode(),
            "bin/echoes": echoes.read_bytes(),
            "etc/acpi/PWRF/00000080": POWER_OFF.encode(),
            **extra.files,
        }
        wanted = (*MODULES, *extra.modules)
        (target / "initrd").write_bytes(initramfs(root, [*APPLETS, *extra.applets], files, modules, wanted))


def main() -> int:
    """Make it."""
    if len(sys.argv) != 2 or sys.argv[1].startswith("-"):
        print(__doc__, file=sys.stderr)
        return 2
    target = Path(sys.argv[1])
    build(target)
    print(f"{target}/kernel and {target}/initrd are made")
    return 0


if __name__ == "__main__":
    sys.exit(main())
