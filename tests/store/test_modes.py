from __future__ import annotations

import os
from typing import TYPE_CHECKING

from tests.support.store import running

if TYPE_CHECKING:
    from pathlib import Path


async def test_only_its_own_user_may_write_to_a_repository_whatever_the_umask(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        async with running(tmp_path / "db") as store:
            await store.apply({"a/b": "1"})
            await store.branch("deep/er")
        found = [path for path in (tmp_path / "db", *(tmp_path / "db").rglob("*")) if path.stat().st_mode & 0o022]
        assert found == []
    finally:
        os.umask(before)
