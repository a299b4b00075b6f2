"""Open connections survive a restart of Synjitsu, and no file keeps it from starting."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgpack
import pytest

from jitsu_synjitsu.wires.memory import Memory

if TYPE_CHECKING:
    from pathlib import Path

CONNECTION = (b"\x0a\0\0\1", 40_000, b"\x0a\0\0\x09", 80)
FLOW = (b"\x0a\0\0\1", 53, b"\x0a\0\0\x09", 40_000)


def test_what_was_saved_is_known_once_and_is_saved_on_until_then(tmp_path: Path) -> None:
    path = tmp_path / "not there yet" / "connections"
    Memory(path).save({"a": ([CONNECTION], False, [FLOW]), "b": ([], True, [])})
    again = Memory(path)
    assert again.take("a") == ([CONNECTION], False, [FLOW])
    assert again.take("a") is None
    again.save({"c": ([], False, [])})
    assert {vm: Memory(path).take(vm) for vm in "abc"} == {"a": None, "b": ([], True, []), "c": ([], False, [])}


def test_a_file_of_an_older_synjitsu_is_read(tmp_path: Path) -> None:
    path = tmp_path / "connections"
    path.write_bytes(msgpack.packb({"a": ([CONNECTION], True)}))
    assert Memory(path).take("a") == ([CONNECTION], True, [])


@pytest.mark.parametrize("data", [b"", b"\xc1", b"x" * 50, msgpack.packb(["a"]), msgpack.packb({"a": 1})])
def test_g9_a_file_that_is_none_of_ours_is_no_more_than_unknown(tmp_path: Path, data: bytes) -> None:
    path = tmp_path / "connections"
    path.write_bytes(data)
    assert Memory(path).take("a") is None


def test_a_file_that_cannot_be_written_is_told_of_and_that_is_all(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    Memory(tmp_path / "file" / "connections").save({"a": ([], False, [])})
