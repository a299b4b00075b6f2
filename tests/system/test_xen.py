"""In a dom0: a query boots a real guest of Xen, which answers; what others do with it is known."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import dns.exception
import dns.message
import dns.query
import pytest

from tests.support.lan import BRIDGE, Lan, lan_suite, made_lan
from tests.support.libvirtd import guest_image
from tests.support.suite import wait_for
from tests.system.test_first_packets import datagram
from tests.system.test_real_guests import page

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = [pytest.mark.xen, pytest.mark.timeout(900)]
CONFIG = Path("/etc/jitsu/jitsu.toml")
DROP_IN = """[Unit]
DefaultDependencies=no
[Service]
StandardError=append:{said}
TimeoutStartSec=300
WatchdogSec=300
"""
LIMIT_S = 300.0
"""Under emulation a guest of Xen takes a minute."""


@pytest.fixture(scope="module")
def lan() -> Iterator[Lan]:
    with made_lan(1, host_pid=os.getpid()) as lan:
        yield lan


def toml(directory: Path) -> str:
    image = guest_image()
    shown = {
        "dns": "www.jitsu.test",
        "kernel": f"{image}/kernel",
        "initrd": f"{image}/initrd",
        "cmdline": "console=hvc0 quiet jitsu.name=www jitsu.ip=10.77.0.10/24",
        "memory": 98304,
        "nic": BRIDGE,
        "ttl": 1,
        "idle_timeout": 3600,
        "boot_limit": LIMIT_S,
        "max_wait": 4,
    }
    lines = [
        "[hypervisor]",
        'kind = "libxl"',
        f'save_directory = "{directory}/saved"',
        "",
        "[vm.www]",
        'ip = "10.77.0.10"',
    ]
    return "\n".join([*lines, *(f'{key} = "{value}"' for key, value in shown.items()), ""])


def domains() -> list[str]:
    listed = subprocess.run(["xl", "list"], check=True, capture_output=True, text=True, timeout=LIMIT_S).stdout
    return [line.split()[0] for line in listed.splitlines()[2:]]


def test_a_query_boots_a_guest_on_a_bridge_which_answers(tmp_path: Path, lan: Lan) -> None:
    with lan_suite(tmp_path, toml(tmp_path), lan=lan) as (_, suite):
        address = lan.run(0, lambda: wait_for(lambda: asked("www.jitsu.test", suite.port), LIMIT_S, "an address"))
        shown = lan.run(0, lambda: wait_for(lambda: fetched(address), LIMIT_S, "the guest answers"))
        assert "This is the VM <b>www</b>" in shown
        assert domains() == ["www"]
        assert lan.run(0, lambda: datagram(address, b"hello")) == b"hello"
        subprocess.run(["xl", "destroy", "www"], check=True, timeout=LIMIT_S)
        wait_for(lambda: suite.state("www") == "off", LIMIT_S, "what others do is known")


def test_the_units_boot_a_guest_on_dom0(tmp_path: Path, lan: Lan) -> None:
    """As docs/how-to/operate.md has it, but without what else a machine has: that takes minutes under emulation."""
    installed = Path(os.environ["JITSU_INSTALLED"])
    for place in ("usr/bin", "usr/lib/systemd/system", "usr/lib/sysusers.d", "usr/lib/tmpfiles.d"):
        shutil.copytree(installed / place, Path("/", place), dirs_exist_ok=True)
    Path("/usr/lib/jitsu").symlink_to(installed / "usr/lib/jitsu")
    CONFIG.parent.mkdir()
    CONFIG.write_text(toml(tmp_path).replace(f'save_directory = "{tmp_path}/saved"', ""))
    said = tmp_path / "said"
    for service in ("store", "vmd"):
        drop_in = Path(f"/etc/systemd/system/jitsu-{service}.service.d/emulated.conf")
        drop_in.parent.mkdir()
        drop_in.write_text(DROP_IN.format(said=said))
    try:
        for command in (
            "systemd-sysusers jitsu.conf",
            "systemd-tmpfiles --create jitsu.conf",
            "systemctl daemon-reload",
            "systemctl start jitsu-store jitsu-vmd",
            f"jitsu apply {CONFIG}",
            "jitsu start www",
        ):
            done = subprocess.run(command.split(), capture_output=True, text=True, check=False, timeout=LIMIT_S)
            assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}{said.read_text()}"
        assert domains() == ["www"]
        shows = ["systemctl", "show", "--value", "--property=MainPID", "jitsu-vmd"]
        vmd = Path("/proc", subprocess.run(shows, check=True, capture_output=True, text=True).stdout.strip())
        assert "Seccomp:\t2\n" in (vmd / "status").read_text(), "it is in its sandbox"
        assert (vmd / "ns/mnt").readlink() != Path("/proc/self/ns/mnt").readlink()
        shown = lan.run(0, lambda: wait_for(lambda: fetched("10.77.0.10"), LIMIT_S, "the guest answers"))
        assert "This is the VM <b>www</b>" in shown
        subprocess.run(["jitsu", "stop", "www"], check=True, timeout=LIMIT_S)
        assert domains() == []
    finally:
        subprocess.run(["systemctl", "stop", "jitsu-vmd", "jitsu-store"], check=False)
        print(said.read_text())
    assert "Traceback" not in said.read_text()


def asked(name: str, port: int) -> str:
    """Ask once, as a resolver would that asks again: while the machine is busy vmd may not answer in time."""
    try:
        reply = dns.query.udp(dns.message.make_query(name, "A"), "10.77.0.1", port=port, timeout=10)
    except dns.exception.Timeout:
        return ""
    return str(reply.answer[0][0]) if reply.answer else ""


def fetched(address: str) -> str:
    try:
        return page(address, 5.0)
    except OSError:
        return ""
