"""The tutorial on the first VM under libvirt, with its own jitsu.toml and the guest of these tests."""

from __future__ import annotations

import os
import re
from typing import TYPE_CHECKING

import pytest

from tests.support.lan import BRIDGE, Lan, lan_suite, made_lan
from tests.support.libvirtd import guest_image, running_libvirtd, virsh
from tests.support.pages import DOCS
from tests.system.test_first_packets import summon
from tests.system.test_real_guests import page, stopped

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = [
    pytest.mark.libvirt,
    pytest.mark.timeout(300),
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root: libvirtd, bridges"),
]
TEXT = (DOCS / "tutorials" / "first-vm.md").read_text()
TOML = re.findall(r"```toml\n(.*?)```", TEXT, re.DOTALL)[0]
NUMBER = 50
DOMAIN = """<domain type="qemu"><name>www</name><memory unit="MiB">96</memory>
<os><type arch="x86_64">hvm</type><kernel>{image}/kernel</kernel><initrd>{image}/initrd</initrd>
<cmdline>console=ttyS0 quiet jitsu.name=www jitsu.ip=10.77.0.{number}/24</cmdline></os><features><acpi/></features>
<devices><interface type="bridge"><source bridge="{bridge}"/><model type="virtio"/></interface><console type="pty"/>
</devices></domain>"""


@pytest.fixture
def lan() -> Iterator[Lan]:
    with made_lan(1) as lan:
        yield lan


def test_the_table_of_the_tutorial_explains_each_line_of_its_toml() -> None:
    said = "\n".join(re.findall(r"^\| (.*?) \|", TEXT, re.MULTILINE))
    for line in TOML.splitlines():
        key = line.partition(" = ")[0]
        assert not line or f"`{key}`" in said or key in ("[hypervisor]", "[dns]"), line


def test_the_vm_of_the_tutorial_wakes_up_and_shuts_down_when_it_is_idle(tmp_path: Path, lan: Lan) -> None:
    """Its toml is used as it stands, but for addresses, and an idle time that is over while a test waits."""
    toml = TOML
    for written, meant in (
        ('[dns]\nbind = "192.168.1.2"\nzones = ["jitsu.test"]\n', ""),  # lan_suite says that
        ("192.168.1.50", f"10.77.0.{NUMBER}"),
        ('ttl = "30s"\nidle_timeout = "10m"', 'ttl = "1s"\nidle_timeout = "2s"'),
    ):
        assert written in toml
        toml = toml.replace(written, meant)
    with running_libvirtd(["ip", "netns", "exec", lan.host]):
        (tmp_path / "www.xml").write_text(DOMAIN.format(image=guest_image(), number=NUMBER, bridge=BRIDGE))
        virsh("define", str(tmp_path / "www.xml"))
        with lan_suite(tmp_path, toml, lan=lan) as (_, suite):
            for _ in range(2):
                assert "This is the VM <b>www</b>" in lan.run(0, lambda: page(summon("www", suite.port)))
                replayed = re.findall(r"(\d+) replayed", suite.jitsu("status"))
                assert int(replayed[0]) > 0, "the client's connection was kept until it was there"
                stopped(suite, "www", "off")
                assert virsh("domstate", "--reason", "www").strip() == "shut off (shutdown)", "and not destroyed"
            print(suite.jitsu("trace", "www"))
            assert re.search(r"^ +armed", suite.jitsu("trace", "www"), re.MULTILINE)
