"""Which runtime directories `jitsu up` refuses, and what it leaves in them."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from jitsu.runtime_directory import RuntimeDirectory
from jitsu_protocol.model.errors import SetupFault

if TYPE_CHECKING:
    from collections.abc import Iterator

NOBODY = 65534
ALL_MODES = range(0o1000)


@pytest.fixture
def place(tmp_path: Path) -> Path:
    made = tmp_path / "run"
    made.mkdir(0o700)
    return made


@pytest.fixture
def open_directory() -> Iterator[Path]:
    """A directory that ordinary users can enter, which tmp_path is not."""
    with tempfile.TemporaryDirectory() as made:
        path = Path(made)
        path.chmod(0o755)
        yield path


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


def test_a_directory_below_one_that_others_may_write_is_refused_unless_it_is_sticky(
    place: Path, tmp_path: Path
) -> None:
    for mode in (0o777, 0o775, 0o770, 0o757):
        tmp_path.chmod(mode)
        told = claim(place)
        assert f"{tmp_path} belongs to " in told
        assert f"(uid {os.geteuid()}) and has mode {mode:04o}" in told
        assert f"`chmod go-w {tmp_path}`" in told
        place.mkdir(exist_ok=True)
    for mode in (0o1777, 0o1775, 0o755, 0o711, 0o700):
        tmp_path.chmod(mode)
        assert claim(place) == ""


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root: chown")
def test_a_directory_below_one_of_another_user_is_refused_even_if_that_is_sticky(place: Path, tmp_path: Path) -> None:
    for mode in (0o755, 0o1777, 0o700):
        os.chown(tmp_path, NOBODY, -1)
        tmp_path.chmod(mode)
        told = claim(place)
        assert f"{tmp_path} belongs to nobody (uid {NOBODY}) and has mode {mode:04o}" in told
        assert f"as root: `chown 0 {tmp_path}`" in told
    os.chown(tmp_path, 0, -1)
    tmp_path.chmod(0o755)
    assert claim(place) == ""


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root: chown")
def test_a_link_of_another_user_on_the_way_is_refused_and_one_of_root_is_followed(place: Path, tmp_path: Path) -> None:
    (tmp_path / "inner").symlink_to(tmp_path)
    outer = tmp_path / "outer"
    outer.symlink_to("inner")
    through = outer / "run"
    assert claim(through) == ""
    os.lchown(tmp_path / "inner", NOBODY, -1)
    place.mkdir(0o700, exist_ok=True)
    assert f"{tmp_path}/inner is a symbolic link that belongs to nobody (uid 65534)" in claim(through)


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root: chown and seteuid")
def test_an_ordinary_user_may_use_the_directories_that_systems_give_to_users(open_directory: Path) -> None:
    """As /tmp (sticky), /run/user/UID (below root's) and /var/folders/xx/yy/T (root's, root's, the user's own)."""
    shared, session, folders = (open_directory / name for name in ("tmp", "run-user", "folders"))
    shared.mkdir()
    shared.chmod(0o1777)
    for own in (session / str(NOBODY), folders / "xx" / "yy"):
        own.mkdir(parents=True)
        own.chmod(0o700)
        os.chown(own, NOBODY, -1)
    try:
        os.seteuid(NOBODY)
        for path in (shared / "jitsu-65534", session / str(NOBODY) / "jitsu", folders / "xx" / "yy" / "T" / "jitsu"):
            assert claim(path) == ""
    finally:
        os.seteuid(0)


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
