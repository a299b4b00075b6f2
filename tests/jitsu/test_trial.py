"""A pull's branch while somebody thinks at the prompt: over a real store, without its sockets."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import pytest

from jitsu.trial import Fetched, fetched, tried
from jitsu_protocol.messages import ListBranches, Push
from jitsu_protocol.model.errors import Conflict
from jitsu_store.rules.scratch import LEASE_S
from tests.support.store import ME, Store, git, running

if TYPE_CHECKING:
    from pathlib import Path

    from jitsu.link import Link
    from jitsu_protocol.messages import Request


class DirectLink:
    """Calls the handlers of a store."""

    def __init__(self, store: Store) -> None:
        self._handlers: dict[Any, Any] = dict(store.server.handlers())

    async def call(self, owner: str, request: Request, reply: type[Any], timeout: float = 0) -> Any:
        assert owner == "store"
        answer = await self._handlers[type(request)](request)
        assert isinstance(answer, reply)
        return answer


async def branches(store: Store) -> list[str]:
    return [each.name for each in (await store.server.reader.list_branches(ListBranches())).branches]


async def test_what_a_pull_fetched_can_be_merged_though_somebody_thought_for_an_hour(tmp_path: Path) -> None:
    git(tmp_path, "init", "-q", "--bare", "-b", "master", "other.git")
    remote = str(tmp_path / "other.git")
    async with running(tmp_path / "db") as store, running(tmp_path / "db2") as other:
        await other.apply({"a": "1"})
        await other.server.push(Push(remote=remote, author=ME))
        link = cast("Link", DirectLink(store))
        store.world.time.says = 1000.0
        async with fetched(link, remote, "master", ME, 60) as theirs:
            assert [(each.path, each.value) for each in await tried(link, theirs.name, "master", ME)] == [("a", "1")]
            store.world.time.says = 1000 + LEASE_S
            await store.server.delete_old_scratch()
            assert await branches(store) == []
            await theirs.keep(link, ME)
            assert await branches(store) == [theirs.name]
            await store.merge(theirs.name)
            assert await store.get("a") == "1"
        assert await branches(store) == ["master"]


async def test_a_pull_whose_commit_is_gone_is_refused_and_says_what_to_do(tmp_path: Path) -> None:
    async with running(tmp_path / "db") as store:
        await store.apply({"a": "1"})
        link = cast("Link", DirectLink(store))
        with pytest.raises(Conflict, match="is no longer in the store, so nothing is changed") as refused:
            await Fetched("pull-1", "12" * 20).keep(link, ME)
        assert refused.value.hint == "pull again"
        await store.branch("pull-2")  # by whom ever: it is not what was looked at
        with pytest.raises(Conflict, match="there is a branch pull-2 already"):
            await Fetched("pull-2", await store.apply({"a": "2"})).keep(link, ME)


async def test_the_branches_of_a_trial_go_though_its_command_is_killed(tmp_path: Path) -> None:
    async with running(tmp_path / "db") as store:
        await store.apply({"a": "1"})
        await store.branch("theirs")
        await store.apply({"b": "1"}, "theirs")
        store.world.time.says = 1000.0
        link = DirectLink(store)
        call = link.call
        seen: list[str] = []

        async def dies(owner: str, request: Request, reply: type[Any], timeout: float = 0) -> Any:
            if seen:
                raise ConnectionError  # as kill -9: nothing of this command reaches the store any more
            seen.extend([name for name in await branches(store) if name.startswith("trial-")])
            return await call(owner, request, reply, timeout)

        link.call = dies  # type: ignore[method-assign]
        with pytest.raises(ConnectionError):
            await tried(cast("Link", link), "theirs", "master", ME)
        assert len(await branches(store)) == 3
        store.world.time.says = 1000 + LEASE_S
        await store.server.delete_old_scratch()
        assert await branches(store) == ["master", "theirs"]
