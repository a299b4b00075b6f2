"""[command.NAME]: what is accepted, what is refused with which words, and that only a file can say it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from jitsu_runtime.settings.commands import CommandSettings, commands_of
from jitsu_runtime.settings.load import SettingsFault, load, load_without_vms

if TYPE_CHECKING:
    from pathlib import Path

GOOD = """
[command.desk]
start = ["wake", "{name}"]
stop = ["ssh", "{address}", "poweroff"]
state = "is-up"
interval = "1m"
words = { yes = "running", "exit 1" = "off" }
environment = { KUBECONFIG = "/etc/k" }
"""


def written(directory: Path, text: str) -> Path:
    file = directory / "jitsu.toml"
    file.write_text(text)
    return file


def faults(directory: Path, text: str) -> list[str]:
    with pytest.raises(SettingsFault) as found:
        load_without_vms(written(directory, text), {}, {}, {})
    return [fault.removeprefix(f"{directory}/") for fault in found.value.faults]


def test_a_section_is_read_and_passed_on_to_children(tmp_path: Path) -> None:
    settings = load(written(tmp_path, GOOD), {}, {})
    desk = settings.command["desk"]
    assert desk.interval == 60.0
    assert commands_of(desk) == {
        "start": ["wake", "{name}"],
        "stop": ["ssh", "{address}", "poweroff"],
        "state": ["is-up"],
    }
    handed = json.loads(json.dumps(settings.as_values()))
    assert load_without_vms(None, {}, {}, handed).command == settings.command


def test_another_section_waits_for_a_restart_of_vmd(tmp_path: Path) -> None:
    one = load(written(tmp_path, GOOD), {}, {})
    other = load(written(tmp_path, GOOD.replace("is-up", "is-there")), {}, {})
    assert one.with_live(other, "vmd")[1] == ["command"]
    assert one.with_live(other, "dns")[1] == []
    assert one.with_live(one, "vmd")[1] == []


def test_neither_a_flag_nor_a_variable_can_say_what_is_run() -> None:
    with pytest.raises(SettingsFault, match="there is no such setting"):
        load(None, {}, {"command.desk": '{"start": ["x"]}'})
    assert load(None, {"JITSU_COMMAND_DESK": "x", "JITSU_COMMAND": "{}"}, {}).command == {}


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("start = []", 'start: must be a list of arguments, for example ["systemctl", "start", "{name}"]'),
        ("start = 5", 'start: must be a list of arguments, for example ["systemctl", "start", "{name}"]'),
        ('start = "wake me"', "start is one text; write its words as a list"),
        ('start = ["", "x"]', "start has no program: its first word is empty"),
        ('start = ["{name}"]', "start: the program '{name}' must be written out"),
        ('start = ["wake", "{mac}"]', "start: {mac} is not filled in; use {name}, {uuid}, {address}, or {{mac}}"),
        ('pase = ["x"]', 'pase: unknown key; did you mean "pause"?'),
        ('words = { on = "up" }', "words: 'up' is not allowed; use running, starting, stopping, off, crashed"),
        ('interval = "soon"', "interval: 'soon' is not a duration"),
        ('environment = { JITSU_NAME = "x" }', "environment: JITSU_NAME is set by Jitsu"),
        ('environment = { "a b" = "x" }', "environment: 'a b' cannot be the name of a variable"),
        (
            'states = ["list", "{name}"]',
            "states: it is run once for all VMs, so there is nothing to fill in",
        ),
        ("shell = true", "start is a list, but shell = true takes one text"),
    ],
)
def test_a_mistake_is_named_with_its_place_and_what_to_do(tmp_path: Path, line: str, said: str) -> None:
    key = line.split()[0]
    kept = [each for each in GOOD.splitlines() if not each.startswith(f"{key} ")]
    (found,) = faults(tmp_path, "\n".join([*kept, line]))
    assert found.startswith("jitsu.toml:")
    assert said in found


def test_what_is_required_is_said(tmp_path: Path) -> None:
    assert faults(tmp_path, "[command.a]\n") == [
        "jitsu.toml:1: command.a.start: is required",
        "jitsu.toml:1: command.a.stop: is required",
    ]
    (found,) = faults(tmp_path, '[command.a]\nstart = "x"\nstop = "y"\n')
    assert "state is required (or states)" in found
    (found,) = faults(tmp_path, '[command."a b"]\n')
    assert "'a b' is not the name of a section [command.NAME]" in found
    (found,) = faults(tmp_path, 'command = "x"\n')
    assert "must be at most 1000 sections: [command.NAME]" in found
    (found,) = faults(tmp_path, '[command]\nx = "y"\n')
    assert "must be a section: [command.x]" in found


def test_with_a_shell_each_command_is_one_text(tmp_path: Path) -> None:
    text = '[command.a]\nshell = true\nstart = "a && b"\nstop = "c {name}"\nstate = "echo running"\n'
    assert load(written(tmp_path, text), {}, {}).command["a"].start == ["a && b"]


def test_every_setting_has_a_meaning() -> None:
    assert all(field.description for field in CommandSettings.model_fields.values())
