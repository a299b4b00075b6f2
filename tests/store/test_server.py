"""The store over a real repository, without its sockets; stock git is the judge of what it writes."""

from __future__ import annotations

import asyncio
import socket
import threading
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import pytest

from jitsu_protocol.messages import (
    ChangesSince,
    Committed,
    DeleteBranch,
    Diff,
    Fetch,
    HeadMoved,
    List,
    ListBranches,
    Log,
    Pull,
    Push,
    Record,
)
from jitsu_protocol.model.errors import BadRequest, Conflict, Invalid, NotFound, Refused, Unavailable
from jitsu_protocol.model.vm import to_tree
from jitsu_store.wires.repacker import RepackPass
from jitsu_store.wires.repository import Repository
from tests.support.store import ME, Store, git, running, write_with_git
from tests.support.vms import make_vm

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.wires


async def test_what_is_applied_is_a_commit_that_git_can_read(tmp_path: Path) -> None:
    vm = make_vm()
    async with running(tmp_path / "db") as store:
        commit = await store.apply(dict(to_tree(vm)), request="r1")
        assert store.git("show", f"master:jitsu/vm/{vm.uuid}/ip") == "127.0.1.1"
        shown = store.git("log", "-1", "--format=%H|%an|%s|%(trailers:key=Request-Id,valueonly)").strip()
        assert shown == f"{commit}|operator:me|Why|r1"
        store.git("fsck", "--strict")
        (item,) = store.feed.of("vm")
        assert isinstance(item, Committed)
        assert {change.path: change.value for change in item.changes} == to_tree(vm)
        assert store.feed.of("heads") == [HeadMoved(branch="master", commit=commit)]


async def test_a_request_that_is_sent_twice_is_one_commit_even_after_a_restart(tmp_path: Path) -> None:
    async with running(tmp_path / "db") as store:
        first = await store.apply({"a/b": "1"}, request="r1")
        second = await store.apply({"a/b": "2"}, request="r2")
        assert await store.apply({"a/b": "1"}, request="r1") == first
    async with running(tmp_path / "db") as store:
        assert await store.apply({"a/b": "1"}, request="r1") == first
        assert await store.get("a/b") == "2"
        assert (await store.server.reader.list(List())).commit == second


async def test_a_store_that_is_stopped_while_it_writes_leaves_branches_at_what_is_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, go_on, ended = threading.Event(), threading.Event(), threading.Event()
    async with running(tmp_path / "db") as store:
        await store.apply({"a/b": "1"})
        land = Repository.land

        def slow(self: Repository, *arguments: Any) -> None:
            begun.set()
            go_on.wait(10)
            land(self, *arguments)
            ended.set()

        monkeypatch.setattr(Repository, "land", slow)
        writing = asyncio.create_task(store.apply({"a/b": "2"}, request="r2"))
        await asyncio.to_thread(begun.wait, 10)
    go_on.set()  # its writer has been cancelled
    assert await asyncio.to_thread(ended.wait, 10)
    monkeypatch.undo()
    with suppress(asyncio.CancelledError):
        writing.cancel()
        await writing
    async with running(tmp_path / "db") as store:
        store.git("fsck", "--strict")
        assert await store.get("a/b") in ("1", "2")


async def test_the_serial_grows_with_each_change_of_the_zones_and_with_no_other_and_survives_a_restart(
    tmp_path: Path,
) -> None:
    vm = make_vm()

    async def serial(store: Store) -> int:
        return (await store.server.reader.list(List())).serial

    async with running(tmp_path / "db", says=1_000.5) as store:
        await store.apply(dict(to_tree(vm)))
        assert await serial(store) == 1_000
        await store.apply({f"jitsu/vm/{vm.uuid}/response_delay": "0.2"})
        await store.apply({"jitsu/dns/changed": "today"})
        assert await serial(store) == 1_002
        await store.apply({"a/b": "1"})
        store.server.record(Record(values={f"jitsu/stats/{vm.uuid}/total_starts": "1"}, service="vmd"))
        await store.server.flush()
        assert await serial(store) == 1_002
        told = [(item.serial, len(item.changes)) for item in store.feed.of("vm") if isinstance(item, Committed)]
        assert told == [(1_000, len(to_tree(vm))), (1_001, 1), (1_002, 0)]
    async with running(tmp_path / "db", says=1_000.5) as store:
        assert await serial(store) == 1_002
        await store.branch("b")
        await store.apply({f"jitsu/vm/{vm.uuid}/response_delay": "0.3"}, branch="b")
        assert await serial(store) == 1_002
        await store.merge("b")
        assert await serial(store) == 1_003


async def test_leaves_can_be_had_in_pages_that_tear_no_name_apart(tmp_path: Path) -> None:
    leaves = {f"a/{n:02}/{leaf}": str(n) for n in range(20) for leaf in ("x", "y", "z")}
    async with running(tmp_path / "db") as store:
        await store.apply({**leaves, "b/other": "1"})
        found: dict[str, str] = {}
        after, pages = "", 0
        while True:
            page = await store.server.reader.list(List(prefix="a", after=after, limit=7))
            assert not found.keys() & page.leaves.keys()
            found |= page.leaves
            pages, after = pages + 1, page.upto
            if not after:
                break
            # what is staged but not on the disk is in no page
            applying = asyncio.create_task(store.apply({"a/19/x": f"new {pages}", "a/30/x": "new"}))
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            hidden = await store.server.reader.list(List(prefix="a", after="18", limit=100))
            if pages == 1:
                assert hidden.leaves == {path: value for path, value in leaves.items() if path.startswith("a/19")}
            await applying
        assert pages == 7
        assert found == await _below(store, "a")


async def _below(store: Store, prefix: str) -> dict[str, str]:
    return (await store.server.reader.list(List(prefix=prefix))).leaves


async def test_a_refused_change_changes_nothing(tmp_path: Path) -> None:
    one, two = make_vm("one", "127.0.1.1"), make_vm("two", "127.0.1.2")
    async with running(tmp_path / "db") as store:
        head = await store.apply(to_tree(one) | to_tree(two))
        for changes in (
            {f"jitsu/vm/{two.uuid}/ip": "127.0.1.1"},
            {f"jitsu/vm/{one.uuid}/dns/one.jitsu.test/ttl": "-1"},
            {f"jitsu/vm/{one.uuid}/{leaf}": None for leaf in ("dns/one.jitsu.test/ttl", "config/dns/0")},
            {f"jitsu/vm/{one.uuid}/stop_mode": "explode"},
            {f"jitsu/vm/{one.uuid}/ip/x": "1"},
            {"../x": "1"},
            {f"jitsu/vm/{one.uuid}/colour": "red"},
        ):
            with pytest.raises(Invalid):
                await store.apply(dict(changes))
        assert (await store.server.reader.list(List())).commit == head
        assert await store.leaves() == to_tree(one) | to_tree(two)
        assert len(store.feed.of("vm")) == 1


async def test_preconditions_hold_or_tell_the_current_value(tmp_path: Path) -> None:
    async with running(tmp_path / "db") as store:
        old = await store.apply({"a": "1", "b": "1"})
        head = await store.apply({"a": "2"})
        with pytest.raises(Conflict) as based:
            await store.apply({"a": "3"}, base=old)
        assert based.value.details == [{"path": "a", "value": "2"}]
        with pytest.raises(Conflict, match='a is "2", not "1"') as expected:
            await store.apply({"b": "9"}, expect={"a": "1", "b": "1", "c": "5"})
        assert expected.value.details == [
            {"path": "a", "expected": "1", "value": "2"},
            {"path": "c", "expected": "5", "value": None},
        ]
        assert await store.leaves() == {"a": "2", "b": "1"}
        await store.apply({"b": "9"}, base=head, expect={"a": "2", "c": None})
        assert await store.get("b") == "9"


async def test_nothing_changed_is_no_commit(tmp_path: Path) -> None:
    async with running(tmp_path / "db") as store:
        head = await store.apply({"a/b": "1"})
        assert await store.apply({"a/b": "1"}) == head


async def test_reading_says_what_is_near(tmp_path: Path) -> None:
    async with running(tmp_path / "db") as store:
        await store.apply({"a/long/path": "1"})
        assert await store.get("/a/long/path") == "1"
        with pytest.raises(NotFound, match="did you mean a/long/path"):
            await store.get("a/long/paht")
        with pytest.raises(NotFound, match="1 below it"):
            await store.get("a/long")
        with pytest.raises(NotFound, match="no branch 'nowhere'"):
            await store.get("a", "nowhere")


async def test_what_comes_at_once_lands_at_once_each_in_its_own_commit(tmp_path: Path) -> None:
    async with running(tmp_path / "db") as store:
        await store.apply({"a": "0"})
        commits = await asyncio.gather(*(store.apply({f"k{n}": str(n), "last": str(n)}) for n in range(20)))
        assert store.git("log", "--format=%H", "--reverse").split()[1:] == commits
        assert await store.get("last") == "19"
        assert int(store.git("count-objects", "-v").split("packs: ")[1].split()[0]) < 20
        assert store.git("show", f"{commits[7]}:last") == "7"
        store.git("fsck", "--strict")


async def test_a_disk_that_takes_nothing_refuses_the_whole_batch_and_readers_see_none_of_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[dict[str, str]] = []
    async with running(tmp_path / "db") as store:
        await store.apply({"a": "1", "b": "1"})

        def full(*_: Any) -> None:
            # While the disk works, readers are served what is known to be on it.
            asyncio.run_coroutine_threadsafe(look(), loop).result(5)
            raise Unavailable("the disk is full")

        async def look() -> None:
            seen.append(await store.leaves())
            seen.append({"a": await store.get("a")})

        loop = asyncio.get_running_loop()
        with monkeypatch.context() as patch:
            patch.setattr(Repository, "land", full)
            results = await asyncio.gather(
                store.apply({"a": "2", "c": "1"}),
                store.apply({"b": None, "a": "3"}),
                store.apply({"../": "x"}),
                return_exceptions=True,
            )
        assert [type(each) for each in results] == [Unavailable, Unavailable, Invalid]
        assert seen == 3 * [{"a": "1", "b": "1"}, {"a": "1"}]  # both together, then each alone
        assert await store.leaves() == {"a": "1", "b": "1"}
        await store.apply({"a": "4"})
        assert store.git("show", "master:a") == "4"


async def test_statistics_are_coalesced_into_one_commit(tmp_path: Path) -> None:
    async with running(tmp_path / "db") as store:
        for count in range(1, 100):
            store.server.record(Record(values={"jitsu/stats/v/total_starts": str(count)}, service="vmd"))
        store.server.record(Record(values={"jitsu/stats/v/dns/a/last_request_ts": "1.5"}, service="reaper"))
        await store.server.flush()
        await store.server.flush()
        assert store.git("log", "--format=%an: %s").splitlines() == ["service:reaper+vmd: Statistics"]
        assert await store.get("jitsu/stats/v/total_starts") == "99"
        assert len(store.feed.of("stats")) == 1
        with pytest.raises(Refused):
            store.server.record(Record(values={"jitsu/vm/v/ip": "1"}, service="vmd"))


async def test_statistics_that_the_disk_did_not_take_wait_for_the_next_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with running(tmp_path / "db") as store:
        store.server.record(Record(values={"jitsu/stats/v/total_starts": "1"}, service="vmd"))

        def full(*_: Any) -> None:
            raise Unavailable("the disk is full")

        with monkeypatch.context() as patch:
            patch.setattr(Repository, "land", full)
            with pytest.raises(Unavailable):
                await store.server.flush()
        await store.server.flush()
        assert await store.get("jitsu/stats/v/total_starts") == "1"


async def test_the_log_can_be_of_one_path_and_of_one_branch(tmp_path: Path) -> None:
    async with running(tmp_path / "db") as store:
        for number in range(5):
            await store.apply({f"a/{number % 2}": str(number)})
        await store.branch("try")
        await store.apply({"a/1": "9"}, "try")
        assert len((await store.server.reader.log(Log())).commits) == 5
        assert len((await store.server.reader.log(Log(path="a/1"))).commits) == 2
        assert len((await store.server.reader.log(Log(path="a/1", branch="try"))).commits) == 3
        assert len((await store.server.reader.log(Log(limit=3))).commits) == 3


async def test_a_branch_is_apart_until_it_is_merged(tmp_path: Path) -> None:
    async with running(tmp_path / "db") as store:
        await store.apply({"a": "1", "b": "1"})
        await store.branch("try")
        await store.apply({"a": "2", "c": "3"}, "try")
        assert (await store.get("a"), await store.get("a", "try")) == ("1", "2")
        found = await store.server.reader.diff(Diff(old="master", new="try"))
        assert {(each.path, each.old, each.value) for each in found.changes} == {("a", "1", "2"), ("c", None, "3")}
        await store.apply({"b": "5"})
        assert (await store.merge("try")).changed == 2
        assert await store.leaves() == {"a": "2", "b": "5", "c": "3"}
        assert store.git("log", "-1", "--format=%s %p").split()[:4] == ["Merge", "try", "into", "master"]
        assert len(store.git("log", "-1", "--format=%p").split()) == 2
        assert (await store.merge("try")).changed == 0
        listed = await store.server.reader.list_branches(ListBranches())
        assert [each.name for each in listed.branches] == ["master", "try"]
        await store.server.delete_branch(DeleteBranch(name="try", author=ME))
        with pytest.raises(NotFound):
            await store.get("a", "try")
        with pytest.raises(Refused):
            await store.server.delete_branch(DeleteBranch(name="master", author=ME))
        assert store.feed.of("heads")[-1] == HeadMoved(branch="try", commit="")


@pytest.mark.parametrize("name", ["", "a b", "a..b", "-x", "master/x", "x.lock", "\0"])
async def test_a_name_that_cannot_be_a_branch_is_refused(tmp_path: Path, name: str) -> None:
    async with running(tmp_path / "db") as store:
        await store.apply({"a": "1"})
        with pytest.raises(BadRequest):
            await store.branch(name)


async def test_branches_of_different_vms_merge_in_any_order_to_one_tree(tmp_path: Path) -> None:
    one, two = make_vm("one", "127.0.1.1"), make_vm("two", "127.0.1.2")
    trees = []
    for order in (("x", "y"), ("y", "x")):
        async with running(tmp_path / order[0]) as store:
            await store.apply(to_tree(one) | to_tree(two))
            await store.branch("x")
            await store.branch("y")
            await store.apply({f"jitsu/vm/{one.uuid}/ip": "127.0.1.8"}, "x")
            await store.apply({f"jitsu/vm/{two.uuid}/ip": "127.0.1.9"}, "y")
            for branch in order:
                await store.merge(branch)
            trees.append(store.git("rev-parse", "master^{tree}"))
    assert trees[0] == trees[1]


async def test_one_value_set_differently_is_refused_with_both_and_nothing_of_it_lands(tmp_path: Path) -> None:
    vm = make_vm("one", "127.0.1.1")
    ip, delay = f"jitsu/vm/{vm.uuid}/ip", f"jitsu/vm/{vm.uuid}/response_delay"
    async with running(tmp_path / "db") as store:
        await store.apply(to_tree(vm))
        await store.branch("try")
        await store.apply({ip: "127.0.1.8", delay: "0.7"}, "try")
        await store.apply({ip: "127.0.1.9"})
        with pytest.raises(Conflict, match=r'it was "127.0.1.1", master has "127.0.1.9", try "127.0.1.8"') as refused:
            await store.merge("try")
        assert refused.value.details == [{"path": ip, "base": "127.0.1.1", "ours": "127.0.1.9", "theirs": "127.0.1.8"}]
        assert await store.get(delay) == "0.1"
        # The way out that the hint names.
        await store.apply({ip: "127.0.1.9"}, "try")
        await store.merge("try")
        assert (await store.get(ip), await store.get(delay)) == ("127.0.1.9", "0.7")


async def test_a_merge_that_would_give_two_vms_one_address_names_both(tmp_path: Path) -> None:
    one, two = make_vm("one", "127.0.1.1"), make_vm("two", "127.0.1.2")
    async with running(tmp_path / "db") as store:
        await store.apply(to_tree(one) | to_tree(two))
        await store.branch("try")
        await store.apply({f"jitsu/vm/{one.uuid}/ip": "127.0.1.7"}, "try")
        await store.apply({f"jitsu/vm/{two.uuid}/ip": "127.0.1.7"})
        with pytest.raises(Invalid, match=r"\(one\): ip: 127.0.1.7 belongs to the VM two already"):
            await store.merge("try")
        with pytest.raises(Invalid, match="belongs to the VM one already"):  # a branch is held to the same rules
            await store.apply({f"jitsu/vm/{two.uuid}/ip": "127.0.1.7"}, "try")
        await store.apply({f"jitsu/vm/{two.uuid}/ip": "127.0.1.1"}, "try")  # which is free there
        assert await store.get(f"jitsu/vm/{one.uuid}/ip") == "127.0.1.1"


async def test_counters_on_a_branch_add_up(tmp_path: Path) -> None:
    counter = "jitsu/stats/v/total_starts"
    async with running(tmp_path / "db") as store:
        await store.apply({counter: "10"})
        await store.branch("try")
        await store.apply({counter: "13"}, "try")
        await store.apply({counter: "15"})
        await store.merge("try")
        assert await store.get(counter) == "18"
        await store.merge("try")  # nothing new on it: nothing is added twice
        assert await store.get(counter) == "18"


async def test_a_vm_changes_itself_by_a_branch_and_nothing_else(tmp_path: Path) -> None:
    one, two = make_vm("one", "127.0.1.1"), make_vm("two", "127.0.1.2")
    who = f"vm:{one.uuid}"
    async with running(tmp_path / "db") as store:
        await store.apply(to_tree(one) | to_tree(two))
        with pytest.raises(Refused, match="branches that begin with its uuid"):
            await store.apply({f"jitsu/vm/{one.uuid}/ip": "127.0.1.8"}, who=who)
        with pytest.raises(Refused):
            await store.branch("mine", who=who)
        await store.branch(one.uuid, who=who)
        await store.apply({f"jitsu/vm/{one.uuid}/response_delay": "0.3"}, one.uuid, who)
        for leaf in ("ip", "config/script/0", "config/dns/0", "dns/two.jitsu.test/ttl"):
            with pytest.raises(Refused, match="a VM may not"):
                await store.apply({f"jitsu/vm/{one.uuid}/{leaf}": "/tmp/x"}, one.uuid, who)
        with pytest.raises(Refused, match="only below"):
            await store.apply({f"jitsu/vm/{two.uuid}/ip": "127.0.1.9"}, one.uuid, who)
        assert (await store.merge(one.uuid, who=who)).changed == 1
        assert await store.get(f"jitsu/vm/{one.uuid}/response_delay") == "0.3"
        await store.apply({f"jitsu/vm/{one.uuid}/config/dns/1": "other.test"}, one.uuid)  # an operator, on its branch
        with pytest.raises(Refused, match="may not have the name"):
            await store.apply({f"jitsu/vm/{one.uuid}/dns/other.test/ttl": "5"}, one.uuid, who)  # not its name on master
        with pytest.raises(Refused, match="may not change its dns"):
            await store.merge(one.uuid, who=who)
        await store.apply({f"jitsu/vm/{two.uuid}/ip": "127.0.1.9"}, one.uuid)  # an operator puts something on it
        with pytest.raises(Refused, match="only below"):
            await store.merge(one.uuid, who=who)
        with pytest.raises(Refused, match="only an operator may push"):
            await store.server.push(Push(remote="x", author=who))


async def test_statistics_go_on_after_one_that_could_not_be_committed(tmp_path: Path) -> None:
    async with running(tmp_path / "db") as store:
        for path, value in (
            ("jitsu/stats/total_requests", "1"),
            ("jitsu/stats/v/dns/a/total_requests", "x" * 1_200_000),
        ):
            with pytest.raises(Refused):
                store.server.record(Record(values={f"jitsu/stats/{path}": value}, service="reaper"))
        store.server.record(Record(values={"jitsu/stats/v/dns/a/total_requests": "7"}, service="reaper"))
        await store.server.flush()
        assert await store.get("jitsu/stats/v/dns/a/total_requests") == "7"


async def test_statistics_of_vms_that_there_are_not_have_a_bound(tmp_path: Path) -> None:
    one = make_vm("one", "127.0.1.1")
    async with running(tmp_path / "db") as store:
        await store.apply(dict(to_tree(one)))
        made_up = {f"jitsu/stats/nobody-{n}/total_starts": "1" for n in range(1500)}
        for _ in range(2):
            store.server.record(Record(values=made_up, service="vmd"))
            await store.server.flush()
        store.server.record(Record(values={"jitsu/stats/nobody/total_starts": "1"}, service="vmd"))
        store.server.record(Record(values={f"jitsu/stats/{one.uuid}/total_starts": "1"}, service="vmd"))
        await store.server.flush()
        assert await store.get(f"jitsu/stats/{one.uuid}/total_starts") == "1"
        with pytest.raises(NotFound):
            await store.get("jitsu/stats/nobody/total_starts")


async def test_pages_are_cut_by_bytes_and_a_vm_too_large_for_one_keeps_no_others_from_it(tmp_path: Path) -> None:
    vms = [make_vm(f"vm{n}", f"127.0.1.{n}", cmdline="c" * 4000) for n in range(1, 6)]
    async with running(tmp_path / "db") as store:
        for vm in vms:
            await store.apply(dict(to_tree(vm)))
    large = sorted(vm.uuid for vm in vms)[2]
    write_with_git(tmp_path / "db", f"jitsu/vm/{large}/config/kernel/0", "x" * 5_000_000)
    async with running(tmp_path / "db") as store:
        found: dict[str, str] = {}
        page = await store.server.reader.list(List(prefix="jitsu/vm", limit=100_000))
        found |= page.leaves
        while page.upto:
            page = await store.server.reader.list(List(prefix="jitsu/vm", limit=100_000, after=page.upto))
            found |= page.leaves
        assert {path.split("/")[2] for path in found} == {vm.uuid for vm in vms} - {large}


async def test_a_vm_that_cannot_be_used_is_noted_in_status(tmp_path: Path) -> None:
    one, two = make_vm("one", "127.0.1.1"), make_vm("two", "127.0.1.2")
    async with running(tmp_path / "db") as store:
        await store.apply(to_tree(one) | to_tree(two))
        assert store.server.notes() == []
    ip = f"jitsu/vm/{one.uuid}/ip"
    write_with_git(tmp_path / "db", ip, "fe80::1%eth0")
    async with running(tmp_path / "db") as store:
        await store.apply({"a": "1"})  # changes wait until a store that starts has looked at all VMs
        (note,) = store.server.notes()
        assert note.startswith(f"VM one ({one.uuid}) is left out: ip: 'fe80::1%eth0' has a scope")
        await store.apply({f"jitsu/vm/{two.uuid}/response_delay": "0.5"})
        await store.apply({ip: "127.0.1.7"})
        assert store.server.notes() == []


async def test_a_watcher_that_was_away_gets_each_commit_once_and_in_order(tmp_path: Path) -> None:
    async with running(tmp_path / "db") as store:
        seen = await store.apply({"a/x": "0", "b": "0"})
        for number in range(1, 8):
            await store.apply({"a/x" if number % 2 else "b": str(number)})
        await store.branch("try")
        await store.apply({"a/y": "1"}, "try")
        await store.apply({"a/z": "1"}, "try")
        await store.apply({"b": "9"})
        await store.merge("try")
    async with running(tmp_path / "db") as store:
        told, more = [], True
        while more:
            page = await store.server.reader.changes_since(ChangesSince(since=seen, prefix="a", limit=3))
            told += [{c.path: (c.old, c.value) for c in each.changes} for each in page.commits]
            seen, more = page.upto, page.more
        assert told == [
            {"a/x": ("0", "1")},
            {"a/x": ("1", "3")},
            {"a/x": ("3", "5")},
            {"a/x": ("5", "7")},
            {"a/y": (None, "1"), "a/z": (None, "1")},
        ]
        assert (await store.server.reader.changes_since(ChangesSince(since=seen))).commits == []
        with pytest.raises(Conflict, match="not in the history"):
            await store.server.reader.changes_since(ChangesSince(since=seen, branch="try"))


async def test_history_goes_to_another_repository_and_comes_from_it(tmp_path: Path) -> None:
    git(tmp_path, "init", "-q", "--bare", "-b", "master", "other.git")
    remote = str(tmp_path / "other.git")
    async with running(tmp_path / "db") as store, running(tmp_path / "db2") as second:
        await store.apply({"a": "1", "b": "1"})
        await store.server.push(Push(remote=remote, author=ME))
        assert git(tmp_path / "other.git", "show", "master:a") == "1"
        await second.server.fetch(Fetch(remote=remote, into="theirs", author=ME))
        assert await second.leaves() == {}, "nothing that runs has changed"
        assert (await second.server.reader.list(List(branch="theirs"))).leaves == {"a": "1", "b": "1"}
        with pytest.raises(Refused):
            await second.server.fetch(Fetch(remote=remote, into="again", author=f"vm:{make_vm().uuid}"))
        await second.server.pull(Pull(remote=remote, author=ME, request=""))
        assert await second.leaves() == {"a": "1", "b": "1"}
        await second.apply({"a": "2"})
        await second.server.push(Push(remote=remote, author=ME))
        await store.apply({"b": "2"})
        with pytest.raises(Conflict, match=r"has commits that are not here .*jitsu pull"):
            await store.server.push(Push(remote=remote, author=ME))
        await store.server.pull(Pull(remote=remote, author=ME, request=""))
        assert await store.leaves() == {"a": "2", "b": "2"}
        await store.server.push(Push(remote=remote, author=ME))
        await second.apply({"b": "3"})
        with pytest.raises(Conflict, match='b: it was "1", master has "3"'):
            await second.server.pull(Pull(remote=remote, author=ME, request=""))
        with pytest.raises(Unavailable):
            await store.server.push(Push(remote=str(tmp_path / "nowhere"), author=ME))
        store.git("fsck", "--strict")


@pytest.mark.parametrize("scheme", ["git", "http", "ssh"])
async def test_a_remote_that_is_silent_is_left_and_another_has_its_turn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, scheme: str
) -> None:
    monkeypatch.setattr("jitsu_store.wires.remotes.SILENT_LIMIT_MS", 200)
    git(tmp_path, "init", "-q", "--bare", "-b", "master", "other.git")
    async with running(tmp_path / "db") as store:
        await store.apply({"a": "1"})
        with socket.create_server(("127.0.0.1", 0)) as silent:
            remote = f"{scheme}://127.0.0.1:{silent.getsockname()[1]}/x"
            with pytest.raises(Unavailable, match=r"(?i)timed out"):
                await store.server.push(Push(remote=remote, author=ME))
        await store.server.push(Push(remote=str(tmp_path / "other.git"), author=ME))
    assert git(tmp_path / "other.git", "show", "master:a") == "1"


async def test_a_branch_that_another_program_has_moved_is_not_overwritten(tmp_path: Path) -> None:
    async with running(tmp_path / "db") as store:
        first = await store.apply({"a": "1"})
        await store.apply({"a": "2"})
        store.git("update-ref", "refs/heads/master", first)
        with pytest.raises(Conflict, match="another program has moved the branch master"):
            await store.apply({"a": "3"})
        assert store.git("rev-parse", "master").strip() == first
        assert await store.get("a") == "2"


async def test_packing_changes_nothing_that_can_be_seen(tmp_path: Path) -> None:
    async with running(tmp_path / "db") as store:
        await store.apply({f"jitsu/x/{n:04}/y": str(n) for n in range(600)})
        for number in range(70):
            await store.apply({f"jitsu/x/{number * 7:04}/y": f"n{number}"})
        history = store.git("log", "-p", "--format=%H %s")
        assert RepackPass(tmp_path / "db").work(quiet=False) >= 64
        store.server.repacked()
        await store.apply({"jitsu/z": "1"})
        assert RepackPass(tmp_path / "db").work(quiet=True) > 1
        assert RepackPass(tmp_path / "db").work(quiet=True) == 0
        assert len(list((tmp_path / "db" / "objects" / "pack").iterdir())) == 2
        assert store.git("log", "-p", "--format=%H %s", "master~1") == history
        store.git("fsck", "--strict")
        assert await store.get("jitsu/x/0007/y") == "n1"
        assert len((await store.server.reader.log(Log(limit=100))).commits) == 72


async def test_a_missing_object_is_named_when_somebody_needs_it_and_at_the_next_start(tmp_path: Path) -> None:
    async with running(tmp_path / "db") as store:
        await store.apply({"a": "1"})
        await store.branch("old")
        await store.apply({"a": "2"})
        missing = store.git("rev-parse", "old").strip()
        packs = sorted((tmp_path / "db" / "objects" / "pack").glob("*.idx"), key=lambda path: path.stat().st_mtime_ns)
        for suffix in (".idx", ".pack"):
            packs[0].with_suffix(suffix).unlink()
        assert await store.get("a") == "2"
        with pytest.raises(Unavailable, match=rf"{missing}.* is missing or damaged.*git fsck"):
            await store.get("a", "old")
        with pytest.raises(Unavailable, match="missing or damaged"):
            await store.server.reader.log(Log())
        await store.apply({"a": "3"})  # what does not need it goes on
    with pytest.raises(Unavailable, match=missing):
        async with running(tmp_path / "db"):
            pass
