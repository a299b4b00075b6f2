"""What --help, --version and mistakes on the command line look like."""

from __future__ import annotations

import shlex
import sys
from pathlib import Path
from typing import Any

import pytest
import typer

import jitsu.main  # noqa: F401  all commands
from jitsu.cli import app
from jitsu.examples import COMMANDS, GROUPS
from jitsu.help import run
from jitsu.reference import pages, reference
from jitsu_protocol import __version__
from jitsu_runtime.settings.command_line import load_service
from jitsu_runtime.settings.help import Group, HelpPage, render, wants_color
from jitsu_runtime.settings.schema import SECTION_OF

ROOT = Path(__file__).parents[2]
PAGES = pages(app)
PROGRAM: Any = typer.main.get_command(app)


def commands(group: Any, above: str = "") -> dict[str, Any]:
    found = {}
    for name, command in group.commands.items():
        found[f"{above}{name}"] = command
        if hasattr(command, "commands"):
            found |= commands(command, f"{name} ")
    return found


def called(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as end:
        run(app, list(arguments))
    said = capsys.readouterr()
    return int(str(end.value.code)), said.out, said.err


def test_every_command_is_in_a_group_with_two_examples_and_a_page_to_read() -> None:
    assert set(commands(PROGRAM)) == set(COMMANDS)
    for name, more in COMMANDS.items():
        assert more.group in GROUPS, name
        assert len(more.examples) == 2, name
        named = [word.strip(",") for word in more.page.split() if word.endswith((".md", ".md,"))]
        assert named, name
        for page in named:
            assert (ROOT / page).exists(), f"{name}: {page}"


@pytest.mark.parametrize(("name", "line"), [(name, line) for name, m in COMMANDS.items() for line, _ in m.examples])
def test_every_example_is_one_of_its_command_and_is_accepted(name: str, line: str) -> None:
    words = shlex.split(line)
    assert words[: 1 + len(name.split())] == ["jitsu", *name.split()]
    command = PROGRAM
    context = command.make_context("jitsu", [], resilient_parsing=True)
    words = words[1:]
    while hasattr(command, "commands"):
        command, words = command.commands[words[0]], words[1:]
    command.make_context(name, words, parent=context)


def test_no_flag_has_a_type_and_every_argument_and_option_is_explained() -> None:
    for name, page in PAGES.items():
        shown = render(page)
        assert "<" not in shown, name
        for group in page.groups:
            for term, text in group.rows:
                assert text, f"{name}: {term}"
    assert any(term.startswith("--json") for group in PAGES["keys list"].groups for term, _ in group.rows)


def test_the_help_of_a_command_lists_its_arguments_its_options_and_its_examples(
    capsys: pytest.CaptureFixture[str],
) -> None:
    status, out, err = called(capsys, "get", "--help")
    assert (status, err) == (0, "")
    assert out.startswith("Usage: jitsu get [OPTION]... PATH\n\nPrint the value at a path.\n")
    assert "\nExamples\n  jitsu get www.ttl\n" in out
    assert out.endswith("\nRead on: docs/explanation/store.md\n")


def test_the_stop_modes_in_help_are_all_that_there_are(capsys: pytest.CaptureFixture[str]) -> None:
    from jitsu_protocol.model.vm_keys import StopMode

    said = " ".join(called(capsys, "up", "--help")[1].split())
    assert all(mode.value in said.partition("--mode")[2].partition("-t,")[0] for mode in StopMode)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["stat"], "jitsu: no such command 'stat'. Did you mean 'start', 'status'?; `jitsu --help` shows"),
        (["get"], "jitsu get: missing argument PATH; `jitsu get --help` shows"),
        (["tree", "--jsn"], "jitsu tree: no such option: --jsn"),
        (["log", "-n", "0"], "jitsu log: invalid value for '-n'"),
    ],
)
def test_a_mistake_on_the_command_line_is_one_line_and_status_2(
    capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    status, out, err = called(capsys, *arguments)
    assert (status, out, err.count("\n")) == (2, "", 1)
    assert err.startswith(message)


def test_the_version_is_printed_by_all_programs(capsys: pytest.CaptureFixture[str]) -> None:
    assert called(capsys, "--version") == (0, f"jitsu {__version__}\n", "")
    for service in SECTION_OF:
        with pytest.raises(SystemExit) as end:
            load_service(service, ["--version"], {})
        assert (end.value.code, capsys.readouterr().out) == (0, f"jitsu-{service} {__version__}\n")


def test_dns_still_takes_the_text_that_version_bind_is_answered() -> None:
    assert load_service("dns", ["--version", "mine"], {}).dns.version == "mine"


def test_services_have_the_same_look(capsys: pytest.CaptureFixture[str]) -> None:
    for service in SECTION_OF:
        with pytest.raises(SystemExit):
            load_service(service, ["--help"], {})
        shown = capsys.readouterr().out
        assert shown.startswith(f"Usage: jitsu-{service} [OPTION]...\n")
        assert shown.count("\nExamples\n") == shown.count("\nRead on: ") == shown.count("\nExit status\n") == 1
        with pytest.raises(SystemExit) as end:
            load_service(service, ["--nonsense"], {})
        assert end.value.code == 2
        expected = f"jitsu-{service}: unrecognized arguments: --nonsense; `jitsu-{service} --help` shows"
        assert capsys.readouterr().err.startswith(expected)


def test_a_help_page_fits_the_width_and_is_bold_only_where_it_may_be() -> None:
    page = HelpPage("x [OPTION]...", ["word " * 50], [Group("Options", [("--a-very-long-option VALUE", "word " * 40)])])
    assert max(map(len, render(page, 60).splitlines())) <= 60
    assert "\x1b[1mOptions\x1b[0m" in render(page, bold=True)
    assert "\x1b" not in render(page)


@pytest.mark.parametrize(("variable", "expected"), [(None, True), ("", True), ("1", False)])
def test_no_color_counts_if_it_is_not_empty(
    monkeypatch: pytest.MonkeyPatch, variable: str | None, expected: bool
) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    monkeypatch.delenv("NO_COLOR", raising=False)
    if variable is not None:
        monkeypatch.setenv("NO_COLOR", variable)
    assert wants_color(sys.stdout) is expected


def test_the_page_of_commands_is_fresh() -> None:
    assert (ROOT / "docs" / "reference" / "commands.md").read_text() == reference(app), "run `make docs`"
