"""How a change is agreed to, on a terminal and where nobody can be asked; and what a terminal is sent."""

from __future__ import annotations

import io
import os

import pytest

from jitsu.consent import after, agreed
from jitsu.printable import print_lines, print_value, printable
from jitsu.summary import Summary, summarize
from jitsu_protocol.changes import changes_for
from jitsu_protocol.messages import MASTER
from jitsu_protocol.model.errors import Refused
from jitsu_protocol.model.vm import to_tree
from tests.support.vms import make_vm

WWW, WIKI = make_vm("www", "10.0.0.1"), make_vm("wiki", "10.0.0.2")
LEAVES = to_tree(WWW) | to_tree(WIKI)
HIDES = "ok\r\x1b[2Jrm -rf \u202e\u0007"


class Screen(io.StringIO):
    """A terminal that is written to."""

    def isatty(self) -> bool:
        return True


class Keyboard:
    """A terminal that is read from."""

    def __init__(self) -> None:
        self._read, self._write = os.pipe()

    def types(self, text: str) -> None:
        """Type a text, and end the input after it as Ctrl-D does."""
        os.write(self._write, text.encode())
        os.close(self._write)

    def isatty(self) -> bool:
        return True

    def fileno(self) -> int:
        return self._read

    def readline(self) -> str:
        return os.read(self._read, 100).decode()

    def close(self) -> None:
        os.close(self._read)


def without(*vms: str) -> Summary:
    """Return what it does to remove VMs that are off."""
    kept = [vm for vm in (WWW, WIKI) if vm.name not in vms]
    return summarize(LEAVES, after(LEAVES, changes_for(kept, LEAVES, exact=True)), {})


@pytest.mark.parametrize(
    ("typed", "is_agreed"), [("y\n", True), (" YES \n", True), ("n\n", False), ("\n", False), ("", False)]
)
async def test_on_a_terminal_a_removal_is_made_only_if_it_is_agreed_to(
    monkeypatch: pytest.MonkeyPatch, typed: str, is_agreed: bool
) -> None:
    keyboard, asks, out = Keyboard(), Screen(), io.StringIO()
    monkeypatch.setattr("sys.stdin", keyboard)
    monkeypatch.setattr("sys.stderr", asks)
    keyboard.types(typed)
    assert await agreed(without("wiki"), MASTER, yes=False, out=out) is is_agreed
    keyboard.close()
    assert "removed  wiki" in out.getvalue()
    assert asks.getvalue().startswith("Remove 1 VM? [y/N] ")
    assert ("nothing is changed" in asks.getvalue()) is not is_agreed


async def test_where_nobody_can_be_asked_a_removal_is_refused_unless_yes_is_given(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO())
    out = io.StringIO()
    with pytest.raises(Refused, match=r"^this removes wiki, www, so nothing is changed") as caught:
        await agreed(without("www", "wiki"), MASTER, yes=False, out=out)
    assert "--yes" in caught.value.hint
    assert await agreed(without("www", "wiki"), MASTER, yes=True, out=out)
    assert await agreed(without("www", "wiki"), "draft", yes=False, out=out), "nothing runs from a draft"
    assert await agreed(without(), MASTER, yes=False, out=out), "nothing is removed"


def test_what_a_terminal_would_act_on_is_printed_as_an_escape() -> None:
    assert printable("www 東京") == "www 東京"
    assert printable(HIDES) == "ok\\r\\x1b[2Jrm -rf \\u202e\\x07"
    out = io.StringIO()
    print_lines(["one\ntwo", HIDES], out)
    assert out.getvalue() == f"one\\ntwo\n{printable(HIDES)}\n"
    print_lines([], out)
    assert out.getvalue().count("\n") == 2


@pytest.mark.parametrize("is_terminal", [False, True])
def test_a_value_is_exact_for_a_program_and_harmless_on_a_terminal(
    monkeypatch: pytest.MonkeyPatch, is_terminal: bool
) -> None:
    out = Screen() if is_terminal else io.StringIO()
    monkeypatch.setattr("sys.stdout", out)
    print_value(f"first\n{HIDES}")
    assert out.getvalue() == (f"first\n{printable(HIDES)}\n" if is_terminal else f"first\n{HIDES}\n")
