"""Blocking calls on threads: each has its own, up to a number; one that hangs keeps the process from nothing."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading

import pytest

from jitsu_protocol.errors import Unavailable
from jitsu_vmd.wires import threads
from jitsu_vmd.wires.threads import Threads

HANGS = """
import asyncio, time
from jitsu_vmd.wires.threads import Threads

async def main():
    calls = [Threads("x", lambda _: None).run(lambda: time.sleep(600)) for _ in range(2)]
    await asyncio.sleep(0.1)
    print("ends")

asyncio.run(main())
"""


def made() -> Threads:
    return Threads("x", lambda error: Unavailable("translated") if isinstance(error, OSError) else None)


def raises(error: Exception) -> None:
    raise error


async def test_what_is_done_and_raised_comes_back() -> None:
    pool = made()
    assert await pool.run(lambda: 7) == 7
    with pytest.raises(Unavailable, match="translated"):
        await pool.run(lambda: raises(OSError()))
    with pytest.raises(ZeroDivisionError):
        await pool.run(lambda: raises(ZeroDivisionError()))
    assert await pool.run(lambda: 8) == 8


async def test_one_that_is_idle_is_used_again() -> None:
    pool, seen = made(), set()
    for _ in range(20):
        seen.add(await pool.run(threading.get_ident))
        await asyncio.sleep(0.01)  # it is idle again
    assert len(seen) == 1


async def test_so_many_at_once_and_the_others_wait_for_their_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(threads, "MAX_THREADS", 3)
    pool, goes_on, running = made(), threading.Event(), threading.Semaphore(0)

    def work() -> int:
        running.release()
        goes_on.wait(20)
        return threading.get_ident()

    calls = [pool.run(work) for _ in range(10)]
    for _ in range(3):
        assert running.acquire(timeout=20)
    await asyncio.sleep(0.1)
    assert not running.acquire(blocking=False)
    calls.pop().cancel()  # one that waits
    await asyncio.sleep(0)  # that is heard in the loop's next turn
    goes_on.set()
    assert len(set(await asyncio.gather(*calls))) <= 3
    assert sum(running.acquire(blocking=False) for _ in range(10)) == 6, "the one that was cancelled is not done"


def test_a_process_with_calls_that_hang_ends() -> None:
    done = subprocess.run([sys.executable, "-c", HANGS], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "ends\n", "")
