"""The one look of --help, --version and of mistakes on the command line, for `jitsu` and all jitsu-SERVICE programs.

A program fills a `HelpPage`; `render` lays it out as text. There are no boxes and no colors, only bold headings on a
terminal that wants them (https://no-color.org).
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import textwrap
from dataclasses import dataclass
from typing import TYPE_CHECKING, NoReturn, TextIO

from jitsu_protocol import __version__

if TYPE_CHECKING:
    from collections.abc import Sequence

MAX_WIDTH = 100
"""Longer lines are hard to read, however wide the terminal is."""
TERM_WIDTH = 26
"""A term longer than this has its explanation on the next line."""
EXIT_USAGE = 2


@dataclass(frozen=True)
class Group:
    """A heading, and rows of a term and what it means."""

    title: str
    rows: Sequence[tuple[str, str]]


@dataclass(frozen=True)
class HelpPage:
    """The content of --help of one program or command."""

    usage: str
    about: Sequence[str]
    """One text for each paragraph."""
    groups: Sequence[Group] = ()
    examples: Sequence[tuple[str, str]] = ()
    """A command line, and what it does."""
    page: str = ""
    """Where to read on."""


def wants_color(stream: TextIO) -> bool:
    """Return whether escape sequences may be written: to a terminal, unless NO_COLOR is set and not empty."""
    return stream.isatty() and not os.environ.get("NO_COLOR")


def render(page: HelpPage, width: int = 80, *, bold: bool = False) -> str:
    """Return a help page as lines no wider than `width`."""
    lines = textwrap.wrap(page.usage, width, initial_indent="Usage: ", subsequent_indent=" " * 9)
    for paragraph in page.about:
        lines += ["", *_wrapped(paragraph, width)]
    for group in page.groups:
        lines += ["", _heading(group.title, bold)]
        terms = [len(term) for term, _ in group.rows if len(term) <= TERM_WIDTH]
        column = max(terms, default=0) + 4
        for term, text in group.rows:
            lines += _row(term, text, column, width)
    if page.examples:
        lines += ["", _heading("Examples", bold)]
        for command, what in page.examples:
            lines += [f"  {command}", *_wrapped(what, width, "      ")]
    if page.page:
        lines += ["", f"Read on: {page.page}"]
    return "\n".join(lines) + "\n"


def _heading(title: str, bold: bool) -> str:
    return f"\x1b[1m{title}\x1b[0m" if bold else title


def _row(term: str, text: str, column: int, width: int) -> list[str]:
    if not text:
        return [f"  {term}"]
    lines = _wrapped(text, max(width, column + 20), " " * column)
    if len(term) + 4 > column:
        return [f"  {term}", *lines]
    return [f"  {term}".ljust(column) + lines[0].lstrip(), *lines[1:]]


def _wrapped(text: str, width: int, indent: str = "") -> list[str]:
    clean = " ".join(text.split())
    return textwrap.wrap(
        clean, width, initial_indent=indent, subsequent_indent=indent, break_on_hyphens=False, break_long_words=False
    )


def as_shown(page: HelpPage, stream: TextIO | None = None) -> str:
    """Return a help page as it fits a stream, standard output if none is given."""
    stream = stream or sys.stdout
    width = min(shutil.get_terminal_size().columns, MAX_WIDTH)
    return render(page, width, bold=wants_color(stream))


def version_text(program: str) -> str:
    """Return the line that --version prints."""
    return f"{program} {__version__}"


def usage_error(program: str, message: str) -> str:
    """Return the line for a command line that cannot be understood."""
    clean = message.rstrip(".")
    return f"{program}: {clean[:1].lower()}{clean[1:]}; `{program} --help` shows what it accepts"


class Parser(argparse.ArgumentParser):
    """An argument parser with this look; `page` is filled by whoever adds the arguments."""

    page = HelpPage("", ())

    def format_help(self) -> str:
        """Return the page."""
        return as_shown(self.page)

    def error(self, message: str) -> NoReturn:
        """Print in one line what is wrong, and exit with status 2."""
        self.exit(EXIT_USAGE, usage_error(self.prog, message) + "\n")
