"""When a clone is made and what of, what its guest is told, and the parts that keep it from its template."""

from __future__ import annotations

import asyncio
import base64
import errno
import fcntl
import json
import mmap
import os
import re
import socket
import struct
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from jitsu_protocol.model.errors import BootFailed
from jitsu_protocol.model.vm import from_config
from jitsu_vmd.hypervisors.qemu.rules import clones
from jitsu_vmd.hypervisors.qemu.rules.clones import clone_of, environment, missing, why_not
from jitsu_vmd.hypervisors.qemu.rules.command_line import Opened, command_line, opened
from jitsu_vmd.hypervisors.qemu.rules.keys import check_possible, check_unused
from jitsu_vmd.hypervisors.qemu.rules.launch import LaunchNic
from jitsu_vmd.hypervisors.qemu.rules.life import Process, SaveState
from jitsu_vmd.hypervisors.qemu.rules.overlay import CLUSTER, overlay, overlay_bytes, size_of_qcow2
from jitsu_vmd.hypervisors.qemu.wires.agent import GuestAgent
from jitsu_vmd.hypervisors.qemu.wires.templates import sealed_copy
from jitsu_vmd.hypervisors.shared.rules.spec import domain_spec
from tests.support.hypervisors import raised
from tests.vmd.test_qemu_rules import FILES, LAUNCH, UUID

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from jitsu_protocol.model.vm import VM

NICS = [LaunchNic("02:00:5e:00:53:02", "br1", "jq1")]
TEMPLATE = replace(LAUNCH, has_agent=True)
OTHER = "6a204bd8-9e0b-4e5d-8f5a-1d2a3b1d5f11"


def test_the_table_says_when_a_clone_is_made() -> None:
    rows = re.findall(
        r"^    (none|any other) +(\w+) +is (made from the save|refused)", clones.__doc__ or "", re.MULTILINE
    )
    said: dict[tuple[Process, SaveState], bool] = {}
    for process, save, what in rows:
        processes = [Process.NONE] if process == "none" else [each for each in Process if each is not Process.NONE]
        saves = list(SaveState) if save == "any" else [SaveState(save)]
        said |= {(one, other): what.startswith("made") for one in processes for other in saves}
    assert said == {(one, other): not why_not(one, other) for one in Process for other in SaveState}
    assert list(said.values()).count(True) == 1


def test_a_clone_is_its_template_with_other_names_addresses_and_taps() -> None:
    clone = clone_of(TEMPLATE, "clone", OTHER, NICS)
    assert clone == replace(TEMPLATE, name="clone", uuid=OTHER, nics=tuple(NICS), shares_memory=False, template=UUID)
    for template, nics, why in (
        (clone, NICS, "it is a clone itself"),
        (LAUNCH, NICS, "guest_agent = true"),
        (replace(TEMPLATE, shares_memory=False), NICS, "stop_mode = suspend"),
        (TEMPLATE, [], "1 network interfaces: a clone must have as many"),
    ):
        with pytest.raises(ValueError, match=why):
            clone_of(template, "clone", OTHER, nics)


def test_a_clone_sees_what_its_template_has_and_writes_to_nothing_of_it() -> None:
    clone = replace(clone_of(TEMPLATE, "clone", OTHER, NICS), boot=replace(TEMPLATE.boot, firmware="/code"))
    assert opened(clone, FILES) == (
        Opened("memory", ""),
        Opened("copy", "/saved/variables"),
        Opened("tap", "jq1"),
        Opened("overlay", "/images/a,b.qcow2"),
        Opened("read", "/images/a,b.qcow2"),
    )
    said = " ".join(command_line("qemu", clone, [5, 6, 7, 8, 9], 1, is_incoming=False))
    assert "mem-path=/proc/self/fd/5,share=off" in said
    assert "-add-fd fd=8,set=1 -blockdev driver=file,node-name=overlay0,filename=/dev/fdset/1 " in said
    assert "-add-fd fd=9,set=2 -blockdev driver=file,node-name=file0,filename=/dev/fdset/2,read-only=on " in said
    assert "driver=qcow2,node-name=base0,file=file0,read-only=on " in said
    assert "driver=qcow2,node-name=disk0,file=overlay0,backing=base0 " in said
    assert said.endswith("-incoming defer"), "a clone never boots"


def test_a_guest_is_told_who_it_is_and_has_to_say_what_it_has_changed() -> None:
    clone = clone_of(TEMPLATE, "clone", OTHER, NICS)
    told = dict(line.split("=", 1) for line in environment(clone, ["10.0.0.9", "fd00::9"], b"\1\2", 1700000000.4))
    assert told.pop("PATH")
    assert told == {
        "JITSU_NAME": "clone",
        "JITSU_MACS": "02:00:5e:00:53:02",
        "JITSU_ADDRESSES": "10.0.0.9 fd00::9",
        "JITSU_MACHINE_ID": "6a204bd89e0b4e5d8f5a1d2a3b1d5f11",
        "JITSU_SEED": "0102",
        "JITSU_TIME": "1700000000",
    }
    said = "warning\njitsu-clone: mac address random clock\n"
    assert missing(said, shares_identity=False) == ["machine-id", "host-keys"]
    assert missing(said, shares_identity=True) == []
    assert missing("mac address random clock machine-id host-keys", shares_identity=True) != []


def vm(**keys: str) -> VM:
    config = {"name": "c", "dns": "c.jitsu.test", "ip": "10.0.0.9", "template": "t"} | keys
    return from_config({key: [value] for key, value in config.items()}, {})


@pytest.mark.parametrize(
    ("keys", "why"),
    [
        ({"kernel": "/k"}, "kernel: a clone has that of its template"),
        ({"disk": "/d"}, "disk: a clone has that of its template"),
        ({"name": "t"}, "template: a VM cannot be its own template"),
        ({"stop_mode": "suspend"}, "stop_mode: a clone is made from its template at each start"),
        ({"stop_mode": "pause", "shared_identity": "true"}, ""),
    ],
)
def test_what_belongs_to_the_template_is_refused_for_a_clone(keys: dict[str, str], why: str) -> None:
    def check(clone: VM) -> None:
        check_possible(clone, domain_spec(clone, "br0"))
        check_unused(clone)

    said = raised(check, vm(**keys))
    assert said.startswith(why) if why else said == ""


@pytest.mark.parametrize("size", [1, CLUSTER, 10 << 30, 1 << 50])
def test_an_empty_overlay_is_as_long_as_its_reference_counts_say(size: int) -> None:
    head = overlay(size)
    assert size_of_qcow2(head) == size
    entries, table = struct.unpack_from(">IQ", head, 36)
    assert entries * (CLUSTER // 8) * CLUSTER >= size
    assert table + entries * 8 <= overlay_bytes(size)
    counts = struct.unpack_from(f">{overlay_bytes(size) // CLUSTER}H", head, 2 * CLUSTER)
    assert set(counts) == {1}
    with pytest.raises(ValueError, match="not the size of a disk"):
        overlay(0)
    with pytest.raises(ValueError, match="not a qcow2 image"):
        size_of_qcow2(b"QFI")


@pytest.mark.wires
def test_nobody_can_write_to_the_copy_of_a_templates_memory(tmp_path: Path) -> None:
    ram = tmp_path / "ram"
    with ram.open("wb") as file:
        file.truncate(8 << 20)
        os.pwrite(file.fileno(), b"first", 0)
        os.pwrite(file.fileno(), b"last", (8 << 20) - 4)
    copy = sealed_copy(ram)
    try:
        assert os.pread(copy, 5, 0) == b"first"
        assert os.pread(copy, 4, (8 << 20) - 4) == b"last"
        assert os.fstat(copy).st_blocks * 512 < 1 << 20, "what is a hole stays one"
        again = os.open(f"/proc/self/fd/{copy}", os.O_RDWR)
        for descriptor in (copy, again):
            for write in (lambda d: os.pwrite(d, b"x", 0), lambda d: os.ftruncate(d, 0)):
                with pytest.raises(PermissionError) as caught:
                    write(descriptor)
                assert caught.value.errno == errno.EPERM
            with pytest.raises(OSError, match="not permitted"):
                mmap.mmap(descriptor, 4096, mmap.MAP_SHARED)
            with pytest.raises(OSError, match="not permitted"):
                fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK)
        with mmap.mmap(again, 4096, mmap.MAP_PRIVATE) as private:
            private[:5] = b"FIRST"
            assert os.pread(copy, 5, 0) == b"first"
        os.close(again)
    finally:
        os.close(copy)


def answers_of(output: bytes, status: int) -> Callable[[str, dict[str, Any]], dict[str, Any]]:
    """Return what an agent answers, whose program ends with that status."""

    def answer(command: str, arguments: dict[str, Any]) -> dict[str, Any]:
        match command:
            case "guest-sync":
                return {"return": arguments["id"]}
            case "guest-exec":
                return {"return": {"pid": 7}}
        return {"return": {"exited": True, "exitcode": status, "out-data": base64.b64encode(output).decode()}}

    return answer


def after_greeting(said: dict[str, Any] | bytes) -> Callable[[str, dict[str, Any]], dict[str, Any] | bytes]:
    """Return what an agent answers that greets as it should, and then says only this."""
    return lambda command, arguments: {"return": arguments["id"]} if command == "guest-sync" else said


NOT_BASE64 = {"return": {"exited": True, "exitcode": 0, "out-data": "x", "pid": 1}}


async def agent_says(answer: Callable[[str, dict[str, Any]], dict[str, Any] | bytes], before: bytes = b"") -> str:
    """Have a program run by an agent that answers so; return what it printed."""
    ours, theirs = socket.socketpair()
    for each in (ours, theirs):
        each.setblocking(False)
    reader, writer = await asyncio.open_connection(sock=theirs)
    writer.write(before)

    async def play() -> None:
        while line := await reader.readline():
            asked = json.loads(line)
            said = answer(asked["execute"], asked["arguments"])
            writer.write(said if isinstance(said, bytes) else json.dumps(said).encode() + b"\n")

    playing = asyncio.ensure_future(play())
    try:
        with ours:
            return await GuestAgent(ours).run("/etc/jitsu/clone", ["A=b"])
    finally:
        playing.cancel()
        writer.close()


@pytest.mark.wires
async def test_what_the_agent_was_still_saying_to_somebody_else_is_passed_over() -> None:
    rest = b'"half": 1}\n{"return": {"pid": 1}}\n{"return": 99}\n'
    assert await agent_says(answers_of(b"jitsu-clone: mac\n", 0), rest) == "jitsu-clone: mac\n"


@pytest.mark.wires
@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (answers_of(b"ok\nno address\n", 2), "has ended with status 2: no address$"),
        (answers_of(b"\x1b[2Jno\x07" + b"x" * 900, 2), r"has ended with status 2: [ -~]{400,500}$"),
        (after_greeting(NOT_BASE64), "does not answer as it should"),
        (after_greeting(b"[" * 4000 + b"\n"), "does not answer as it should"),
        (lambda _, arguments: {"return": arguments.get("id", "no object")}, "does not answer as it should"),
        (lambda command, _: b"x" * 65536 if command == "guest-sync" else b"", "a line is too long"),
    ],
)
async def test_a_guest_that_answers_nonsense_fails_its_clone(
    answer: Callable[[str, dict[str, Any]], dict[str, Any] | bytes], why: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("jitsu_vmd.hypervisors.qemu.wires.agent.MAX_LINE_BYTES", 4096)
    with pytest.raises(BootFailed, match=why):
        await agent_says(answer)


@pytest.mark.wires
async def test_a_guest_that_does_not_answer_fails_its_clone_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("jitsu_vmd.hypervisors.qemu.wires.agent.LIMIT_S", 0.1)
    with pytest.raises(BootFailed, match="has not executed /etc/jitsu/clone within"):
        await agent_says(lambda *_: b"")
