"""Push and pull: a process for each transfer (transfer.py), with limits for its time, its memory and its files.

    store                     transfer process                            the other repository
      |-- what, from where ------>|
      |                           |<---- trees, blobs, commits --------------- |
      |                           | checked, on the disk, in a directory of its own
      |<-- commit, or why not ----|
      | packs moved into the store, then merged like any branch

A transfer that takes longer than TRANSFER_LIMIT_S is ended, and so is one whose store ends. What it has written is then
removed, at the latest when the store starts again.
"""

from __future__ import annotations

import asyncio
import json
import shutil
import sys
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Any

from jitsu_protocol.model.errors import Conflict, Invalid, JitsuError, NotFound, Unavailable
from jitsu_store.git.files import INCOMING, take_packs

TRANSFER_LIMIT_S = 300.0
"""Half as long as the command line waits."""
CONNECT_LIMIT_MS, SILENT_LIMIT_MS = 10_000, 60_000
MAX_FETCHED_BYTES = 1024**3
MAX_FETCH_MEMORY = 512 * 1024**2
MAX_PUSH_MEMORY = 2 * 1024**3
"""For our own history: libgit2 looks for differences among its objects."""
MAX_ANSWER_BYTES = 64 * 1024
MAX_TRANSFERS = 2
"""How many at a time, so that one slow remote does not block another."""
_ERRORS: dict[str, type[JitsuError]] = {each.code: each for each in (Conflict, Invalid, NotFound, Unavailable)}


class TransferProcesses:
    """Other repositories: see `Remotes` in storage.py."""

    def __init__(self, store: Path, *, durable: bool = True) -> None:
        self._store = store
        self._durable = durable
        self._turns = asyncio.Semaphore(MAX_TRANSFERS)

    async def push(self, remote: str, branch: str) -> bytes:
        """Send a branch to another repository, and return its commit; raises Conflict if that would lose commits."""
        async with self._turns:
            return await self._transfer(remote, branch, "", MAX_PUSH_MEMORY)

    async def fetch(self, remote: str, branch: str) -> bytes:
        """Bring a branch of another repository here, and return its latest commit."""
        async with self._turns:
            incoming = Path(tempfile.mkdtemp(prefix=INCOMING, dir=self._store))
            try:
                commit = await self._transfer(remote, branch, str(incoming), MAX_FETCH_MEMORY)
                await asyncio.to_thread(take_packs, incoming, self._store, durable=self._durable)
            except OSError as error:
                raise Unavailable(f"what {remote} has sent cannot be kept: {error}", hint="is the disk full?") from None
            finally:
                # On a thread: thousands of files take a while, during which nobody else would be answered.
                await asyncio.to_thread(shutil.rmtree, incoming, ignore_errors=True)
        return commit

    async def _transfer(self, remote: str, branch: str, incoming: str, max_memory: int) -> bytes:
        asked = {
            "store": str(self._store),
            "incoming": incoming,
            "remote": remote,
            "branch": branch,
            "connect_limit_ms": CONNECT_LIMIT_MS,
            "silent_limit_ms": SILENT_LIMIT_MS,
            "max_bytes": MAX_FETCHED_BYTES,
            "max_memory": max_memory,
        }
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "jitsu_store.wires.transfer",
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            limit=MAX_ANSWER_BYTES,
        )
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            async with asyncio.timeout(TRANSFER_LIMIT_S):
                process.stdin.write(json.dumps(asked).encode() + b"\n")
                line = await process.stdout.readline()
        except TimeoutError:
            raise Unavailable(
                f"the transfer with {remote} took longer than {TRANSFER_LIMIT_S:g} s",
                hint="is it slow, or very large? Clone a large history with git, and start the store on the clone",
            ) from None
        finally:
            with suppress(ProcessLookupError):
                process.kill()
            await process.wait()
        return _commit(line, remote)


def _commit(line: bytes, remote: str) -> bytes:
    """Return the commit that a transfer has answered with, or raise the error that it reports."""
    if not line:
        raise Invalid(
            f"{remote} was not accepted: the process that reads it has crashed, or was ended for using too much memory",
            hint="nothing of it has been merged; clone it with git to look at it",
        )
    answer: dict[str, Any] = json.loads(line)
    if "commit" in answer:
        return bytes.fromhex(answer["commit"])
    raise _ERRORS[answer["code"]](answer["message"], hint=answer.get("hint", ""))
