"""`jitsu check`: every mistake at its line, and nothing is started for it."""

from __future__ import annotations

import json
import subprocess
from typing import TYPE_CHECKING, Any

import pytest

from jitsu.check import judge
from jitsu_protocol.model.vm import uuid_for
from jitsu_runtime.settings.load import load
from tests.support.suite import JITSU

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

FILE = """\
[dns]
records = ["www.example.org. 300 IN MX 10 mail.example.org."]
[vm.www]
dns = "www.jitsu.test"
ip = "127.0.2.1"
kernel = "/no/kernel"
[vm.api]
name = "backend"
dns = "api.jitsu.test"
ip = "127.0.2.2"
"""
SILENT: dict[str, Any] = {"vmd": {}, "dns": {}}


def judged(tmp_path: Path, told: Mapping[str, Any], text: str = FILE) -> dict[str, list[str]]:
    file = tmp_path / "jitsu.toml"
    file.write_text(text)
    said = judge(file, load(file, {}, {}), {**SILENT, **told})
    return {
        "faults": [each.removeprefix(f"{file}:") for each in said.faults],
        "notes": said.notes,
        "unchecked": said.unchecked,
    }


def test_what_a_hypervisor_says_of_a_key_stands_at_its_line(tmp_path: Path) -> None:
    refusals = {
        uuid_for("www"): "kernel: there is no file /no/kernel",
        uuid_for("backend"): "nic: this host has no br9",
    }
    assert judged(tmp_path, {"vmd": {"refusals": refusals}})["faults"] == [
        "6: vm.www.kernel: there is no file /no/kernel",
        "7: vm.api.nic: this host has no br9",
    ]


def test_what_a_hypervisor_says_of_no_key_stands_at_the_section(tmp_path: Path) -> None:
    refusals = {uuid_for("www"): "qemu:///system has no domain www"}
    assert judged(tmp_path, {"vmd": {"refusals": refusals}})["faults"] == [
        "3: vm.www: qemu:///system has no domain www"
    ]


def test_what_dns_says_stands_at_its_line(tmp_path: Path) -> None:
    told = {"dns": {"faults": ["dns.records: 'x' is not a record of a zone file"]}}
    assert judged(tmp_path, told)["faults"] == ["2: dns.records: 'x' is not a record of a zone file"]


@pytest.mark.parametrize(
    ("web", "fault"),
    [
        ('listen = "0.0.0.0:8080"', "2: web.listen: 0.0.0.0:8080 is not loopback"),
        ('certificate = "/c"\nlisten = "127.0.0.1:8080"', "1: web.key: is missing, though web.certificate is given"),
        ('listen = "0.0.0.0:8080"\ninsecure = true', ""),
        ('listen = "127.0.0.1:8080"', ""),
        ('listen = "unix:/run/web"', ""),
        ("insecure = false", ""),
    ],
)
def test_what_would_keep_jitsu_web_from_its_start_stands_at_its_line(tmp_path: Path, web: str, fault: str) -> None:
    said = judged(tmp_path, {}, f"[web]\n{web}\n{FILE}")["faults"]
    assert [each[: len(fault)] for each in said] == ([fault] if fault else [])


def test_what_could_not_be_looked_at_is_named_and_is_no_fault(tmp_path: Path) -> None:
    told = {"vmd": {"silent": {"libvirt (qemu:///system)": "cannot connect"}}, "dns": "jitsu-dns is not installed here"}
    text = '[bus]\nhosts = ["two"]\n' + FILE + 'host = "two"\n'
    assert judged(tmp_path, told, text) | {"notes": []} == {
        "faults": [],
        "notes": [],
        "unchecked": [
            "what libvirt (qemu:///system) has: cannot connect",
            "the VMs of the host two: run it there",
            "[dns]: jitsu-dns is not installed here",
        ],
    }


def test_notes_are_those_of_up(tmp_path: Path) -> None:
    told = {"vmd": {"writes_to_disk": {uuid_for("www"): True}}}
    (stop_mode, *_) = judged(tmp_path, told)["notes"]
    assert stop_mode.startswith("note: www has a disk that it writes to and no stop_mode")
    (reach, *_) = judged(tmp_path, {}, FILE.replace("127.0.2.1", "192.0.2.7"))["notes"]
    assert reach.startswith("note: www cannot be reached from here: 192.0.2.7 is not an address of this host")
    (none,) = judged(tmp_path, {}, "")["notes"]
    assert none.startswith("note: there is no VM")


def check(*arguments: str, directory: Path) -> tuple[int, str]:
    command = [*JITSU, "--runtime-dir", str(directory / "run"), "check", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, cwd=directory)
    assert done.stderr == ""
    return done.returncode, done.stdout


@pytest.mark.suite
def test_the_services_are_asked_and_nothing_is_left_of_them(tmp_path: Path) -> None:
    text = (
        FILE.replace("10 mail", "ten mail").replace('kernel = "/no/kernel"', "ttl = 5")
        + '[hypervisor.xen]\nkind = "libxl"\n[vm.old]\nhypervisor = "xen"\n'
    )
    text += 'dns = "old.jitsu.test"\nip = "127.0.2.3"\nkernel = "/no/kernel"\n'
    (tmp_path / "jitsu.toml").write_text(text)
    before = sorted(tmp_path.iterdir())
    status, out = check("jitsu.toml", directory=tmp_path)
    lines = out.splitlines()
    assert status == 1
    assert "jitsu.toml:17: vm.old.kernel: there is no file /no/kernel" in lines
    assert any(line.startswith("jitsu.toml:2: dns.records: ") for line in lines)
    assert lines[-1] == "jitsu.toml: 3 VMs, 2 mistakes"
    assert sorted(tmp_path.iterdir()) == before
    assert check("jitsu.toml", "--no-hypervisor", directory=tmp_path)[0] == 0


@pytest.mark.suite
def test_a_file_with_mistakes_of_its_own_is_judged_alone(tmp_path: Path) -> None:
    (tmp_path / "jitsu.toml").write_text(FILE + "ttl = -1\nwait_for_prot = 1\n")
    status, out = check("jitsu.toml", "--json", directory=tmp_path)
    assert status == 2
    assert [each.split(": ")[1] for each in json.loads(out)["faults"]] == ["vm.api.ttl", "vm.api.wait_for_prot"]


@pytest.mark.libvirt
def test_domains_are_looked_for_in_libvirt(tmp_path: Path) -> None:
    text = '[hypervisor]\nkind = "libvirt"\nconnect = "test:///default"\n'
    text += '[vm.test]\ndns = "a.jitsu.test"\nip = "127.0.2.1"\n[vm.nosuch]\ndns = "b.jitsu.test"\nip = "127.0.2.2"\n'
    (tmp_path / "jitsu.toml").write_text(text)
    status, out = check("jitsu.toml", directory=tmp_path)
    (line, *_) = out.splitlines()
    assert (status, line.split(": ")[0:2]) == (1, ["jitsu.toml:7", "vm.nosuch"])
    assert "test:///default has no domain nosuch" in line
