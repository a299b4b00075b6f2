"""A TOML file that knows on which line each key stands; tomllib itself does not tell."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path


class TomlFault(Exception):
    """The file cannot be read, or is no TOML; the message names file and line."""


@dataclass(frozen=True)
class TomlFile:
    """The data of a file, and the line of each of its keys."""

    path: Path
    data: dict[str, Any]
    lines: dict[tuple[str, ...], int]

    @classmethod
    def read(cls, path: Path) -> TomlFile:
        """Read a file; raises TomlFault."""
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            raise TomlFault(f"{path}: is not UTF-8 text") from None
        except OSError as error:
            raise TomlFault(f"{path}: cannot be read: {error.strerror}") from None
        try:
            data = tomllib.loads(text)
        except tomllib.TOMLDecodeError as error:
            raise TomlFault(f"{path}: is no TOML: {error}") from None
        return cls(path, data, key_lines(text))

    def place(self, *keys: str) -> str:
        """Return `file:line` of a key, or of the nearest thing that it stands in."""
        for length in range(len(keys), 0, -1):
            if keys[:length] in self.lines:
                return f"{self.path}:{self.lines[keys[:length]]}"
        return str(self.path)

    def at(self, *keys: str) -> str:
        """Return `file:line: section.key`."""
        return f"{self.place(*keys)}: {'.'.join(keys)}"


def key_lines(text: str) -> dict[tuple[str, ...], int]:
    """Return the line, from 1, on which each section and key of a valid TOML text first stands.

    Keys inside an inline table or a multi-line value have no entry of their own; the key that holds them has.
    """
    lines: dict[tuple[str, ...], int] = {}
    section: tuple[str, ...] = ()
    for number, line in enumerate(text.splitlines(), start=1):
        stripped = line.strip()
        if stripped.startswith("["):
            found = _path(stripped)
            if found:
                section = found
                lines.setdefault(section, number)
        elif "=" in stripped:
            left = stripped.partition("=")[0]
            lines.setdefault(section + _path(f"{left} = 0"), number)
    return lines


def _path(line: str) -> tuple[str, ...]:
    """Return the keys that one line of TOML makes; none if it is no line on its own."""
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
