"""Which runtime directories `jitsu up` refuses, and what it leaves in them."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from jitsu.runtime_directory import RuntimeDirectory
from jitsu_protocol.errors import SetupFault

if TYPE_CHECKING:
    from pathlib import Path

NOBODY = 65534
ALL_MODES = range(0o1000)


@pytest.fixture
def place(tmp_path: Path) -> Path:
    made = tmp_path / "run"
    made.mkdir(0o700)
    return made


def claim(path: Path) -> str:
    """Return why a directory is refused, or nothing."""
    directory = RuntimeDirectory(path)
    try:
        directory.claim()
    except SetupFault as fault:
        return str(fault)
    directory.release()
    return ""


def test_only_a_directory_that_others_can_neither_enter_nor_write_is_accepted(place: Path) -> None:
    accepted = set()
    for mode in ALL_MODES:
        place.mkdir(exist_ok=True)
        place.chmod(mode | 0o700)
        if claim(place) == "":
            accepted.add(mode | 0o700)
    assert accepted == {0o700, 0o710, 0o740, 0o750}


def test_a_refusal_names_the_mode_and_owner_found_and_the_command_that_fixes_it(place: Path) -> None:
    place.chmod(0o777)
    told = claim(place)
    assert f"{place} belongs to " in told
    assert f"(uid {os.geteuid()}) and has mode 0777" in told
    assert f"`chmod 700 {place}`" in told
    place.chmod(0o700)
    assert claim(place) == ""


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root: chown")
def test_a_directory_or_link_of_another_user_is_refused(place: Path, tmp_path: Path) -> None:
    os.chown(place, NOBODY, -1)
    told = claim(place)
    assert f"(uid {NOBODY}) and has mode 0700" in told
    assert f"`chown 0 {place} && chmod 700 {place}`" in told
    os.chown(place, 0, -1)
    link = tmp_path / "link"
    link.symlink_to(place)
    assert claim(link) == ""
    os.lchown(link, NOBODY, -1)
    assert "is a symbolic link that belongs to nobody (uid 65534), who can change it" in claim(link)


def test_a_directory_below_one_that_others_may_write_is_refused(place: Path, tmp_path: Path) -> None:
    tmp_path.chmod(0o777)
    assert f"{tmp_path} belongs to " in claim(place)
    tmp_path.chmod(0o1777)
    assert claim(place) == ""


def test_a_file_in_the_place_of_the_directory_is_named(tmp_path: Path) -> None:
    file = tmp_path / "run"
    file.write_text("")
    assert claim(file) == f"{file} is not a directory (give another directory with --runtime-dir)"
    assert claim(file / "below") == f"{file} is not a directory (give another directory with --runtime-dir)"
    assert "File name too long" in claim(tmp_path / ("x" * 300))


def test_a_repository_that_this_run_did_not_make_is_neither_used_nor_removed(place: Path) -> None:
    kept = place / "store.git"
    kept.mkdir()
    (kept / "HEAD").write_text("ref: refs/heads/master\n")
    directory = RuntimeDirectory(place)
    directory.claim()
    own = directory.new_store()
    assert own == place / "store-1.git"
    (own / "HEAD").write_text("")
    directory.release()
    assert (kept / "HEAD").read_text() == "ref: refs/heads/master\n"
    assert [each.name for each in place.iterdir()] == ["store.git"]


def test_a_run_with_a_repository_of_its_own_removes_none(place: Path) -> None:
    directory = RuntimeDirectory(place)
    directory.claim()
    (place / "store.git").mkdir()  # as `jitsu up --persistdb RUN/store.git` makes it
    directory.release()
    assert (place / "store.git").is_dir()


def test_what_this_run_has_made_is_gone_afterwards(tmp_path: Path) -> None:
    directory = RuntimeDirectory(tmp_path / "deep" / "run")
    directory.claim()
    assert directory.path.stat().st_mode & 0o777 == 0o700
    (directory.new_store() / "HEAD").write_text("")
    (directory.path / "vmd.rpc").write_text("")
    directory.release()
    assert list((tmp_path / "deep").iterdir()) == []
