"""Open connections survive a restart of Synjitsu, and no file keeps it from starting."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING

import msgpack
import pytest

from jitsu_runtime.clock import SYSTEM_CLOCK
from jitsu_synjitsu.wires.memory import MIN_GROWTH_BYTES, Memory

if TYPE_CHECKING:
    from pathlib import Path

    from jitsu_synjitsu.rules.running import Known

CONNECTION = (b"\x0a\0\0\1", 40_000, b"\x0a\0\0\x09", 80)
FLOW = (b"\x0a\0\0\1", 53, b"\x0a\0\0\x09", 40_000)


def test_what_was_saved_is_known_once_and_is_saved_on_until_then(tmp_path: Path) -> None:
    path = tmp_path / "not there yet" / "connections"
    Memory(path, SYSTEM_CLOCK).save({"a": ([CONNECTION], False, [FLOW]), "b": ([], True, [])})
    again = Memory(path, SYSTEM_CLOCK)
    assert again.take("a", 0.0) == ([CONNECTION], False, [FLOW])
    assert again.take("a", 0.0) is None
    again.save({"c": ([], False, [])})
    assert {vm: Memory(path, SYSTEM_CLOCK).take(vm, 0.0) for vm in "abc"} == {
        "a": None,
        "b": ([], True, []),
        "c": ([], False, []),
    }


def test_a_file_of_an_older_synjitsu_is_read(tmp_path: Path) -> None:
    path = tmp_path / "connections"
    path.write_bytes(msgpack.packb({"a": ([CONNECTION], True)}))
    assert Memory(path, SYSTEM_CLOCK).take("a", 0.0) == ([CONNECTION], True, [])


@pytest.mark.parametrize("data", [b"", b"\xc1", b"x" * 50, msgpack.packb(["a"]), msgpack.packb({"a": 1})])
def test_g9_a_file_that_is_none_of_ours_is_no_more_than_unknown(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "connections"
    path.write_bytes(data)
    assert Memory(path, SYSTEM_CLOCK).take("a", 0.0) is None


def test_a_file_that_cannot_be_written_is_told_of_and_that_is_all(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    Memory(tmp_path / "file" / "connections", SYSTEM_CLOCK).save({"a": ([], False, [])})


NONE: Known = ([], False, [])


def test_a_save_costs_what_has_changed_and_not_what_all_vms_have(tmp_path: Path) -> None:
    path = tmp_path / "connections"
    memory = Memory(path, SYSTEM_CLOCK)
    memory.save({f"v{n}": ([CONNECTION], False, [FLOW]) for n in range(2_000)})
    written = path.stat().st_size
    for n in range(100):
        memory.save({"v7": ([CONNECTION] * n, False, [])})
        memory.save({})
    assert path.stat().st_size - written < 100 * 100 * 40
    memory.save({"v8": None})
    again = Memory(path, SYSTEM_CLOCK)
    assert again.take("v7", 0.0) == ([CONNECTION] * 99, False, [])
    assert again.take("v8", 0.0) is None
    assert again.take("v9", 0.0) == ([CONNECTION], False, [FLOW])


def test_the_file_does_not_grow_without_end(tmp_path: Path) -> None:
    path = tmp_path / "connections"
    memory, sizes = Memory(path, SYSTEM_CLOCK), set()
    for n in range(500):
        memory.save({"v": ([CONNECTION] * 100, bool(n % 2), [])})
        sizes.add(path.stat().st_size)
    assert max(sizes) < 2 * MIN_GROWTH_BYTES
    assert Memory(path, SYSTEM_CLOCK).take("v", 0.0) == ([CONNECTION] * 100, True, [])


@pytest.mark.parametrize("cut", range(1, 12))
def test_a_file_whose_last_change_was_cut_short_is_known_up_to_there(tmp_path: Path, cut: int) -> None:
    path = tmp_path / "connections"
    memory = Memory(path, SYSTEM_CLOCK)
    connected: Known = ([CONNECTION], False, [])
    for known in (connected, NONE):
        memory.save({"a": known, "b": NONE})
    memory.save({"a": ([], True, [])})
    path.write_bytes(path.read_bytes()[:-cut])
    assert Memory(path, SYSTEM_CLOCK).take("b", 0.0) == NONE


def test_what_could_not_be_written_is_written_later(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "connections"
    memory = Memory(path, SYSTEM_CLOCK)
    memory.save({"a": NONE})
    path.rename(tmp_path / "kept")
    path.symlink_to("/dev/full")
    memory.save({"a": ([CONNECTION], False, [])})
    assert "No space left on device" in capfd.readouterr().out
    (tmp_path / "kept").rename(path)
    memory.save({})
    assert Memory(path, SYSTEM_CLOCK).take("a", 0.0) == ([CONNECTION], False, [])


def test_a_vm_that_was_started_after_the_file_was_written_has_none_of_its_connections(tmp_path: Path) -> None:
    path = tmp_path / "known"
    Memory(path, SYSTEM_CLOCK).save({"a": ([CONNECTION], False, []), "b": ([CONNECTION], False, [])})
    os.utime(path, (time.time() - 10, time.time() - 10))
    again = Memory(path, SYSTEM_CLOCK)
    assert again.take("a", time.monotonic() - 9) is None
    assert again.take("b", time.monotonic() - 11) == ([CONNECTION], False, [])
