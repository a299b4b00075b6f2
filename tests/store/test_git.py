"""The repository, and the server's rules over it, with stock git as the judge."""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from jitsu_protocol.errors import Conflict, Invalid, NotFound, Refused, SetupFault
from jitsu_protocol.feed import Publisher
from jitsu_protocol.messages import Apply, Change, Committed, List, Log, Message, Read, Record
from jitsu_protocol.metrics import Metrics
from jitsu_protocol.vm import to_tree
from jitsu_store.wires.git import GitRepository
from jitsu_store.wires.server import StoreServer
from tests.support.vms import make_vm

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path


class KeptFeed:
    """Keeps what would be published."""

    def __init__(self) -> None:
        self.feeds = {"vm": Publisher("e"), "stats": Publisher("e")}
        self.items: list[tuple[str, Message]] = []

    def publish(self, topic: str, body: Message) -> None:
        self.feeds[topic].item(body)
        self.items.append((topic, body))


def server(path: Path) -> tuple[StoreServer, KeptFeed]:
    feed: Any = KeptFeed()
    return StoreServer(GitRepository(path), feed, Metrics("store")), feed


def apply(store: StoreServer, changes: Mapping[str, str | None], request: str = "", base: str = "") -> str:
    listed = [Change(path=path, value=value) for path, value in changes.items()]
    wanted = Apply(changes=listed, author="me", message="Why", request=request or str(changes), base=base)
    return store.apply(wanted).commit


def git(path: Path, *arguments: str) -> str:
    command = ["git", "-c", "safe.directory=*", "-C", str(path), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def test_what_is_applied_is_a_commit_that_git_can_read(tmp_path: Path) -> None:
    store, feed = server(tmp_path / "db")
    vm = make_vm()
    commit = apply(store, dict(to_tree(vm)), request="r1")
    assert git(tmp_path / "db", "show", f"master:jitsu/vm/{vm.uuid}/ip") == "127.0.1.1"
    assert git(tmp_path / "db", "log", "-1", "--format=%H|%an|%s|%(trailers:key=Request-Id,valueonly)").strip() == (
        f"{commit}|me|Why|r1"
    )
    git(tmp_path / "db", "fsck", "--strict")
    ((topic, item),) = feed.items
    assert topic == "vm"
    assert isinstance(item, Committed)
    assert {change.path: change.value for change in item.changes} == to_tree(vm)


def test_g5_a_new_process_finds_what_was_acknowledged(tmp_path: Path) -> None:
    store, _ = server(tmp_path / "db")
    vm = make_vm()
    commit = apply(store, dict(to_tree(vm)))
    again, _ = server(tmp_path / "db")
    listed = again.list(List())
    assert (listed.leaves, listed.commit) == (to_tree(vm), commit)


def test_a_request_that_is_sent_twice_is_one_commit_even_after_a_restart(tmp_path: Path) -> None:
    store, _ = server(tmp_path / "db")
    first = apply(store, {"a/b": "1"}, request="r1")
    second = apply(store, {"a/b": "2"}, request="r2")
    assert apply(store, {"a/b": "1"}, request="r1") == first
    again, _ = server(tmp_path / "db")
    assert apply(again, {"a/b": "1"}, request="r1") == first
    assert again.read(Read(path="a/b")).value == "2"
    assert again.list(List()).commit == second


async def test_a_refused_change_changes_nothing(tmp_path: Path) -> None:
    store, feed = server(tmp_path / "db")
    one, two = make_vm("one", "127.0.1.1"), make_vm("two", "127.0.1.2")
    head = apply(store, to_tree(one) | to_tree(two))
    for changes in (
        {f"jitsu/vm/{two.uuid}/ip": "127.0.1.1"},
        {f"jitsu/vm/{one.uuid}/dns/one.jitsu.test/ttl": "-1"},
        {f"jitsu/vm/{one.uuid}/ip/x": "1"},
        {"../x": "1"},
        {f"jitsu/vm/{one.uuid}/colour": "red"},
    ):
        with pytest.raises(Invalid):
            apply(store, dict(changes))
    with pytest.raises(Conflict, match="not at"):
        apply(store, {"a": "1"}, base="0" * 40)
    assert store.list(List()).commit == head
    assert len(feed.items) == 1
    assert apply(store, {f"jitsu/vm/{two.uuid}/ip": "127.0.1.3"}, base=head) != head


async def test_nothing_changed_is_no_commit(tmp_path: Path) -> None:
    store, _ = server(tmp_path / "db")
    head = apply(store, {"a/b": "1"})
    assert apply(store, {"a/b": "1"}, request="other") == head


def test_reading_says_what_is_near(tmp_path: Path) -> None:
    store, _ = server(tmp_path / "db")
    apply(store, {"a/long/path": "1"})
    assert store.read(Read(path="/a/long/path")).value == "1"
    with pytest.raises(NotFound, match="did you mean a/long/path"):
        store.read(Read(path="a/long/paht"))
    with pytest.raises(NotFound, match="1 below it"):
        store.read(Read(path="a/long"))


def test_statistics_are_coalesced_into_one_commit(tmp_path: Path) -> None:
    store, feed = server(tmp_path / "db")
    for count in range(1, 100):
        store.record(Record(values={"jitsu/stats/v/total_starts": str(count)}, service="vmd"))
    store.record(Record(values={"jitsu/stats/v/start_ts": "1.5"}, service="reaper"))
    store.flush()
    store.flush()
    assert git(tmp_path / "db", "log", "--format=%an: %s").splitlines() == ["reaper vmd: Statistics"]
    assert store.read(Read(path="jitsu/stats/v/total_starts")).value == "99"
    assert [topic for topic, _ in feed.items] == ["stats"]
    with pytest.raises(Refused):
        store.record(Record(values={"jitsu/vm/v/ip": "1"}, service="vmd"))


async def test_the_log_can_be_of_one_path(tmp_path: Path) -> None:
    store, _ = server(tmp_path / "db")
    for number in range(5):
        apply(store, {f"a/{number % 2}": str(number)})
    assert len((await store.log(Log())).commits) == 5
    assert len((await store.log(Log(path="a/1"))).commits) == 2
    assert len((await store.log(Log(limit=3))).commits) == 3


def test_a_directory_that_is_no_repository_is_refused_and_left_alone(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("precious")
    with pytest.raises(SetupFault, match="must be a Git repository"):
        GitRepository(tmp_path)
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]


paths = st.lists(st.sampled_from("abc"), min_size=1, max_size=3).map("/".join)
steps = st.lists(st.tuples(paths, st.none() | st.sampled_from(["1", "2", ""])), max_size=25)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
@given(steps)
def test_the_repository_is_what_a_dictionary_would_be(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[str, str | None]]
) -> None:
    path = tmp_path_factory.mktemp("db")
    store, _ = server(path)
    model: dict[str, str] = {}
    for number, (leaf, value) in enumerate(steps):
        try:
            apply(store, {leaf: value}, request=str(number))
        except Invalid:
            continue
        if value is None:
            model.pop(leaf, None)
        else:
            model[leaf] = value
        assert store.list(List()).leaves == model
    assert GitRepository(path).leaves() == model
    git(path, "fsck", "--strict")
