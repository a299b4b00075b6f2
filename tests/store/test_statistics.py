"""Statistics between two commits: what readers see, what a crash leaves, and how often there is a commit."""

from __future__ import annotations

import errno
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from jitsu_protocol.messages import Branch, List, ListBranches, Push, Record
from jitsu_protocol.model.vm import to_tree
from jitsu_store.rules.statistics import line
from jitsu_store.wires.disk import DirectoryFiles
from jitsu_store.wires.journal import JOURNAL, JournalFile
from tests.support.store import ME, git, running
from tests.support.vms import make_vm

if TYPE_CHECKING:
    from pathlib import Path


pytestmark = pytest.mark.wires

STARTS = "jitsu/stats/v/total_starts"


def recorded(count: int) -> Record:
    return Record(values={STARTS: str(count)}, service="vmd")


async def test_statistics_are_seen_at_once_and_survive_a_kill_before_their_commit(tmp_path: Path) -> None:
    async with running(tmp_path / "db") as store:
        head = await store.apply({"jitsu/stats/v/start_ts": "1"})
        store.server.record(recorded(1))
        assert await store.get(STARTS) == "1"
        for prefix in ("", "jitsu", "jitsu/stats", "jitsu/stats/v", STARTS):
            assert (await store.server.reader.list(List(prefix=prefix))).leaves[STARTS] == "1"
        assert (await store.server.reader.list(List(prefix="jitsu/stats", limit=1))).leaves[STARTS] == "1"
        assert (await store.server.reader.list(List(prefix="jitsu/vm"))).leaves == {}
        await store.server.keeper.journal()
        store.server.record(recorded(2))
        await store.server.keeper.journal()
        store.server.record(recorded(3))  # a crash loses what was recorded after the journal was written last
        assert store.git("rev-parse", "master").strip() == head
    async with running(tmp_path / "db") as store:
        assert await store.get(STARTS) == "2"
        store.git("fsck", "--strict")
        await store.server.flush()
        assert store.git("show", f"master:{STARTS}") == "2"
        assert not (tmp_path / "db" / JOURNAL).exists()


async def test_a_kill_between_the_commit_and_the_journal_makes_no_second_commit(tmp_path: Path) -> None:
    async with running(tmp_path / "db") as store:
        store.server.record(recorded(1))
        await store.server.keeper.journal()
        kept = (tmp_path / "db" / JOURNAL).read_bytes()
        await store.server.flush()
        (tmp_path / "db" / JOURNAL).write_bytes(kept)
    async with running(tmp_path / "db") as store:
        await store.server.flush()
        assert store.git("rev-list", "--count", "master").strip() == "1"
        assert await store.get(STARTS) == "1"


async def test_what_is_appended_after_a_line_that_a_kill_has_cut_is_not_lost(tmp_path: Path) -> None:
    async with running(tmp_path / "db") as store:
        store.server.record(recorded(1))
        await store.server.keeper.journal()
    with (tmp_path / "db" / JOURNAL).open("ab") as file:
        file.write(line({STARTS: ("2", "vmd")})[:-5])
    async with running(tmp_path / "db") as store:
        assert await store.get(STARTS) == "1"
        store.server.record(recorded(3))
        await store.server.keeper.journal()
    async with running(tmp_path / "db") as store:
        assert await store.get(STARTS) == "3"


async def test_branches_merges_and_backups_have_the_statistics_of_now(tmp_path: Path) -> None:
    git(tmp_path, "init", "-q", "--bare", "-b", "master", "other.git")
    async with running(tmp_path / "db") as store:
        store.server.record(recorded(10))
        await store.branch("try")
        assert await store.get(STARTS, "try") == "10"
        await store.apply({STARTS: "13"}, "try")
        store.server.record(recorded(15))
        await store.merge("try")
        assert await store.get(STARTS) == "18"
        store.server.record(recorded(20))
        await store.apply({STARTS: "1"})
        assert await store.get(STARTS) == "1"
        store.server.record(recorded(21))
        await store.server.push(Push(remote=str(tmp_path / "other.git"), author=ME))
        assert git(tmp_path / "other.git", "show", f"master:{STARTS}") == "21"
        listed = await store.server.reader.list_branches(ListBranches())
        assert isinstance(listed.branches[0], Branch)


async def test_a_journal_that_cannot_be_written_loses_nothing_while_the_store_runs(tmp_path: Path) -> None:
    async with running(tmp_path / "db") as store:
        (tmp_path / "db" / JOURNAL).mkdir()
        store.server.record(recorded(1))
        await store.server.keeper.journal()
        assert await store.get(STARTS) == "1"
        (tmp_path / "db" / JOURNAL).rmdir()
        await store.server.keeper.journal()
    async with running(tmp_path / "db") as store:
        assert await store.get(STARTS) == "1"


async def test_the_limit_of_names_counts_those_that_wait_for_the_next_commit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("jitsu_store.rules.recording.MAX_STATISTICS_NAMES", 3)
    monkeypatch.setattr("jitsu_store.rules.recording.MAX_STATISTICS_OF_NOBODY", 2)
    async with running(tmp_path / "db") as store:
        vm = make_vm()
        await store.apply(to_tree(vm))
        one_by_one = [f"jitsu/stats/{vm.uuid}/dns/n{n}.test/total_requests" for n in range(9)]
        at_once = {f"jitsu/stats/{vm.uuid}/dns/m{n}.test/total_requests": "1" for n in range(9)}
        for values in (*({path: "1"} for path in one_by_one), at_once):
            store.server.record(Record(values=values, service="reaper"))
        assert set(store.server.keeper.statistics.pending()) == set(one_by_one[:3])
        made_up = {f"jitsu/stats/x{n}/total_starts": "1" for n in range(9)}
        store.server.record(Record(values=made_up, service="vmd"))
        assert len(store.server.keeper.statistics.pending()) == 3 + 1 + 2 - 1, "one VM, two of nobody, one of them it"
        store.server.record(Record(values={one_by_one[0]: "2"}, service="reaper"))
        assert store.server.keeper.statistics.get(one_by_one[0]) == "2", "what is kept already goes on"


def test_an_append_that_a_full_disk_cuts_leaves_a_journal_that_reads_as_before(tmp_path: Path) -> None:
    journal = JournalFile(DirectoryFiles(tmp_path, durable=False))
    journal.append({"a": ("1", "vmd")})
    limit = (tmp_path / JOURNAL).stat().st_size + 7
    script = (
        "import resource, signal, sys, pathlib\n"
        "from jitsu_store.wires.disk import DirectoryFiles\n"
        "from jitsu_store.wires.journal import JournalFile\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        f"resource.setrlimit(resource.RLIMIT_FSIZE, ({limit}, resource.RLIM_INFINITY))\n"
        "journal = JournalFile(DirectoryFiles(pathlib.Path(sys.argv[1]), durable=False))\n"
        "try:\n    journal.append({'b': ('2', 'vmd')})\n"
        "except OSError as error:\n    print(error.errno)\n"
    )
    tried = subprocess.run([sys.executable, "-c", script, tmp_path], capture_output=True, text=True, check=True)
    assert tried.stdout.strip() == str(errno.EFBIG)
    assert journal.read() == {"a": ("1", "vmd")}
    journal.append({"c": ("3", "vmd")})
    assert journal.read() == {"a": ("1", "vmd"), "c": ("3", "vmd")}
