"""A suite that is started on what it finds: a database of the original, and repositories that are not well."""

from __future__ import annotations

import hashlib
import os
import subprocess
from typing import TYPE_CHECKING

import pytest

from tests.support.dns import ask
from tests.support.store import git
from tests.support.suite import JITSU, RunningSuite, free_port, wait_for

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.suite

UUID = "24e9c5ce-8ae2-4a50-a4f0-4a8b7d3b6e4c"
STATS = f"jitsu/stats/{UUID}"
ORIGINAL = {
    # As Jitsu 0.2 wrote it (FACTS 1): one blob per value, the value is the string itself.
    f"jitsu/vm/{UUID}/config/dns/0": "www.jitsu.test",
    f"jitsu/vm/{UUID}/config/ip/0": "127.2.30.1",
    f"jitsu/vm/{UUID}/config/name/0": "www",
    f"jitsu/vm/{UUID}/config/response_delay/0": "0.2",
    f"jitsu/vm/{UUID}/dns/www.jitsu.test/ttl": "60",
    f"jitsu/vm/{UUID}/ip": "127.2.30.1",
    f"jitsu/vm/{UUID}/stop_mode": "destroy",
    f"jitsu/vm/{UUID}/response_delay": "0.2",
    f"jitsu/vm/{UUID}/wait_for_key": "",
    f"jitsu/vm/{UUID}/use_synjitsu": "false",
    f"{STATS}/start_ts": "1430000000.5",
    f"{STATS}/total_starts": "41",
    f"{STATS}/dns/www.jitsu.test/last_request_ts": "1430000000.25",
    f"{STATS}/dns/www.jitsu.test/total_requests": "99",
}


def database(path: Path, leaves: dict[str, str]) -> str:
    """Make a bare repository with stock git, one commit for each leaf as Irmin did; returns the last."""
    subprocess.run(["git", "init", "-q", "--bare", "-b", "master", str(path)], check=True)
    stream = []
    for number, (leaf, value) in enumerate(leaves.items()):
        stream += ["commit refs/heads/master", f"committer Irmin <irmin@openmirage.org> {1430000000 + number} +0000"]
        stream += ["data 6", "update", f"M 644 inline {leaf}", f"data {len(value)}", value]
    subprocess.run(
        ["git", "-C", str(path), "fast-import", "--quiet"], input="\n".join([*stream, ""]), text=True, check=True
    )
    return git(path, "rev-parse", "master").strip()


async def test_a_database_of_the_original_starts_with_its_vms_and_is_not_rewritten(tmp_path: Path) -> None:
    last = database(tmp_path / "db", ORIGINAL)
    with RunningSuite(tmp_path, ["--persistdb", "db"]) as suite:
        row = suite.status()["www"]
        assert (row["uuid"], row["state"], row["starts"], row["queries"]) == (UUID, "off", 41, 99)
        answer = await ask("www.jitsu.test", suite.port)
        assert (answer.addresses, answer.ttl) == (["127.2.30.1"], 60)
        assert answer.seconds >= 0.2
        wait_for(lambda: suite.jitsu("get", f"{STATS}/total_starts") == "42\n", 5, "the start is counted on")
        wait_for(
            lambda: suite.jitsu("get", f"{STATS}/dns/www.jitsu.test/total_requests") == "100\n", 5, "and the query"
        )
        assert f"/jitsu/vm/{UUID}/use_synjitsu" in suite.jitsu("tree")
    git(tmp_path / "db", "merge-base", "--is-ancestor", last, "master")
    changed = set(git(tmp_path / "db", "diff", "--name-only", last, "master").split())
    assert {path for path in changed if not path.startswith("jitsu/replica/")} == {
        f"{STATS}/start_ts",
        f"{STATS}/total_starts",
        f"{STATS}/dns/www.jitsu.test/last_request_ts",
        f"{STATS}/dns/www.jitsu.test/last_ttl",
        f"{STATS}/dns/www.jitsu.test/total_requests",
    }
    git(tmp_path / "db", "fsck", "--strict")


def started_on(tmp_path: Path, path: Path) -> tuple[int, str]:
    """Run `jitsu up` on a store that it cannot use; returns its status and what it said."""
    done = subprocess.run(
        [*JITSU, "up", "--runtime-dir", str(tmp_path / "run"), "-l", str(free_port()), "--persistdb", str(path)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert not (tmp_path / "run").exists()
    return done.returncode, done.stderr


def contents(path: Path) -> dict[str, str]:
    """Return a hash of each file below a directory, without what a lock leaves."""
    files = [each for each in path.rglob("*") if each.is_file() and each.name != "jitsu-store.lock"]
    return {str(each): hashlib.sha256(each.read_bytes()).hexdigest() for each in files}


def test_a_directory_that_is_no_repository_is_named_and_left_alone(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "cat.jpg").write_text("precious")
    status, said = started_on(tmp_path, tmp_path / "photos")
    assert status == 3, said
    assert "photos is not a bare Git repository (name one, or a new or empty directory" in said
    assert [each.name for each in (tmp_path / "photos").iterdir()] == ["cat.jpg"]


def test_a_malformed_repository_and_one_with_a_missing_object(tmp_path: Path) -> None:
    database(tmp_path / "db", ORIGINAL)
    blob = git(tmp_path / "db", "rev-parse", f"master:jitsu/vm/{UUID}/ip").strip()
    (tmp_path / "db" / "objects" / blob[:2] / blob[2:]).unlink()
    before = contents(tmp_path / "db")
    status, said = started_on(tmp_path, tmp_path / "db")
    assert status == 3, said
    assert f"object {blob} of the store" in said
    assert "git fsck" in said
    assert contents(tmp_path / "db") == before

    for damaged, told in (("refs/heads/master", "missing or damaged"), ("config", "that can be opened")):
        (tmp_path / "db" / damaged).write_text("non[sense\n")
        before = contents(tmp_path / "db")
        status, said = started_on(tmp_path, tmp_path / "db")
        assert status == 3, said
        assert told in said
        assert contents(tmp_path / "db") == before


@pytest.mark.skipif(os.geteuid() != 0, reason="mounts a small file system")
def test_a_full_disk_and_a_read_only_one(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=512k", "none", str(disk)], check=True)
    try:
        database(disk / "db", ORIGINAL)
        for hook in (disk / "db" / "hooks").iterdir():
            hook.unlink()
        with RunningSuite(tmp_path, ["--persistdb", str(disk / "db")]) as suite:
            room = os.statvfs(disk)
            (disk / "filler").write_bytes(bytes(room.f_bavail * room.f_bsize))
            value = f"jitsu/vm/{UUID}/response_delay"
            refused = suite.jitsu("set", value, "0.5", check=False)
            assert "cannot write to the store" in refused
            assert "is the disk full or read-only?" in refused
            assert suite.jitsu("get", value) == "0.2\n"
            (disk / "filler").unlink()
            assert "1 value changed" in suite.jitsu("set", value, "0.5")
        git(disk / "db", "fsck", "--strict")
        room = os.statvfs(disk)
        (disk / "filler").write_bytes(bytes(room.f_bavail * room.f_bsize))
        before = contents(disk / "db")
        status, said = started_on(tmp_path, disk / "db")
        assert status == 4, said
        assert "cannot write to the store" in said
        assert "make room on its disk" in said
        subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
        status, said = started_on(tmp_path, disk / "db")
        assert status == 4, said
        assert "Read-only file system" in said
        assert contents(disk / "db") == before
    finally:
        subprocess.run(["umount", str(disk)], check=True)


def test_one_repository_is_open_in_one_store(tmp_path: Path) -> None:
    with RunningSuite(tmp_path, ["--persistdb", "db", "dns=www.jitsu.test,ip=127.2.31.1"]):
        (tmp_path / "other").mkdir()
        status, said = started_on(tmp_path / "other", tmp_path / "db")
        assert status == 2
        assert "another jitsu-store has" in said
