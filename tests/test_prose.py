"""What users read is plain English: the pages, and the texts of messages, logs and help.

Each `Mistake` is a habit that this project had when it wrote like a translation. What is quoted as code is left out.
So are comments and docstrings, which users do not read.
"""

from __future__ import annotations

import ast
import re
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

import pytest

from jitsu_runtime.settings.schema import SECTION_OF
from tests.support.pages import ROOT, pages

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.wires


@dataclass(frozen=True)
class Mistake:
    """A habit, by what it looks like, with what is right although it looks the same."""

    name: str
    instead: str
    pattern: re.Pattern[str]


_BE = r"\b(?:is|are|was|were|be|been)"
_THERE = "".join(f"(?<!\\b{there} )" for there in ("there", "There"))
_THERE_IS = "".join(f"(?<!\\b{there} {be} )" for there in ("there", "There") for be in ("is", "are"))

MISTAKES = (
    Mistake(
        "is no X",
        "is not a X; or: there is no X",
        # Right: "there is no VM", "is no longer", "is no different", "is no wider than".
        re.compile(rf"{_THERE}{_BE} no (?!(?:longer|different|better|worse|help)\b|\w+er than\b)\w"),
    ),
    Mistake(
        "no more",
        "no longer",
        # Right: "no more than 5", "there are no more keys", "sends no more data".
        re.compile(rf"{_THERE_IS}\bno more(?= \w+(?:ed|en|wn|ght|und)\b|[.,;:)]| and\b| or\b|$)"),
    ),
    Mistake(
        "Who ... as a subject",
        "a process that ...; everybody who ...",
        # Right: questions, also those that stand as a heading: "Who may do what".
        re.compile(r"(?:^|[.:;] )[Ww]ho (?!\w+ (?:\w+ )?what\b)[^.;:?]*(?:[.;:]|$)"),
    ),
    Mistake(
        "words of another time",
        "in the meantime, again, should, fix, obstacle, block, stopped, shortage",
        re.compile(
            r"\b(?:[Mm]eanwhile|[Aa]new|[Ss]hall|[Mm]end(?:s|ed|ing)?|[Hh]indrances?|[Hh](?:old|olds|eld|olding) up|"
            r"at rest|[Ll]ack(?:s|ed|ing)?)\b"
        ),
    ),
)


def mistakes(text: str) -> list[str]:
    """Return what is wrong with a sentence or paragraph: which habit, and where."""
    return [
        f"{mistake.name} ({mistake.instead}): ...{text[max(0, found.start() - 30) : found.end() + 30]}..."
        for mistake in MISTAKES
        for found in mistake.pattern.finditer(text)
    ]


WRONG = {
    "is no X": """
        'x' is no MAC address of an interface
        This is no duration
        jitsu.toml is no file
        The peer is no owner
        They are no VMs of this host
        It was no query
        What was sent were no frames
        A path that is no directory is refused
        The value must be no list
        That has been no store of ours
    """,
    "no more": """
        It is no more configured
        A host that is no master any more, or answers no more.
        The VM is no more watched
        It was no more asked
        The key is no more known
        dns answers with www no more; it asks vmd first
        The guest speaks no more, and is destroyed
        The peer is no more connected
        The record counts no more within a second, no more
        The name is no more taken
    """,
    "Who ... as a subject": """
        Who was held back finds its deadlines past.
        Who reads it was too slow
        Lines are lost: who reads them was too slow
        Who has the address gets the zone.
        It is refused. Who asks again is answered.
        Who is silent counts as use.
        A key is needed; who has none is refused.
        Who subscribes late asks for a snapshot.
        Who can enter may ask for everything.
        Who comes first is served first.
    """,
    "words of another time": """
        Queries are answered meanwhile.
        Meanwhile the VM boots
        The connection is made anew
        It shall be stopped
        The fault is mended
        Nothing mends it
        A hindrance of a bridge
        A slow call holds up nobody
        The VM is at rest
        It lacks memory
    """,
}
RIGHT = {
    "is no X": """
        There is no VM of this name
        It is no longer configured
        there are no keys in this directory
        If there is no room, it waits
        The default is no different
        It was no longer there
        There were no answers
        This is not a duration
        An answer is no longer than 512 bytes
        No VM is at a bridge
    """,
    "no more": """
        At most 5, and no more than 64 KiB
        There are no more keys
        It is no longer asked
        There is no more room
        No more than two may run at a time
        It sends no more data than the client reads
        Say no more than that
        One more is refused
        More is not needed
        It asks for no more packets
    """,
    "Who ... as a subject": """
        Who uses it?
        Who can do what
        Who may write what
        Show who changed what, newest first.
        Everybody who asks is answered.
        A client who waits is answered.
        The log says who asked.
        Whoever has a key may connect
        jitsu log: who changed what
        See who is connected
    """,
    "words of another time": """
        In the meantime queries are answered
        The connection is made again
        It should be stopped
        The fault is fixed
        An obstacle on a bridge
        A slow call blocks nobody
        The VM is stopped
        There is a shortage of memory
        Black and slack are words
        The amendment recommends it
    """,
}


def lines_of(texts: dict[str, str]) -> list[tuple[str, str]]:
    return [(name, line.strip()) for name, text in texts.items() for line in text.strip().splitlines()]


@pytest.mark.parametrize(("name", "sentence"), lines_of(WRONG))
def test_a_mistake_is_found(name: str, sentence: str) -> None:
    assert any(found.startswith(name) for found in mistakes(sentence)), sentence


@pytest.mark.parametrize(("name", "sentence"), lines_of(RIGHT))
def test_what_only_looks_like_a_mistake_is_left_alone(name: str, sentence: str) -> None:
    assert [found for found in mistakes(sentence) if found.startswith(name)] == []


def test_each_mistake_is_tried_with_ten_sentences_of_each_kind() -> None:
    for texts in (WRONG, RIGHT):
        assert {name: len(text.strip().splitlines()) for name, text in texts.items()} == {
            mistake.name: 10 for mistake in MISTAKES
        }


def paragraphs(text: str) -> Iterator[str]:
    """Return the paragraphs, list items and cells of a page, without what is code."""
    text = re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)
    text = re.sub(r"^(?: {4,}|\t).*$", "", text, flags=re.MULTILINE)
    text = re.sub(r"``.*?``|`[^`\n]*`", "CODE", text)
    text = re.sub(r"\]\([^)\s]*\)", "]", text)
    for block in re.split(r"\n\s*\n|\n(?=[|#>*-]|\d+\. )", text):
        for cell in block.split("|") if block.startswith("|") else [block]:
            if cell.strip():
                yield re.sub(r"\s+", " ", re.sub(r"^[#>*\s-]+|\*\*", "", cell)).strip()


FURTHER_PAGES = (
    ROOT / "guests" / "README.md",
    ROOT / "protocol" / "README.md",
    ROOT / "runtime" / "README.md",
    ROOT / "services" / "vmd" / "jitsu_vmd" / "hypervisors" / "README.md",
    ROOT / "services" / "vmd" / "jitsu_vmd" / "hypervisors" / "solo5" / "README.md",
)


@pytest.mark.parametrize("page", [*pages(), *FURTHER_PAGES], ids=lambda page: str(page.relative_to(ROOT)))
def test_pages_are_in_plain_english(page: Path) -> None:
    assert [found for part in paragraphs(page.read_text()) for found in mistakes(part)] == []


WORDS = 3
"""A text of fewer words is a name, a key or a path."""
PROGRAMS = (
    "jitsu",
    "deploy",
    "protocol/jitsu_protocol",
    "runtime/jitsu_runtime",
    *(f"services/{each}/jitsu_{each}" for each in SECTION_OF),
)


@cache
def texts(path: Path) -> list[tuple[int, str]]:
    """Return the texts in a program that somebody may read who runs it, with their lines: not its docstrings."""
    tree = ast.parse(path.read_text())
    found: list[tuple[int, str]] = []
    inner: set[int] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
            inner.add(id(node.value))
        elif isinstance(node, ast.JoinedStr):
            inner |= {id(value) for value in node.values}
            said = "".join(str(value.value) if isinstance(value, ast.Constant) else "CODE" for value in node.values)
            found.append((node.lineno, said))
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in inner:
            found.append((node.lineno, node.value))
    return [(line, said) for line, said in found if len(said.split()) >= WORDS]


@pytest.mark.parametrize("folder", PROGRAMS)
def test_texts_of_programs_are_in_plain_english(folder: str) -> None:
    found = [
        f"{path.relative_to(ROOT)}:{line}: {mistake}"
        for path in sorted((ROOT / folder).rglob("*.py"))
        for line, said in texts(path)
        for part in paragraphs(said)
        for mistake in mistakes(part)
    ]
    assert found == []
