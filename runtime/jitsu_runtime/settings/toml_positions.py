"""A TOML file that knows the line of each key, which tomllib does not report."""

from __future__ import annotations

import re
import tomllib
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from jitsu_runtime.settings.toml_hints import explained

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_SKIPPED = re.compile(
    r"""
    \"{3} (?:\\.|[^\\])*? \"{3,5}    # multi-line basic string: up to two quotes may stand before the closing three
    | '{3} .*? '{3,5}                # multi-line literal string
    | " (?:\\.|[^"\\\n])* "          # basic string
    | ' [^'\n]* '                    # literal string
    | \# [^\n]*                      # comment
    | [^"'\#\n\[\]{}]+
    | [\n\[\]{}]
    """,
    re.DOTALL | re.VERBOSE,
)
"""A piece of valid TOML: a newline or bracket that counts, or something in which none counts (toml.io/en/v1.0.0)."""
MAX_FILE_BYTES = 16 * 1024 * 1024
"""A file with 10,000 VMs has about 3 MB."""
_BARE_KEYS = re.compile(r"[A-Za-z0-9_-]+(?:\s*\.\s*[A-Za-z0-9_-]+)*")
_KEYS = re.compile(r"""(?:[A-Za-z0-9_.\s-]|"(?:\\.|[^"\\\n])*"|'[^'\n]*')+(?==)""")


class TomlFault(Exception):
    """The file cannot be read, or is not TOML; the message names file and line."""


@dataclass(frozen=True)
class TomlFile:
    """The data of a file, and the line of each of its keys."""

    path: Path
    data: dict[str, Any]
    text: str

    @classmethod
    def read(cls, path: Path) -> TomlFile:
        """Read a file; raises TomlFault."""
        try:
            with path.open("rb") as file:
                encoded = file.read(MAX_FILE_BYTES + 1)
        except OSError as error:
            raise TomlFault(f"{path}: cannot be read: {error.strerror}") from None
        if len(encoded) > MAX_FILE_BYTES:
            raise TomlFault(f"{path}: is longer than {MAX_FILE_BYTES} bytes; is it a configuration?")
        try:
            text = encoded.decode("utf-8-sig").replace("\r\n", "\n")  # some editors begin a file with U+FEFF
        except UnicodeDecodeError as error:
            line = encoded.count(b"\n", 0, error.start) + 1
            raise TomlFault(f"{path}:{line}: is not UTF-8 text; save the file in that encoding") from None
        try:
            data = tomllib.loads(text)
        except tomllib.TOMLDecodeError as error:
            raise TomlFault(f"{path}:{explained(text, str(error), named_lines)}") from None
        except RecursionError:
            raise TomlFault(f"{path}: has too many brackets within each other") from None
        return cls(path, data, text)

    @cached_property
    def lines(self) -> KeyLines:
        """The line of each section and key."""
        return KeyLines(self.text)

    def place(self, *keys: str) -> str:
        """Return `file:line` of a key, or of the nearest thing that it stands in."""
        for length in range(len(keys), 0, -1):
            if (number := self.lines.find(keys[:length])) is not None:
                return f"{self.path}:{number}"
        first = self.lines.first_below(keys[0]) if keys else None
        return str(self.path) if first is None else f"{self.path}:{first}"

    def at(self, *keys: str) -> str:
        """Return `file:line: section.key`."""
        return f"{self.place(*keys)}: {'.'.join(keys)}"


class KeyLines:
    """The line, from 1, on which each section and key of a valid TOML text first stands.

    Keys inside an inline table or a multi-line value have no entry of their own; the key that holds them has. The text
    is read only as far as is needed: a file of nonsense is long, and its first faults are those that are shown.
    """

    def __init__(self, text: str) -> None:
        self._known: dict[tuple[str, ...], int] = {}
        self._first: dict[str, int] = {}
        """The first line of each section of the highest level, which need not have a header: [a.b] makes a."""
        self._rest = self._read(text)

    def __len__(self) -> int:
        """Return how many keys and sections have been read."""
        return len(self._known)

    def find(self, keys: tuple[str, ...]) -> int | None:
        """Return the line of a key or section, None if it has none."""
        while keys not in self._known:
            if not next(self._rest, False):
                return None
        return self._known[keys]

    def first_below(self, section: str) -> int | None:
        """Return the first line that belongs to a section of the highest level."""
        while section not in self._first:
            if not next(self._rest, False):
                return None
        return self._first[section]

    def _read(self, text: str) -> Iterator[bool]:
        section: tuple[str, ...] = ()
        for number, keys, is_section in named_lines(text):
            section = keys if is_section else section
            path = section if is_section else section + keys
            self._known.setdefault(path, number)
            if path:
                self._first.setdefault(path[0], number)
            yield True


def named_lines(text: str) -> Iterator[tuple[int, tuple[str, ...], bool]]:
    """Yield the line of each header and key, its name, and whether it is a header; the name of a key is without it."""
    for number, statement in _statements(text):
        if statement.startswith("["):
            yield number, _path(statement), True
        elif keys := _KEYS.match(statement):
            written = keys[0].strip()
            parts = written.split(".") if _BARE_KEYS.fullmatch(written) else _path(f"{written} = 0")
            yield number, tuple(part.strip() for part in parts), False


def _statements(text: str) -> Iterator[tuple[int, str]]:
    """Yield the line on which each header or key of a valid TOML text stands, and the text from there on."""
    number, depth, at, begins = 1, 0, 0, True
    while piece := _SKIPPED.match(text, at):
        written = piece[0]
        if begins and not written.isspace() and not written.startswith("#"):
            begins = False
            end = text.find("\n", at)
            yield number, text[at : end if end >= 0 else len(text)].strip()
        if written in ("[", "{"):
            depth += 1
        elif written in ("]", "}"):
            depth -= 1
        elif written == "\n" and depth == 0:
            begins = True
        number += written.count("\n")
        at = piece.end()


def _path(line: str) -> tuple[str, ...]:
    """Return the keys that one line of TOML makes; none if it is not a line on its own."""
    try:
        node: Any = tomllib.loads(line)
    except tomllib.TOMLDecodeError:
        return ()
    path: list[str] = []
    while node and isinstance(node, dict | list):
        if isinstance(node, list):
            node = node[0]
            continue
        key = next(iter(node))
        path.append(key)
        node = node[key]
    return tuple(path)
