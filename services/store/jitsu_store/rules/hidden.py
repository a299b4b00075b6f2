"""What readers of master do not see yet: changes that are being decided, or are on their way to the disk.

The tree in memory has these changes already. For each of their paths this module keeps the value that readers see
instead.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator, Mapping

    from jitsu_store.rules.tree import Changes


class Hidden:
    """Path -> the value before; None if there was none. Looking below a path does not look at all others."""

    def __init__(self) -> None:
        self._old: Changes = {}
        self._names: dict[str, dict[str, None]] = {}
        """Path -> the names right below it that are hidden, or have something hidden below them."""

    def __contains__(self, path: object) -> bool:
        """Say whether the value at this path is hidden."""
        return path in self._old

    def __getitem__(self, path: str) -> str | None:
        """Return what readers are shown at a path; raises KeyError."""
        return self._old[path]

    def put(self, old: Mapping[str, str | None]) -> list[str]:
        """Hide more paths, and return those that were not hidden before. The others keep their earlier value."""
        new = [path for path in old if path not in self._old]
        directory, inside = "", self._names.setdefault("", {})
        for path in new:
            self._old[path] = old[path]
            above, _, name = path.rpartition("/")
            if above == directory:  # it is noted in the one above it already
                inside[name] = None
                continue
            directory, inside = above, self._names.setdefault(above, {})
            while name not in (names := self._names.setdefault(above, {})):
                names[name] = None
                if not above:
                    break
                above, _, name = above.rpartition("/")
        return new

    def drop(self, paths: Iterable[str]) -> None:
        """Show what the tree has at these paths."""
        for path in paths:
            del self._old[path]
        if not self._old:
            self._names.clear()

    def clear(self) -> None:
        """Show all that the tree has."""
        self._old, self._names = {}, {}

    def names_below(self, path: str) -> Collection[str]:
        """Return the names right below a path ("" is the root) that may have something hidden; some no longer do."""
        return self._names.get(path, {}).keys()

    def below(self, prefix: str) -> Changes:
        """Return what is hidden at or below a path; "" is the root."""
        return dict(self._walk(prefix))

    def _walk(self, path: str) -> Iterator[tuple[str, str | None]]:
        if path in self._old:
            yield path, self._old[path]
        for name in self._names.get(path, ()):
            yield from self._walk(f"{path}/{name}" if path else name)
