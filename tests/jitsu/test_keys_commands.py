"""`jitsu keys`, as docs/how-to/operate.md has it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from typer.testing import CliRunner

import jitsu.main  # noqa: F401  all commands
from jitsu.cli import app
from jitsu_protocol.wire.permissions import ROLES
from jitsu_runtime.bus.curve import load

if TYPE_CHECKING:
    from pathlib import Path


def keys(*arguments: object, status: int = 0) -> str:
    done = CliRunner().invoke(app, ["keys", *map(str, arguments)])
    assert done.exit_code == status, done.output
    return done.output


def test_keys_are_made_for_two_machines_and_rotated(tmp_path: Path) -> None:
    here, london = tmp_path / "keys", tmp_path / "london"
    assert f'keys = "{here}"' in keys("init", here)
    assert "has all keys already" in keys("init", here)
    assert "dns.london is known" in keys("add", here, "dns.london", london)
    assert load(london, "dns").names.keys() == load(here, "store").names.keys(), "each knows all"
    assert load(london, "dns").public in load(here, "store").names
    assert "jitsu keys drop" in keys("rotate", here, "store")
    rows = {line.split()[0]: "secret key here" in line for line in keys("list", here).splitlines()}
    assert rows == {**dict.fromkeys(ROLES, True), "dns.london": False, "store.before": False}
    assert "no longer known" in keys("drop", here, "store.before")


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("list", "nowhere"), "jitsu keys init"),
        (("drop", "nowhere", "../../etc/passwd"), "is not the name of a key"),
        (("rotate", "nowhere", "king"), "is not a role"),
        (("rotate", "nowhere", "dns"), "has no key of dns"),
        (("add", "nowhere", "dns", "there"), "is not ROLE.WORD"),
    ],
)
def test_mistakes_say_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], told: str
) -> None:
    monkeypatch.chdir(tmp_path)
    assert told in keys(*arguments, status=1)
    assert list(tmp_path.iterdir()) == []
