"""A store over a real repository, without its sockets."""

from __future__ import annotations

import os
import subprocess
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jitsu_protocol.messages import Applied, Apply, Change, CreateBranch, List, Merge, Read
from jitsu_store.wires.disk import DiskStorage
from jitsu_store.wires.feeds import FEEDS
from jitsu_store.wires.server import StoreServer
from tests.support.world import PlayedWorld, played_world

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping

    from jitsu_store.wires.storage import Storage

ME = "operator:me"
NOWHERE = Path("/nowhere")


class Store:
    """A store that runs, with shorter words for what the tests ask of it."""

    def __init__(self, world: PlayedWorld, storage: Storage, path: Path = NOWHERE) -> None:
        """`path` is the repository's, for git."""
        self.path, self.world = path, world
        self.feed = world.publish(*FEEDS)
        self.server = StoreServer(world, storage, self.feed)

    async def apply(self, changes: Mapping[str, str | None], branch: str = "master", who: str = ME, **more: Any) -> str:
        listed = [Change(path=path, value=value) for path, value in changes.items()]
        more.setdefault("request", "")
        reply = await self.server.apply(Apply(changes=listed, author=who, message="Why", branch=branch, **more))
        assert isinstance(reply, Applied)
        return reply.commit

    async def branch(self, name: str, start: str = "master", who: str = ME) -> None:
        await self.server.create_branch(CreateBranch(name=name, start=start, author=who))

    async def merge(self, branch: str, into: str = "master", who: str = ME) -> Applied:
        reply = await self.server.merge(Merge(branch=branch, into=into, author=who, request=""))
        assert isinstance(reply, Applied)
        return reply

    async def get(self, path: str, branch: str = "master") -> str:
        return (await self.server.reader.read(Read(path=path, branch=branch))).value

    async def leaves(self, branch: str = "master") -> dict[str, str]:
        return (await self.server.reader.list(List(branch=branch))).leaves

    def git(self, *arguments: str) -> str:
        return git(self.path, *arguments)


@asynccontextmanager
async def running(path: Path, says: float | None = None) -> AsyncIterator[Store]:
    """Run a store, and end it as kill -9 would: nothing is flushed. `says` is what time it is there."""
    async with running_on(DiskStorage(path), path, says) as store:
        yield store


@asynccontextmanager
async def running_on(storage: Storage, path: Path = NOWHERE, says: float | None = None) -> AsyncIterator[Store]:
    """Run a store on any storage, and end it as kill -9 would."""
    store: Store | None = None
    try:
        async with played_world("store") as world:
            world.time.says = says
            store = Store(world, storage, path)
            world.spawn(store.server.commit_for_ever())
            yield store
    except ExceptionGroup as raised:
        if len(raised.exceptions) == 1:
            raise raised.exceptions[0] from None  # as a process of its own would end with it
        raise
    finally:
        if store is not None:
            store.server.close()
        storage.close()


def git(path: Path, *arguments: str) -> str:
    command = ["git", "-c", "safe.directory=*", "-C", str(path), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def write_with_git(path: Path, leaf: str, value: str) -> None:
    """Set a leaf of master as somebody does who edits the repository with stock git."""
    index = {"GIT_INDEX_FILE": str(path / "index-of-a-test"), "GIT_AUTHOR_NAME": "x", "GIT_AUTHOR_EMAIL": "x@x"}
    index |= {"GIT_COMMITTER_NAME": "x", "GIT_COMMITTER_EMAIL": "x@x"}

    def run(*arguments: str, given: str = "") -> str:
        command = ["git", "-c", "safe.directory=*", "-C", str(path), *arguments]
        environ = {**os.environ, **index}
        done = subprocess.run(command, input=given, capture_output=True, text=True, check=True, env=environ)
        return done.stdout.strip()

    run("read-tree", "master")
    run("update-index", "--add", "--cacheinfo", f"100644,{run('hash-object', '-w', '--stdin', given=value)},{leaf}")
    commit = run("commit-tree", run("write-tree"), "-p", "master", "-m", "by hand")
    run("update-ref", "refs/heads/master", commit)
    (path / "index-of-a-test").unlink()
