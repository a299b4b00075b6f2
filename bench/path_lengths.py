"""How far a cold query, a change of the configuration and a SYN go through the code.

All five services run in one process in the simulated suite, so that one profile (sys.setprofile) sees the whole way.
Counted are the functions of ours that are called from the event to its effect, each once however often it is called,
their files, and how often the way enters a file again that it had left. Comprehensions, and what is called while
modules are loaded, are not counted. docs/explanation/architecture.md shows the three ways.

    python -m bench.path_lengths [--functions]
"""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.simulation.suite import SimulatedSuite, lan_vm

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import CodeType, FrameType

ROOT = Path(__file__).parents[1]
OURS = ("protocol/", "runtime/", "services/")


class Walk:
    """The functions that are called, in their order."""

    def __init__(self, has_ended: Callable[[], bool] = lambda: False) -> None:
        self._has_ended = has_ended
        self.calls: list[tuple[str, str]] = []
        """(file, function) of each call."""
        self._names: dict[CodeType, tuple[str, str] | None] = {}

    def _name(self, code: CodeType) -> tuple[str, str] | None:
        path = Path(code.co_filename)
        if not path.is_relative_to(ROOT) or code.co_name.startswith("<"):
            return None
        file = path.relative_to(ROOT).as_posix()
        return (file, code.co_qualname) if file.startswith(OURS) else None

    def event(self, frame: FrameType, kind: str, _: Any) -> None:
        """Note a call, unless the way has ended."""
        if kind != "call" or self._has_ended():
            return
        code = frame.f_code
        if code not in self._names:
            self._names[code] = self._name(code)
        if (name := self._names[code]) is not None:
            self.calls.append(name)

    def during(self, work: Callable[[], object]) -> Walk:
        """Walk along with some work."""
        sys.setprofile(self.event)
        try:
            work()
        finally:
            sys.setprofile(None)
        return self

    def show(self, title: str, *, functions: bool) -> None:
        """Print what was counted."""
        files = [file for file, _ in self.calls]
        entered = [file for n, file in enumerate(files) if n == 0 or files[n - 1] != file]
        again = len(entered) - len(set(entered))
        print(
            f"{title}: {len(set(self.calls))} functions in {len(set(files))} files, {len(self.calls)} calls; "
            f"a file is entered again {again} times"
        )
        if functions:
            for (file, name), count in sorted(Counter(self.calls).items()):
                print(f"    {count:4} {file}: {name}")


def main() -> None:
    """Walk the three ways, each once before, so that nothing is loaded on the way."""
    functions = "--functions" in sys.argv[1:]
    vms = [lan_vm("first", 9, ttl=30), lan_vm("www", 10, ttl=30)]
    with SimulatedSuite(vms, synjitsu=True) as suite:

        def is_answered() -> bool:
            return len(suite.queries) > 1 and suite.queries[-1].answered_at is not None

        def connects(name: str) -> None:
            suite.connect(name)
            suite.run(0.001)  # until its SYN is kept

        def changed(name: str, host: int) -> None:
            suite.configure(lan_vm(name, host, ttl=31))
            suite.run(0.01)  # for those who follow the feed

        suite.ask("first")
        connects("first")
        changed("first", 9)
        suite.run(1.0)
        Walk(is_answered).during(lambda: suite.ask("www")).show("a cold query", functions=functions)
        Walk().during(lambda: connects("www")).show("a SYN", functions=functions)
        suite.run(1.0)
        Walk().during(lambda: changed("www", 10)).show("a change of the configuration", functions=functions)


if __name__ == "__main__":
    main()
