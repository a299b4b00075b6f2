"""The table of each machine's docstring is the table of its code."""

from __future__ import annotations

from collections import Counter
from types import ModuleType

import pytest

from deploy.machines import Row, machines, rows_of_code, rows_of_docstring

MACHINES = machines()


def shown(rows: list[Row]) -> list[str]:
    return sorted(f"{row.state}, {row.event}: {', '.join(sorted(row.then))}" for row in rows)


@pytest.mark.parametrize("module", MACHINES.values(), ids=MACHINES)
def test_the_docstring_has_the_table_of_the_code(module: ModuleType) -> None:
    described = rows_of_docstring(module)
    assert [row for row, count in Counter((row.state, row.event) for row in described).items() if count > 1] == []
    assert shown(described) == shown(rows_of_code(module))


def test_there_are_machines() -> None:
    assert "Feed" in MACHINES


def test_a_table_that_says_something_else_is_found() -> None:
    changed = ModuleType("changed", (MACHINES["Feed"].__doc__ or "").replace("live, syncing", "live"))
    changed.__dict__["TRANSITIONS"] = MACHINES["Feed"].TRANSITIONS
    assert shown(rows_of_docstring(changed)) != shown(rows_of_code(changed))
