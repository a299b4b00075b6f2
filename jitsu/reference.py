"""docs/reference/commands.md, made from what --help is made from: `make docs`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import typer

from jitsu.examples import COMMANDS, EXIT_STATUS, GROUPS, WORDS
from jitsu.help import help_page
from jitsu_runtime.settings.service_help import EXIT_STATUS as SERVICE_EXIT_STATUS

if TYPE_CHECKING:
    from collections.abc import Iterable

    from jitsu_runtime.settings.help import HelpPage


def pages(app: typer.Typer) -> dict[str, HelpPage]:
    """Return the help page of the tool, under "", and of each command."""
    top: Any = typer.main.get_command(app)
    context = top.context_class(top, info_name="jitsu")
    found = {"": help_page(top, context)}
    for name in COMMANDS:
        command, at = top, context
        for word in name.split():
            command = command.commands[word]
            at = command.context_class(command, info_name=word, parent=at)
        found[name] = help_page(command, at)
    return found


def reference(app: typer.Typer) -> str:
    """Return the page."""
    found = pages(app)
    lines = [
        "# Commands",
        "",
        "\n\n".join(found[""].about),
        "",
        "This page says what `jitsu COMMAND --help` says; it is made from the code by `make docs`.",
    ]
    for title in GROUPS:
        lines += ["", f"## {title}"]
        for name, more in COMMANDS.items():
            if more.group == title:
                lines += _command(name, found[name])
    lines += ["", "## Before the command", ""]
    lines += _table("option", next(group.rows for group in found[""].groups if group.title == "Options"))
    lines += ["", "Nothing is colored where `NO_COLOR` is set, or where the output is not a terminal.", ""]
    lines += ["## Words", "", *_table("word", WORDS), "", "## Exit status", "", "Of `jitsu`:", ""]
    lines += _table("status", EXIT_STATUS.items())
    lines += ["", "Of the services, and of `jitsu up`, which ends with the status of the service that ended it:", ""]
    lines += _table("status", SERVICE_EXIT_STATUS.items())
    return "\n".join(lines) + "\n"


def _command(name: str, page: HelpPage) -> list[str]:
    lines = ["", f"### jitsu {name}", "", f"    {page.usage}"]
    for paragraph in page.about:
        lines += ["", " ".join(paragraph.split())]
    rows = [row for group in page.groups for row in group.rows if "--help" not in row[0]]
    if rows:
        lines += ["", *_table("argument or option", rows)]
    lines += ["", "For example:", ""]
    lines += [f"- `{command}`: {what}" for command, what in page.examples]
    return [*lines, "", f"Read on: {page.page}."]


def _table(head: str, rows: Iterable[tuple[str, str]]) -> list[str]:
    cells = [(f"`{term}`", text.replace("|", "\\|")) for term, text in rows]
    return [f"| {head} | meaning |", "|---|---|", *(f"| {term} | {text} |" for term, text in cells)]
