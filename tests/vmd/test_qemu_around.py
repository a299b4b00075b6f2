"""What a QEMU process gets from the host: taps that are there before its start, and a scope of systemd."""

from __future__ import annotations

import asyncio
import os
import struct
from contextlib import suppress
from typing import TYPE_CHECKING

import pytest

from jitsu_protocol.model.errors import BootFailed
from jitsu_vmd.hypervisors.qemu.rules.launch import LaunchNic
from jitsu_vmd.hypervisors.qemu.rules.scope import refusal, reply_length, scope_name, start_scope
from jitsu_vmd.hypervisors.qemu.wires.reserved_taps import RESERVED_S, ReservedTaps
from jitsu_vmd.hypervisors.qemu.wires.scopes import Scopes

if TYPE_CHECKING:
    from pathlib import Path

NICS = (LaunchNic("02:00:5e:00:53:01", "br0", "jq-0"), LaunchNic("02:00:5e:00:53:02", "br1", "jq-1"))


class Taps:
    """Taps that are files: those that are open are there."""

    def __init__(self) -> None:
        self.made: list[tuple[str, int]] = []
        self.fails = ""
        self.now = 0.0
        self.reserved = ReservedTaps(lambda: self.now, self.open)

    def open(self, nic: LaunchNic) -> int:
        if nic.tap == self.fails:
            raise OSError(16, "Device or resource busy")
        self.there()
        self.made.append((nic.tap, os.open("/dev/null", os.O_RDONLY)))
        return self.made[-1][1]

    def there(self) -> list[str]:
        """Return those that are open, and forget the others: a number is used again."""
        found = []
        for name, descriptor in self.made:
            with suppress(OSError):
                os.fstat(descriptor)
                found.append((name, descriptor))
        self.made = found
        return [name for name, _ in found]


def test_a_start_gets_the_taps_that_were_reserved_for_it() -> None:
    taps = Taps()
    assert taps.reserved.reserve("vm", NICS) == "jq-0"
    made = list(taps.made)
    assert taps.reserved.take("vm", NICS) == [descriptor for _, descriptor in made]
    assert taps.made == made, "no others were made"
    assert taps.reserved.reserve("vm", ()) == ""
    for _, descriptor in made:
        os.close(descriptor)


def test_taps_whose_start_does_not_come_are_removed() -> None:
    taps = Taps()
    taps.reserved.reserve("vm", NICS)
    taps.now += RESERVED_S
    taps.reserved.release_unused()
    assert taps.there() == ["jq-0", "jq-1"]
    taps.now += 0.1
    taps.reserved.release_unused()
    assert taps.there() == []


def test_taps_of_other_bridges_than_the_start_wants_are_made_again() -> None:
    taps = Taps()
    taps.reserved.reserve("vm", NICS)
    (taken,) = taps.reserved.take("vm", NICS[1:])
    assert taps.there() == ["jq-1"]
    os.close(taken)


def test_a_tap_that_cannot_be_made_leaves_none_behind() -> None:
    taps = Taps()
    taps.fails = "jq-1"
    with pytest.raises(BootFailed, match="tap jq-1 on br1: Device or resource busy"):
        taps.reserved.take("vm", NICS)
    assert taps.there() == []


class Reader:
    """Reads values of D-Bus in their order, each at a multiple of its alignment."""

    def __init__(self, data: bytes) -> None:
        self.data, self.at = data, 0

    def number(self) -> int:
        self.at += -self.at % 4
        (value,) = struct.unpack_from("<I", self.data, self.at)
        self.at += 4
        return int(value)

    def text(self) -> str:
        length = self.number()
        self.at += length + 1
        return self.data[self.at - length - 1 : self.at - 1].decode()

    def signature(self) -> str:
        length = self.data[self.at]
        self.at += length + 2
        return self.data[self.at - length - 1 : self.at - 1].decode()

    def end_of_array(self, alignment: int) -> int:
        length = self.number()
        self.at += -self.at % alignment
        return self.at + length


def test_systemd_is_asked_for_a_scope_that_has_the_process() -> None:
    name = scope_name("qemu", "c3c4f1a1-2a2a-4b52-8b43-6d2a3b1d5f10", 4711)
    assert name == "jitsu-qemu-c3c4f1a1-2a2a-4b52-8b43-6d2a3b1d5f10-4711.scope"
    message = start_scope(name, 4711, "QEMU of www")
    assert reply_length(message[:15]) == 0
    assert reply_length(message) == len(message)
    head = Reader(message)
    head.at = 12
    fields = {}
    ends = head.end_of_array(8)
    while head.at < ends:
        head.at += -head.at % 8
        field = message[head.at]
        head.at += 1
        is_signature = head.signature() == "g"
        fields[field] = head.signature() if is_signature else head.text()
    assert fields == {
        1: "/org/freedesktop/systemd1",
        2: "org.freedesktop.systemd1.Manager",
        3: "StartTransientUnit",
        6: "org.freedesktop.systemd1",
        8: "ssa(sv)a(sa(sv))",
    }
    body = Reader(message[-struct.unpack_from("<I", message, 4)[0] :])
    assert (body.text(), body.text()) == (name, "fail")
    properties: dict[str, object] = {}
    ends = body.end_of_array(8)
    while body.at < ends:
        body.at += -body.at % 8
        key, kind = body.text(), body.signature()
        if kind == "s":
            properties[key] = body.text()
        else:
            until = body.end_of_array(4)
            properties[key] = [body.number() for _ in range((until - body.at) // 4)]
    assert properties == {
        "Description": "QEMU of www",
        "Slice": "jitsu-guests.slice",
        "CollectMode": "inactive-or-failed",
        "PIDs": [4711],
    }
    assert body.end_of_array(8) == len(body.data)


def message_of(kind: int, body: bytes) -> bytes:
    return struct.pack("<cBBBIII", b"l", kind, 0, 1, len(body), 1, 0) + body


REFUSED = message_of(3, struct.pack("<I", 6) + b"denied\0")


def test_a_reply_says_why_systemd_has_refused() -> None:
    assert refusal(REFUSED) == "denied"
    assert refusal(message_of(2, b"")) == ""
    assert refusal(message_of(4, b"")) is None, "a signal"
    with pytest.raises(ValueError, match="not a short message"):
        reply_length(b"B" + bytes(15))


@pytest.mark.wires
@pytest.mark.parametrize(
    ("answers", "logged"),
    [
        (b"OK 1234\r\n" + message_of(4, b"") + message_of(2, b""), ""),
        (b"OK 1234\r\n" + REFUSED, "denied"),
        (b"REJECTED\r\n", "systemd does not let vmd in"),
    ],
)
async def test_a_process_is_placed_and_a_refusal_is_logged_but_fails_no_start(
    answers: bytes, logged: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    got = b""

    async def systemd(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal got
        greeting, _, rest = answers.partition(b"\n")
        got += await reader.readuntil(b"\r\n")
        writer.write(greeting + b"\n")
        with suppress(asyncio.IncompleteReadError):
            got += await reader.readuntil(b"BEGIN\r\n")
            writer.write(rest)
            got += await reader.read()
        writer.close()

    path = str(tmp_path / "private")
    async with await asyncio.start_unix_server(systemd, path):
        await Scopes("qemu", path, tmp_path).place("uuid", "www", 4711)
        await Scopes("qemu", path, tmp_path / "none").place("uuid", "other", 4712)
    said = capsys.readouterr()
    assert (logged in said.out + said.err) if logged else ("has no scope" not in said.out + said.err)
    assert got.startswith(b"\0AUTH EXTERNAL ")
    assert b"other" not in got, "systemd does not run there"
