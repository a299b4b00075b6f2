"""Bridges of the mock hypervisor: which of those that are there were left behind by a process that was killed."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from jitsu_vmd.hypervisors.mock.bridges import ALIAS, is_left_behind

pytestmark = pytest.mark.wires

OWN = {
    "pid": os.getpid(),
    "start": Path(f"/proc/{os.getpid()}/stat").read_text().rpartition(")")[2].split()[19],
    "space": os.readlink("/proc/self/ns/pid"),
}


@pytest.mark.parametrize(
    ("changes", "left"),
    [
        ({}, False),
        ({"start": "1"}, True),
        ({"start": "1", "space": "pid:[1]"}, False),
    ],
    ids=["its process runs", "another process has its pid now", "its process cannot be looked at from here"],
)
def test_a_bridge_is_left_behind_if_the_process_that_made_it_is_gone(changes: dict[str, str], left: bool) -> None:
    assert is_left_behind(ALIAS.format(**(OWN | changes)) + "\n") is left


def test_a_bridge_of_a_process_that_has_ended_is_left_behind_and_one_of_an_operator_is_not() -> None:
    process = subprocess.Popen(["true"])
    process.wait()
    assert is_left_behind(ALIAS.format(**(OWN | {"pid": process.pid})))
    assert not is_left_behind("\n")
    assert not is_left_behind("the printers' bridge\n")
