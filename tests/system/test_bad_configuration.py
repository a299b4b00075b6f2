"""Bad input: one line for each fault, with file, line and key; status 2; nothing is started."""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING

import pytest

from tests.support.suite import JITSU, RunningSuite, vm_toml

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.suite

BAD = """\
[dns]
prot = 53
[vm.www]
dns = "www.jitsu.test"
ip = "127.9.1.1"
ttl = -1
[vm.one]
dns = ["a.jitsu.test", "bad..name"]
ip = "127.9.1.2"
[vm.two]
dns = "b.jitsu.test"
ip = "127.9.1.3"
[vm.three]
dns = "B.jitsu.test"
ip = "127.9.1.3"
"""


def run(tmp_path: Path, *arguments: str) -> tuple[int, list[str]]:
    done = subprocess.run(
        [*JITSU, "up", "--runtime-dir", str(tmp_path / "run"), *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        cwd=tmp_path,
    )
    assert done.stdout == ""
    return done.returncode, done.stderr.splitlines()


def test_each_fault_of_a_file_has_a_line_with_its_place(tmp_path: Path) -> None:
    (tmp_path / "jitsu.toml").write_text(BAD)
    status, lines = run(tmp_path, "--config", "jitsu.toml")
    assert status == 2
    assert lines == [
        'jitsu.toml:2: dns.prot: unknown key; did you mean "port"?',
        'jitsu.toml:6: vm.www.ttl: -1 is not a duration; use seconds or a unit, for example 60 or "1m"',
        "jitsu.toml:8: vm.one.dns: 'bad..name' is not a DNS name: it has an empty label",
        "jitsu.toml:14: vm.three.dns: b.jitsu.test belongs to the VM two already; to share it, both need summon",
        "jitsu.toml:15: vm.three.ip: 127.9.1.3 belongs to the VM two already",
    ]
    assert not (tmp_path / "run").exists()


def test_a_missing_file_and_one_that_is_no_toml(tmp_path: Path) -> None:
    assert run(tmp_path, "--config", "none.toml") == (2, ["none.toml: cannot be read: No such file or directory"])
    (tmp_path / "jitsu.toml").write_text("[dns\n")
    status, lines = run(tmp_path, "--config", "jitsu.toml")
    assert status == 2
    assert lines[0].startswith("jitsu.toml:1: dns: is not valid TOML: the ] at the end is missing")


def test_bad_strings(tmp_path: Path) -> None:
    strings = [
        "dns=www.jitsu.test,ip=127.9.2.1,colour=red",
        "nonsense",
        "dns=a.jitsu.test,ip=127.9.2",
        "ip=127.9.2.3",
    ]
    assert run(tmp_path, strings[1]) == (2, ["VM string 1: 'nonsense' is not key=value"])
    status, lines = run(tmp_path, strings[0], strings[2], strings[3], "dns=www.jitsu.test,ip=127.9.2.9")
    assert status == 2
    assert lines == [
        "VM string 1: colour: unknown key",
        "VM string 2: ip: '127.9.2' is not an IP address",
        "VM string 3: dns: is required",
    ]
    assert run(tmp_path, "-t", "soon", "dns=www.jitsu.test,ip=127.9.2.1")[0] == 2


def test_a_port_that_is_taken_ends_the_suite_with_advice(tmp_path: Path) -> None:
    import socket

    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as taken:
        taken.bind(("127.0.0.1", 0))
        done = subprocess.run(
            [*JITSU, "up", "--runtime-dir", str(tmp_path / "run"), "-l", str(taken.getsockname()[1])],
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
    assert done.returncode == 2
    assert "Address already in use (another process uses it" in done.stderr
    assert not (tmp_path / "run").exists()


def test_what_a_hypervisor_can_do_nothing_with_is_noted_at_the_start_and_refused_later(tmp_path: Path) -> None:
    toml = vm_toml("www", "127.2.62.1", kernel="/boot/x") + vm_toml("v6", "fe80::1") + vm_toml("ok", "127.2.62.2")
    no_domain = "the mock hypervisor makes no domain; remove it, or run the VM with libvirt, libxl or solo5"
    with RunningSuite(tmp_path, toml=toml) as suite:
        notes = [line for line in suite.output if line.startswith("note: ")]
        assert notes[0].startswith("note: v6: ip: fe80::1 is a link-local address, which no client can use")
        assert notes[1] == f"note: www: kernel: {no_domain}"
        assert f"www: kernel: {no_domain} (as before this change)" in suite.jitsu("set", "www.ttl", "30")
        assert suite.jitsu("set", "ok.hypervisor", "xen", check=False).startswith(
            "jitsu: ok: hypervisor: xen is not listed in hypervisor.connections"
        )
