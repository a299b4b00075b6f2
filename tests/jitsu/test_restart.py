"""What `jitsu apply` says of the parts of a file that processes take over only when they are restarted."""

from __future__ import annotations

from typing import TYPE_CHECKING

from jitsu.restart import record, restart_lines
from jitsu_runtime.settings.load import load

if TYPE_CHECKING:
    from pathlib import Path

COMMANDS = '[command.desk]\nstart = "wake"\nstop = "sleep"\nstate = "look"\n'


def written(directory: Path, text: str) -> Path:
    file = directory / "jitsu.toml"
    file.write_text(text)
    return file


def test_other_commands_than_those_of_what_runs_are_noted_without_showing_them(tmp_path: Path) -> None:
    file = written(tmp_path, f"[dns]\nport = 5300\n{COMMANDS}")
    record(tmp_path, load(file, {}, {}))
    assert restart_lines(file, load(file, {}, {}), tmp_path) == []
    file = written(tmp_path, f"[dns]\nport = 5301\n{COMMANDS.replace('wake', 'rouse')}")
    assert restart_lines(file, load(file, {}, {}), tmp_path) == [
        f"note: dns.port is 5301 in {file} and 5300 in what runs; restart it to take that over",
        f"note: the sections [command.NAME] of {file} are not those of what runs; restart it to take them over",
    ]


def test_of_a_suite_that_others_have_started_all_that_is_written_counts(tmp_path: Path) -> None:
    file = written(tmp_path, COMMANDS)
    (line,) = restart_lines(file, load(file, {}, {}), tmp_path / "elsewhere")
    assert line.startswith("note: only the VMs are applied; processes that run take [command] when they are restarted")
