"""In a dom0: a query boots a real guest of Xen, which answers; it is stopped in each way, and comes back."""

from __future__ import annotations

import os
import subprocess
from typing import TYPE_CHECKING

import pytest

from tests.support.lan import BRIDGE, Lan, lan_suite
from tests.support.libvirtd import guest_image
from tests.support.suite import wait_for
from tests.system.test_first_packets import datagram, summon
from tests.system.test_real_guests import page

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = [pytest.mark.xen, pytest.mark.timeout(400)]
LIMIT_S = 120.0


@pytest.fixture(scope="module")
def lan() -> Iterator[Lan]:
    lan = Lan(1, host_pid=os.getpid())
    try:
        lan.make()
        yield lan
    finally:
        lan.remove()


def toml(directory: Path, **keys: object) -> str:
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
        "use_synjitsu": "true",
        "boot_limit": 100,
    } | keys
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
    listed = subprocess.run(["xl", "list"], check=True, capture_output=True, text=True, timeout=60).stdout
    return [line.split()[0] for line in listed.splitlines()[2:]]


def test_a_query_boots_a_guest_whose_first_connection_is_kept_for_it(tmp_path: Path, lan: Lan) -> None:
    with lan_suite(tmp_path, toml(tmp_path, stop_mode="suspend"), lan=lan) as (_, suite):
        assert "This is the VM <b>www</b>" in lan.run(0, lambda: page(summon("www", suite.port), LIMIT_S))
        assert domains() == ["www"]
        assert "1 replayed" in suite.jitsu("status")
        assert lan.run(0, lambda: datagram("10.77.0.10", b"hello")) == b"hello"
        suite.jitsu("stop", "www")
        assert suite.state("www") == "suspended"
        assert domains() == []
        assert "This is the VM <b>www</b>" in lan.run(0, lambda: page(summon("www", suite.port), LIMIT_S)), (
            "it is restored"
        )
        subprocess.run(["xl", "destroy", "www"], check=True, timeout=60)
        wait_for(lambda: suite.state("www") == "off", LIMIT_S, "what others do is known")
