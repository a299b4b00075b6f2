"""Blocking calls on a pool of daemon threads: how many there are, and how they end."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
from typing import TYPE_CHECKING

import pytest

from jitsu_runtime.threads import DaemonThreads

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.wires

HANGS = """
import time
from jitsu_runtime.threads import DaemonThreads

calls = [DaemonThreads(1, "x").submit(time.sleep, 600) for _ in range(2)]
while not all(call.running() for call in calls):
    time.sleep(0.01)
print("ends")
"""


@pytest.fixture
def threads() -> Iterator[DaemonThreads]:
    with DaemonThreads(3, "x") as made:
        yield made


def test_results_and_exceptions_reach_the_caller(threads: DaemonThreads) -> None:
    assert threads.submit(divmod, 7, 2).result(20) == (3, 1)
    assert threads.submit(sorted, [1, 2], reverse=True).result(20) == [2, 1]
    for error in (ZeroDivisionError, SystemExit):
        with pytest.raises(error):
            threads.submit(exec, f"raise {error.__name__}").result(20)
    assert [threads.submit(int, "8").result(20) for _ in range(5)] == [8] * 5, "a thread survives what its calls raise"


async def test_an_idle_thread_is_used_again(threads: DaemonThreads) -> None:
    seen = set()
    for _ in range(20):
        seen.add(await asyncio.get_running_loop().run_in_executor(threads, threading.get_ident))
        while not threads.idle:
            await asyncio.sleep(0.01)
    assert len(seen) == 1


def test_calls_beyond_the_number_of_threads_wait_for_their_turn(threads: DaemonThreads) -> None:
    goes_on, running = threading.Event(), threading.Semaphore(0)

    def work() -> int:
        running.release()
        goes_on.wait(20)
        return threading.get_ident()

    calls = [threads.submit(work) for _ in range(10)]
    for _ in range(3):
        assert running.acquire(timeout=20)
    assert not running.acquire(timeout=0.1)
    assert calls.pop().cancel(), "it has not begun"
    goes_on.set()
    assert len({call.result(20) for call in calls}) <= 3
    assert sum(running.acquire(blocking=False) for _ in range(10)) == 6, "the cancelled call is not made"


def test_shutdown_cancels_the_calls_that_wait_and_ends_the_threads() -> None:
    threads, begun, goes_on = DaemonThreads(1, "ends"), threading.Event(), threading.Event()

    def work() -> bool:
        begun.set()
        return goes_on.wait(20)

    first, second = threads.submit(work), threads.submit(int)
    assert begun.wait(20)
    threads.shutdown()
    assert second.cancelled()
    goes_on.set()
    assert first.result(20)
    for thread in threading.enumerate():
        if thread.name == "ends 1":
            thread.join(20)
            assert not thread.is_alive()


def test_a_process_exits_although_calls_never_return() -> None:
    done = subprocess.run([sys.executable, "-c", HANGS], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "ends\n", "")
