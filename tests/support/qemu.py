"""A guest that can be the template of clones, with QEMU's guest agent; and what `make bench-engines` needs of QEMU."""

from __future__ import annotations

import atexit
import functools
import re
import shutil
import subprocess
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from guests.build import Extra, build
from guests.initramfs import unpacked
from tests.support.engine_bench import MACHINES, BenchMachine, EngineBench, address_of, mac_of
from tests.support.lan import BRIDGE, ip
from tests.support.libvirtd import guest_image
from tests.support.unikernel import add_tap

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.lan import Lan

ROOT = Path(__file__).parents[2]
AGENT_PACKAGE = "qemu-guest-agent"
APPLETS = ("date", "sed", "grep", "awk", "rm", "hostname", "sha256sum", "head", "tr")
EXTRA = """#!/bin/sh
echo template > /etc/machine-id
port=$(ls /dev/vport*p1) && qemu-ga -m virtio-serial -p "$port" -t /tmp -f /tmp/qemu-ga.pid > /dev/console 2>&1 &
"""
"""What the guest runs when it is up."""
SHARES = """#!/bin/sh
if [ "$0" != /tmp/clone ] && grep -q jitsu.shares /proc/cmdline; then
  sed 's/machine-id"$/"/;s/host-keys"$/"/' "$0" > /tmp/clone
  exec sh /tmp/clone
fi
"""
"""A template may say that its clones are to keep what it is known by."""
TELLS = """
{ cat /etc/machine-id; head -c 16 /dev/urandom | sha256sum; cat /sys/class/net/eth0/address; date +%s; } > /www/identity
"""
"""The script is followed by this, so that a test sees what it has done."""


@functools.cache
def template_image() -> Path:
    """Return the directory of the guest's kernel and initrd, where QEMU's own user may read them."""
    directory = Path(tempfile.mkdtemp(prefix="jitsu-template-"))
    atexit.register(shutil.rmtree, directory)
    with tempfile.TemporaryDirectory() as scratch:
        agent = Path("/usr/sbin/qemu-ga")
        if not agent.exists():
            agent = unpacked(Path(scratch), AGENT_PACKAGE) / "usr/sbin/qemu-ga"
        reseed = Path(scratch) / "reseed"
        source = Path(__file__).with_name("reseed.c")
        subprocess.run(["gcc", "-static", "-Os", "-s", "-o", reseed, source], check=True)
        libraries = subprocess.run(["ldd", agent], check=True, capture_output=True, text=True).stdout
        files = {path.lstrip("/"): Path(path).read_bytes() for path in re.findall(r"(/\S+) \(0x", libraries)}
        files |= {
            "bin/qemu-ga": agent.read_bytes(),
            "bin/jitsu-reseed": reseed.read_bytes(),
            "etc/extra": EXTRA.encode(),
        }
        files["etc/jitsu/clone"] = SHARES.encode() + (ROOT / "deploy/examples/clone").read_bytes() + TELLS.encode()
        build(directory, Extra(files, APPLETS, ("virtio_console",)))
    for path in (directory, *directory.iterdir()):
        path.chmod(0o755)
    return directory


@contextmanager
def bench_engine(lan: Lan, directory: Path) -> Iterator[EngineBench]:
    """Yield small machines without KVM; alone, QEMU is started on a tap that is there."""
    image = guest_image()
    add_tap(lan, "tap-m0")
    running: list[subprocess.Popen[bytes]] = []

    def words(number: int) -> str:
        return f"console=ttyS0 quiet jitsu.name=m{number} jitsu.ip={address_of(number)}/24"

    def start() -> None:
        command = ["qemu-system-x86_64", "-nodefaults", "-display", "none", "-m", "96M", "-M", "q35,accel=tcg,usb=off"]
        command += ["-kernel", f"{image}/kernel", "-initrd", f"{image}/initrd", "-append", words(0)]
        command += ["-netdev", "tap,id=net,ifname=tap-m0,script=no,downscript=no"]
        command += ["-device", f"virtio-net-pci,netdev=net,mac={mac_of(0)},romfile="]
        with (directory / "m0.log").open("wb") as log:
            running.append(subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log))

    def stop() -> None:
        while running:
            process = running.pop()
            process.kill()
            process.wait()

    machines = [
        BenchMachine(
            f"m{number}",
            address_of(number),
            f'kernel = "{image}/kernel"\ninitrd = "{image}/initrd"\ncmdline = "{words(number)}"\nmemory = 98304',
            start,
            stop,
        )
        for number in range(MACHINES)
    ]
    saved = f'save_directory = "{directory}/saved"'
    try:
        yield EngineBench(f'[hypervisor]\nkind = "qemu"\nbridge = "{BRIDGE}"\naccelerate = "tcg"\n{saved}\n', machines)
    finally:
        stop()
        ip("-n", lan.host, "link", "delete", "tap-m0")
