"""Which suite a command is for, when nobody says."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING

import pytest

from jitsu import cli

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture
def places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Path]:
    """Return the user's own directory, and the machine's configuration."""
    own, machine = tmp_path / "own", tmp_path / "jitsu.toml"
    own.mkdir()
    monkeypatch.setattr(cli, "runtime_directory", lambda: str(own))
    monkeypatch.setattr(cli, "MACHINE_CONFIG", machine)
    monkeypatch.setattr(cli, "MACHINE_DIRECTORY", tmp_path / "run")
    for name in ("config", "runtime_dir"):
        monkeypatch.setattr(cli.Where, name, getattr(cli.Where, name))
    for variable in ("JITSU_CONFIG", "JITSU_BUS_RUNTIME_DIR"):
        monkeypatch.delenv(variable, raising=False)
    return own, machine


def test_the_machines_if_none_of_ones_own_runs(places: tuple[Path, Path]) -> None:
    own, machine = places
    machine.write_text('[store]\npath = "/var/lib/its.git"\n')
    found = cli.of_the_suite_that_runs()
    assert found.store.path == "/var/lib/its.git"
    assert found.bus.directory == own.parent / "run"


def test_ones_own_before_the_machines(places: tuple[Path, Path]) -> None:
    own, machine = places
    machine.write_text('[store]\npath = "/var/lib/its.git"\n')
    with socket.socket(socket.AF_UNIX) as service:
        service.bind(str(own / "vmd.rpc"))
        service.listen()
        assert cli.of_the_suite_that_runs().store.path != "/var/lib/its.git"


def test_the_machines_if_ones_own_was_killed(places: tuple[Path, Path]) -> None:
    own, machine = places
    machine.write_text('[store]\npath = "/var/lib/its.git"\n')
    with socket.socket(socket.AF_UNIX) as service:
        service.bind(str(own / "store.rpc"))
    assert (own / "store.rpc").exists()
    assert cli.of_the_suite_that_runs().store.path == "/var/lib/its.git"


def test_the_one_that_is_named(places: tuple[Path, Path], tmp_path: Path) -> None:
    places[1].write_text('[store]\npath = "/var/lib/its.git"\n')
    cli.Where.runtime_dir = str(tmp_path / "named")
    found = cli.of_the_suite_that_runs()
    assert found.bus.directory == tmp_path / "named"
    assert found.store.path != "/var/lib/its.git"


def test_there_need_be_none(places: tuple[Path, Path]) -> None:
    assert cli.of_the_suite_that_runs().store.path == ""
