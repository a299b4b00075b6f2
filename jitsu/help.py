"""Help and mistakes of `jitsu` in the look of all programs (settings/help.py); typer's own has boxes and types.

What a command is for is its docstring; examples.py has its group, its examples and the page to read.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from typing import Any, NoReturn, TypeVar

import typer
from typer.core import TyperCommand, TyperGroup

from jitsu.examples import COMMANDS, EXIT_STATUS, GROUPS, PAGE, TOP_EXAMPLES, WORDS
from jitsu_runtime.settings.help import EXIT_USAGE, Group, HelpPage, as_shown, usage_error

F = TypeVar("F", bound=Callable[..., Any])

INTERRUPTED = 130
"""128 and the number of SIGINT, as shells report it."""


def help_page(command: Any, context: Any) -> HelpPage:
    """Return the help of a command or of a group of commands."""
    path = context.command_path
    name = path.partition(" ")[2]
    about = [part for part in (command.help or "").split("\n\n") if part]
    arguments = [each for each in command.get_params(context) if each.param_type_name == "argument"]
    options = [each for each in command.get_params(context) if each.param_type_name == "option" and not each.hidden]
    groups = [Group("Arguments", [(_name(each), each.help or "") for each in arguments])] if arguments else []
    panels: dict[str, list[tuple[str, str]]] = {}
    for option in options:
        panels.setdefault(option.rich_help_panel or "Options", []).append(_option(option))
    own = [Group(title, rows) for title, rows in panels.items()]
    if isinstance(command, TyperGroup):
        usage = f"{path} [OPTION]... COMMAND [ARGUMENT]..."
        own = [*_command_groups(command, name), *own]
    else:
        usage = " ".join([path, *(["[OPTION]..."] if options else []), *map(_name, arguments)])
    if not name:
        own += [Group("Words", WORDS), Group("Exit status", list(EXIT_STATUS.items()))]
        return HelpPage(usage, about, own, TOP_EXAMPLES, PAGE)
    more = COMMANDS[name]
    return HelpPage(usage, about, [*groups, *own], more.examples, more.page)


def _command_groups(group: TyperGroup, name: str) -> list[Group]:
    rows = {each: _first_sentence(command.help or "") for each, command in group.commands.items() if not command.hidden}
    if name:
        return [Group("Commands", list(rows.items()))]
    return [
        Group(title, [(each, rows[each]) for each, more in COMMANDS.items() if more.group == title and each in rows])
        for title in GROUPS
    ]


def _first_sentence(text: str) -> str:
    return " ".join(text.split("\n\n")[0].split()).split(". ")[0].rstrip(".") + "."


def _name(argument: Any) -> str:
    name = str(argument.metavar or argument.name.upper())
    if argument.nargs != 1 and "..." not in name:
        name += "..."
    return name if argument.required or name.startswith("[") else f"[{name}]"


def _option(option: Any) -> tuple[str, str]:
    flags = ", ".join(sorted(option.opts, key=len))
    if not option.is_flag:
        flags += f" {option.metavar or option.name.upper()}"
    text = option.help or ""
    if not option.is_flag and option.default not in (None, "", []) and not callable(option.default):
        text += f" [{option.default}]"
    return flags, text


class CommandWithPage(TyperCommand):
    """A command whose help has this look."""

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Write the help page."""
        formatter.write(as_shown(help_page(self, ctx)))


class CommandGroup(TyperGroup):
    """A group of commands whose help and mistakes have this look."""

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """Write the help page."""
        formatter.write(as_shown(help_page(self, ctx)))


class App(typer.Typer):
    """The application; each of its commands gets this look."""

    def command(self, name: str | None = None, **keywords: Any) -> Callable[[F], F]:
        """Register a command."""
        return super().command(name, **{"cls": CommandWithPage, **keywords})


def run(app: typer.Typer, arguments: list[str] | None = None) -> NoReturn:
    """Run the command line and exit; a mistake on it becomes one line and status 2."""
    group: Any = typer.main.get_command(app)
    try:
        sys.exit(group.main(arguments, prog_name="jitsu", standalone_mode=False) or 0)
    except typer.Abort:
        sys.exit(INTERRUPTED)
    except typer.TyperException as error:
        context: Any = getattr(error, "ctx", None)
        message = re.sub(
            r"^Missing argument '(\w+)'", lambda found: f"Missing argument {found[1].upper()}", error.format_message()
        )
        if message.startswith("Usage: "):  # no arguments at all: the message is the help page
            print(message, file=sys.stderr)
        else:
            print(usage_error(context.command_path if context else "jitsu", message), file=sys.stderr)
        sys.exit(EXIT_USAGE)
