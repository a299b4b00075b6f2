"""Mistakes in the syntax of TOML: in which line and key they are, and what was probably meant.

tomllib stops at the first character that it cannot use, and says what it expected there. People make few mistakes:
quotes are missing or not closed, = is missing, a bracket is not closed, or a name stands twice. Each has a rule here,
and the first rule that fits gives the guess.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    Statements = Callable[[str], Iterable[tuple[int, tuple[str, ...], bool]]]

_POSITION = re.compile(r" \(at (?:line (\d+), column (\d+)|(end of document))\)$")
_HEADER = re.compile(r"\s*\[\s*([^\[\]]+?)\s*\]\s*(?:#.*)?")
_BARE_KEY = re.compile(r"[A-Za-z0-9_.-]+")
_BOOLEANS = {"true": "true", "yes": "true", "on": "true", "false": "false", "no": "false", "off": "false"}
_TEXT = r"\"(?:\\.|[^\"\\])*\"|'[^']*'"
_QUOTES = re.compile(r'"{3}|\'{3}|"(?:\\.|[^"\\])*"|\'[^\']*\'|#.*|["\']')


def explained(text: str, error: str, named_lines: Statements) -> str:
    """Return `line: key: what is wrong; what to do` for what tomllib says of a text.

    `named_lines` returns the line, the keys, and whether it is a section, of each statement of a valid text.
    """
    position = _POSITION.search(error)
    said = _POSITION.sub("", error)
    lines = text.split("\n")
    number = int(position[1]) if position and position[1] else len(lines)
    if any(word in said for word in ("twice", "overwrite", "redefine")):
        number, path, said = _declared_twice(lines, number, said, named_lines)
    else:
        begins = _line_of_open_text(lines, number) or _line_of_open_list(lines, number, said)
        number = begins or number
        line = lines[number - 1] if number <= len(lines) else ""
        path = _path(lines, number)
        said = _guess(line.strip(), said)
    return f"{number}: {f'{path}: ' if path else ''}is not valid TOML: {said}"


def _path(lines: list[str], number: int) -> str:
    """Return the section and the key that stand at a line."""
    section = ""
    for line in lines[: number - 1]:
        if header := _HEADER.fullmatch(line):
            section = header[1]
    line = lines[number - 1].strip() if number <= len(lines) else ""
    if line.startswith("["):
        return line.strip("[] ").partition("]")[0]
    key = re.split(r"[=:\s]", line, maxsplit=1)[0]
    return ".".join(part for part in (section, key if _BARE_KEY.fullmatch(key) else "") if part)


def _line_of_open_text(lines: list[str], number: int) -> int | None:
    """Return the line, up to that one, of a quote that is opened and not closed, None if there is none."""
    inside = ""
    begins = 0
    for n, line in enumerate(lines[:number], start=1):
        at = 0
        while found := (_QUOTES if not inside else re.compile(re.escape(inside))).search(line, at):
            at, piece = found.end(), found[0]
            if inside:
                inside = ""
            elif piece in ('"""', "'''"):
                inside, begins = piece, n
            elif piece in ('"', "'"):
                return n
    return begins if inside else None


def _line_of_open_list(lines: list[str], number: int, said: str) -> int | None:
    """Return the line of a list that is not closed, None if that is not the mistake."""
    if "Unclosed array" not in said:
        return None
    for n in range(min(number, len(lines)), 0, -1):
        if re.search(r"=\s*\[", lines[n - 1]):
            return n
    return None


def _guess(line: str, said: str) -> str:
    """Return what is wrong with a line and what to write, if that can be guessed; else what tomllib says."""
    name, equals, value = (part.strip() for part in line.partition("="))
    if line.startswith("["):
        return _guess_of_section(line, said)
    if _QUOTES.search(line) and any(each[0] in ('"', "'", '"""', "'''") for each in _QUOTES.finditer(line)):
        return "a quote is opened and not closed"
    if not equals:
        return _guess_without_equals(line, said)
    if not name:
        return "there is no key before the ="
    if not name.isascii():
        return f'write a key that has other letters than A-Z in quotes: "{name}" = {value}'
    if not value or value.startswith("#"):
        return f'there is no value after the =; for an empty text write {name} = ""'
    return _guess_of_value(name, re.sub(r"\s+#.*", "", value), said)


def _guess_of_section(line: str, said: str) -> str:
    if "]" not in line:
        return f"the ] at the end is missing: {line}]"
    inner = line.strip("[] ").partition("]")[0]
    section, dot, name = inner.partition(".")
    last = name if dot else section
    if last and not re.fullmatch(r'"[^"]*"', last) and not _BARE_KEY.fullmatch(last):
        quoted = f'{section}."{name}"' if dot else f'"{section}"'
        return f"a name that has other characters than letters A-Z, digits, - and _ needs quotes: [{quoted}]"
    rest = line.partition("]")[2].strip()
    if rest and not rest.startswith("#"):
        return f"a section stands on a line of its own; move {rest} to the next line"
    return said


def _guess_without_equals(line: str, said: str) -> str:
    key, colon, value = (part.strip() for part in line.partition(":"))
    if colon and _BARE_KEY.fullmatch(key) and value:
        return f"a key and its value are joined by =, not by a colon: {key} = {_quoted(value)}"
    words = line.split(None, 1)
    if len(words) == 2 and _BARE_KEY.fullmatch(words[0]):
        return f"the = is missing: {words[0]} = {_quoted(words[1])}"
    return f"{said}; a line is a [section] or KEY = VALUE" if line else said


def _guess_of_value(name: str, value: str, said: str) -> str:
    if value.endswith((";", ",")) and value[:-1].strip():
        return f"remove the {value[-1]} at the end of the line: {name} = {_quoted(value[:-1].strip())}"
    if value.lower() in _BOOLEANS:
        return f"write {name} = {_BOOLEANS[value.lower()]}"
    if re.fullmatch(r"0[0-9]+", value):
        return f"a number has no zeros in front: {name} = {value.lstrip('0') or '0'}"
    if "'\\'" in said or "escape" in said.lower():
        return f"a backslash in text is written twice, or the text stands in single quotes ({said})"
    if value.startswith("["):
        if "Unclosed" in said:
            return "the list that begins here is not closed, or a comma between its values is missing"
        inner = value.removeprefix("[").removesuffix("]")
        if value.endswith("]") and "[" not in inner and "{" not in inner:
            return f"is text without quotes in this list? write {name} = [{', '.join(map(_quoted, _parts(inner)))}]"
        return said
    if several := re.fullmatch(rf"((?:{_TEXT})(?:\s*,\s*(?:{_TEXT}))+)", value):
        return f"several values stand in brackets: {name} = [{several[1]}]"
    if (more := re.match(rf"(?:{_TEXT})\s*(\S.*)", value)) and "=" in more[1]:
        return f"each key stands on a line of its own; move {more[1]} to the next line"
    if value[0] in "\"'{":
        return said
    return f"are quotes missing? write {name} = {_quoted(value)}"


def _parts(inner: str) -> list[str]:
    return [part.strip() for part in inner.split(",") if part.strip()]


def _quoted(value: str) -> str:
    """Return a value as it may stand in TOML: a number, true, false, a list and quoted text stay as they are."""
    if value[:1] in "\"'[{" or re.fullmatch(r"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?|true|false", value):
        return value
    return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _declared_twice(lines: list[str], number: int, said: str, named_lines: Statements) -> tuple[int, str, str]:
    """Return the line and the path of what ends in this line, and where the first of the same name stands."""
    section: tuple[str, ...] = ()
    seen: dict[tuple[str, ...], int] = {}
    latest: tuple[int, tuple[str, ...], str] | None = None
    for begins, keys, is_section in named_lines("\n".join(lines[:number])):
        path = keys if is_section else section + keys
        if is_section:
            section = keys
        latest = (begins, path, f"[{'.'.join(keys)}]" if is_section else ".".join(keys))
        seen.setdefault(path, begins)
    if latest is None or seen[latest[1]] == latest[0]:
        return number, _path(lines, number), f"{said}: it stands in this file already"
    begins, path, shown = latest
    return begins, ".".join(path), f"{shown} stands in line {seen[path]} already; keep one of them"
