"""A suite's whole world in one process, on virtual time: processes, the network between them, and one seed.

The simulation always does what is due first: a message that arrives, or a process that has something to do. What a
process does takes no time; messages and threads do. All chance comes from the seed, so that one seed makes one course
of events, whatever else this machine does.

    process      what a test does       what happens
    up           kill                   its loop is never stepped again, and messages to it are lost
    up           suspend                it is not stepped until then, and messages wait
    up           crash (an exception)   the test fails
    down         start                  a new loop; what it finds are the files and hosts that outlive processes

While a simulation is open, no module of ours reads this machine's clock.
"""

from __future__ import annotations

import hashlib
import sys
import time
import uuid
from collections import deque
from heapq import heappop, heappush
from random import Random
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, NoReturn

import pytest
import structlog

from tests.simulation.bus import Network
from tests.simulation.loop import NEVER, SimulatedLoop, bury

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable, Coroutine, MutableMapping
    from types import TracebackType

BEGIN_S = 1000.0
UNIX_S = 1_700_000_000.0
KEPT_LINES = 400
"""Of what the processes log, for a test that fails."""


class Life:
    """A process from its start to its end."""

    def __init__(self, simulation: Simulation, name: str) -> None:
        self.name = name
        self.alive = True
        self.suspended_until = 0.0
        self.inbox: deque[Callable[[], None]] = deque()
        """What has arrived and was not read yet."""
        self.loop = SimulatedLoop(lambda: simulation.now, lambda: simulation.chance.uniform(0.0, 0.002))
        self.loop.set_exception_handler(lambda _, context: simulation.crashed(self, context))
        self.wakes_at = 0.0
        self._simulation = simulation
        self._tasks: set[asyncio.Task[None]] = set()
        """An event loop has only weak references to its tasks."""

    def owns(self, task: asyncio.Task[None]) -> asyncio.Task[None]:
        """Make a task a part of the process, which ends if it fails."""
        self._tasks.add(task)
        task.add_done_callback(self._done)
        return task

    def _done(self, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            self._simulation.crashed(self, {"exception": error})

    def arrives(self, what: Callable[[], None]) -> None:
        """Put something into the inbox."""
        self.inbox.append(what)
        self.wakes_at = self.suspended_until

    def step(self, now: float) -> None:
        """Do what is due."""
        loop = self.loop
        if loop.wakes_at() <= now:
            loop.step()
        if self.inbox and self.alive:
            for _ in range(len(self.inbox)):
                loop.call_soon(self.inbox.popleft())
            loop.step()
        self.wakes_at = max(0.0 if self.inbox else loop.wakes_at(), self.suspended_until)


class Simulation:
    """Virtual time, and all that happens in it."""

    def __init__(self, seed: int = 0) -> None:
        self.seed = seed
        self.now = BEGIN_S
        self.chance = Random(f"{seed} processes")
        self.network = Network(self, Random(f"{seed} network"))
        self.lives: list[Life] = []
        self._ended: list[Life] = []
        """Kept until the end, so that nothing of them is cleaned up."""
        self._due: list[tuple[float, int, Life | None, Callable[[], None]]] = []
        self._count = 0
        self._digest = hashlib.blake2b(digest_size=8)
        self._failures: list[BaseException] = []
        self._running: Life | None = None
        self._lines: deque[str] = deque(maxlen=KEPT_LINES)
        self._patch = pytest.MonkeyPatch()
        self._logging: dict[str, Any] = {}

    # --- opening and closing ---

    def __enter__(self) -> Simulation:
        ids = Random(f"{self.seed} ids")
        self._patch.setattr(uuid, "uuid4", lambda: uuid.UUID(int=ids.getrandbits(128), version=4))
        for owner, name, substitute in _clocks(lambda: self.now, lambda: UNIX_S + self.now):
            self._patch.setattr(owner, name, substitute)
        self._logging = structlog.get_config()
        structlog.configure(processors=[self._log], cache_logger_on_first_use=False)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for life in list(self.lives):
            self.end(life)
        for life in self._ended:
            bury(life.loop)
        structlog.configure(**self._logging)
        self._patch.undo()
        if kind is not None:
            print(f"seed {self.seed}, {self.now - BEGIN_S:.3f} s:", *self._lines, sep="\n")
        self._ended.clear()
        self._due.clear()

    def _log(self, _: Any, level: str, event: MutableMapping[str, Any]) -> NoReturn:
        name = self._running.name if self._running is not None else ""
        pairs = " ".join(f"{key}={value}" for key, value in event.items() if key != "event")
        self.note(f"{name:<9} {level}: {event['event']}  {pairs}")
        raise structlog.DropEvent

    def note(self, line: str) -> None:
        """Keep a line for a test that fails."""
        self._lines.append(f"{self.now - BEGIN_S:9.4f} {line}")

    def lines(self) -> list[str]:
        """Return what was noted and logged last."""
        return list(self._lines)

    def digest(self) -> str:
        """Return a fingerprint of the course of events."""
        return self._digest.hexdigest()

    # --- processes ---

    def begin(self, name: str, main: Callable[[Life], Coroutine[Any, Any, None]]) -> Life:
        """Start a process; `main` ends when it is up."""
        life = Life(self, name)
        self.lives.append(life)
        self.note(f"{name:<9} starts")

        def start() -> None:
            life.owns(life.loop.create_task(main(life)))

        life.arrives(start)
        return life

    def end(self, life: Life) -> None:
        """Kill a process: it does nothing more, not even clean up."""
        if life.alive:
            life.alive = False
            self.lives.remove(life)
            self._ended.append(life)
            self.network.forget(life)
            self.note(f"{life.name:<9} is killed")

    def suspend(self, life: Life, seconds: float) -> None:
        """Let a process do nothing for a while."""
        life.suspended_until = max(life.suspended_until, self.now + seconds)
        life.wakes_at = max(life.wakes_at, life.suspended_until)
        self.note(f"{life.name:<9} is suspended for {seconds:.2f} s")

    def crashed(self, life: Life, context: dict[str, Any]) -> None:
        """Note that a process has failed."""
        self.note(f"{life.name:<9} crashes: {context.get('exception') or context.get('message')!r}")
        self._failures.append(context.get("exception") or AssertionError(context.get("message")))

    # --- time ---

    def at(self, when: float, life: Life | None, what: Callable[[], None]) -> None:
        """Have something happen at a time, in a process or (None) outside all of them."""
        self._count += 1
        heappush(self._due, (when, self._count, life, what))

    def traced(self, *what: object) -> None:
        """Add something to the fingerprint of the course of events."""
        self._digest.update(repr((self.now, *what)).encode())

    def run(self, seconds: float) -> None:
        """Let time pass."""
        self.run_until(lambda: False, seconds, must=False)

    def run_until(self, what: Callable[[], Any], limit_s: float, about: str = "", *, must: bool = True) -> Any:
        """Let time pass until something is so; it is looked at after everything that happens."""
        ends = self.now + limit_s
        while not (found := what()):
            life, wakes_at = None, NEVER
            for each in self.lives:
                if each.wakes_at < wakes_at:
                    life, wakes_at = each, each.wakes_at
            arrives_at = self._due[0][0] if self._due else NEVER
            if min(wakes_at, arrives_at) > ends:
                self.now = ends
                assert not must, f"{about or 'what is waited for'}: not within {limit_s} s"
                return False
            if arrives_at < wakes_at:
                self._happens()
            else:
                assert life is not None
                self.now = max(self.now, wakes_at)
                self._running = life
                life.step(self.now)
                self._running = None
            if self._failures:
                raise self._failures[0]
        return found

    def _happens(self) -> None:
        when, _, life, what = heappop(self._due)
        self.now = max(self.now, when)
        if life is None:
            what()
        elif life.alive:
            life.arrives(what)


def _clocks(now: Callable[[], float], wall: Callable[[], float]) -> list[tuple[Any, str, Any]]:
    """Return each name under which a module of ours has this machine's clock, with what it is to have instead.

    `time` itself stays as it is: a library that is imported in the meantime would keep the simulation's clock.
    """
    substitutes = {id(time.monotonic): now, id(time.time): wall, id(time): SimpleNamespace(monotonic=now, time=wall)}
    found: list[tuple[Any, str, Any]] = []
    for module_name, module in list(sys.modules.items()):
        if module_name.startswith("jitsu"):
            found += [
                (module, name, substitutes[id(value)])
                for name, value in vars(module).items()
                if id(value) in substitutes
            ]
    clock = sys.modules["jitsu_runtime.clock"].SystemClock
    return [*found, (clock, "now", staticmethod(now)), (clock, "wall", staticmethod(wall))]
