"""What is decided about Solo5 unikernels: their manifests, command lines, users, and why they failed."""

from __future__ import annotations

import json
from contextlib import suppress
from functools import partial

import pytest

from jitsu_protocol.model.errors import Refused
from jitsu_protocol.model.vm import VM, from_config
from jitsu_runtime.settings.values import interface
from jitsu_vmd.hypervisors.shared.rules.spec import DomainSpec, domain_spec
from jitsu_vmd.hypervisors.shared.rules.users import Users, UsersFault
from jitsu_vmd.hypervisors.solo5.rules import console
from jitsu_vmd.hypervisors.solo5.rules.command_line import (
    arguments,
    bridges,
    disks,
    tender_command,
)
from jitsu_vmd.hypervisors.solo5.rules.manifest import Manifest, ManifestFault, manifest_of_tool, read_manifest
from tests.support.solo5 import image

WEB = Manifest("spt", ("service", "management"), ("storage",))


def vm(**keys: str | list[str]) -> VM:
    config = {"name": "www", "dns": "www.jitsu.test", "ip": ["10.0.0.9", "fd00::9"], "mac": "02:00:00:00:00:ff"}
    return from_config({k: [v] if isinstance(v, str) else v for k, v in (config | keys).items()}, {})


def spec_of(made: VM) -> DomainSpec:
    return domain_spec(made, "")


def read_from(data: bytes, offset: int, size: int) -> bytes:
    return data[offset : offset + size]


def manifest_of(data: bytes) -> Manifest:
    return read_manifest(partial(read_from, data))


def test_the_devices_and_the_tender_of_an_image_are_read_from_its_notes() -> None:
    assert manifest_of(image(2, ["service", "management"], ["storage"])) == WEB
    assert manifest_of(image(1)) == Manifest("hvt")
    assert manifest_of(image(6, ["a"])) == Manifest("xen", ("a",))
    assert manifest_of(image(99)).target == "target 99"


def test_a_file_that_is_no_image_is_refused_with_the_reason() -> None:
    data = image(2, ["service"])
    with pytest.raises(ManifestFault, match="not an ELF file"):
        manifest_of(b"#!/bin/sh")
    with pytest.raises(ManifestFault, match="64-bit"):
        manifest_of(data[:40])
    with pytest.raises(ManifestFault, match="no Solo5 manifest"):
        manifest_of(data.replace(b"Solo5", b"Xen\0\0"))
    with pytest.raises(ManifestFault, match="cut short"):
        manifest_of(data[: 64 + 56 * 2 + 10])
    with pytest.raises(ManifestFault, match="damaged"):
        manifest_of(data[:-104])
    with pytest.raises(ManifestFault, match="names a device 'serv/ce'"):
        manifest_of(data.replace(b"service", b"serv/ce"))


def test_what_solo5_elftool_prints_is_a_manifest_too() -> None:
    devices = [("service", "NET_BASIC"), ("storage", "BLOCK_BASIC"), ("other", "RESERVED_FIRST")]
    said = json.dumps({"type": "solo5.manifest", "devices": [{"name": n, "type": t} for n, t in devices]})
    abi = '{"type": "solo5.abi", "target": "hvt", "version": 1}'
    assert manifest_of_tool(said, abi) == Manifest("hvt", ("service",), ("storage",))
    with pytest.raises(ManifestFault, match="does not print a manifest"):
        manifest_of_tool('{"devices": [{}]}', abi)
    with pytest.raises(ManifestFault, match="names a device 'a b'"):
        manifest_of_tool(said.replace("storage", "a b"), abi)


@pytest.mark.parametrize("cut", range(0, 448, 7))
def test_no_image_that_is_cut_short_or_damaged_ends_the_reader(cut: int) -> None:
    data = image(2, ["service"])
    for damaged in (data[:cut], data[:cut] + b"\xff" * 16 + data[cut + 16 :]):
        with suppress(ManifestFault):  # nothing else may be raised
            assert manifest_of(damaged).target


def test_the_command_line_is_what_the_tenders_take() -> None:
    www = vm(kernel="/images/www.spt", memory="32769", disk="/images/www.img", nic=["br0", "br1"])
    words = tender_command("/usr/bin/solo5-spt", spec_of(www), WEB, ["js-0", "js-1"], ["--ipv4=10.0.0.9/24"])
    assert words == [
        "/usr/bin/solo5-spt",
        "--mem=33",
        "--net:service=js-0",
        "--net-mac:service=02:00:00:00:00:ff",
        "--net:management=js-1",
        "--net-mac:management=02:00:00:00:00:00",
        "--block:storage=/images/www.img",
        "--",
        "/images/www.spt",
        "--ipv4=10.0.0.9/24",
    ]


def test_what_stands_in_braces_is_filled_in_after_the_words_were_split() -> None:
    own = [interface(text) for text in ("192.0.2.1/24", "10.0.0.1/16", "fd00::1/64")]
    www = vm(cmdline="--ipv4={ip}/{prefix} --ipv4-gateway={gateway} '--title=The VM {name}' {ip6}/{prefix6},{gateway6}")
    assert arguments(www, own) == [
        "--ipv4=10.0.0.9/16",
        "--ipv4-gateway=10.0.0.1",
        "--title=The VM www",
        "fd00::9/64,fd00::1",
    ]
    assert arguments(vm(cmdline='{"port": 80}'), []) == ["{port:", "80}"]


@pytest.mark.parametrize(
    ("cmdline", "reason"),
    [
        ("--ipv4={adress}", r"cmdline: \{adress\} is not known; use one of \{name\}, \{ip\}"),
        ("{gateway}", "the bridge has no address in the network of the VM's own"),
        ("'", "cannot be split"),
        ("{name}" * 600, "longer than the 8191 bytes"),
    ],
)
def test_a_command_line_that_cannot_be_filled_in_is_refused_with_the_reason(cmdline: str, reason: str) -> None:
    own = [interface("192.0.2.1/24")]
    with pytest.raises(Refused, match=reason):
        arguments(vm(cmdline=cmdline, name="a-name-of-20-letters"), own)


def test_each_network_of_the_image_has_a_bridge() -> None:
    assert bridges(spec_of(vm()), WEB, "jitsu0") == ["jitsu0", "jitsu0"]
    assert bridges(spec_of(vm(nic=["br0", "br1"])), WEB, "jitsu0") == ["br0", "br1"]
    assert bridges(spec_of(vm()), Manifest("spt"), "jitsu0") == []
    with pytest.raises(Refused, match=r"nic: the image has 2 networks \(service, management\), and the VM says"):
        bridges(spec_of(vm(nic="br0")), WEB, "jitsu0")


def test_each_block_device_of_the_image_has_a_file() -> None:
    two = Manifest("spt", (), ("root", "data"))
    assert disks(spec_of(vm(disk=["/a@data", "/b@root"])), two) == {"root": "/b", "data": "/a"}
    assert disks(spec_of(vm(disk=["/a", "/b"])), two) == {"root": "/a", "data": "/b"}
    for given, reason in (
        (["/a@data"], "the image needs a file for its block device root"),
        (["/a@xvda", "/b"], "'/a@xvda' is for no block device of the image, which has root, data"),
        (["/a@root", "/b@root"], "the block device root is given twice"),
        (["a@root", "/b@data"], "must be an absolute path"),
        (["/a b@root", "/b@data"], "without blanks"),
    ):
        with pytest.raises(Refused, match=reason):
            disks(spec_of(vm(disk=given)), two)


def test_each_vm_has_a_user_of_its_own_and_the_same_one_again() -> None:
    users = Users(range(70000, 70004))
    given = {uuid: users.user(uuid) for uuid in ("a", "b", "c", "d")}
    assert sorted(given.values()) == [70000, 70001, 70002, 70003]
    assert {uuid: users.user(uuid) for uuid in given} == given
    with pytest.raises(UsersFault, match="all 4 user ids"):
        users.user("e")
    users.forget("b")
    assert users.user("e") == given["b"]
    assert Users(range(70000, 70004), dict(given)).user("c") == given["c"]
    assert Users(range(80000, 80004), dict(given)).user("c") in range(80000, 80004), "the range has changed"


def test_why_a_guest_failed_is_the_end_of_its_console() -> None:
    printed = (
        b"            |      ___|\n  __|  _ \\  |  _ \\\nSolo5: Bindings version v0.9\nFatal error: \x1b[31mno disk\n\n"
    )
    assert console.reason(255, printed) == (
        "the tender has ended with status 255: __| _ \\ | _ \\; Solo5: Bindings version v0.9; Fatal error: [31mno disk"
    )
    assert console.reason(-9, b"") == "the tender was ended by SIGKILL, and its console is empty"
    assert console.reason(-50, b"x") == "the tender was ended by signal 50: x"
    assert (
        console.reason(None, b"x\xff\xfe")
        == "the tender has ended: x\N{REPLACEMENT CHARACTER}\N{REPLACEMENT CHARACTER}"
    )
    assert len(console.reason(1, b"y" * 5000)) < 400
