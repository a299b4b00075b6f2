"""The host on which tests of a whole Synjitsu take place."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.support.synjitsu_host import SynjitsuHost, synjitsu_world

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path


@pytest.fixture
async def host(tmp_path: Path) -> AsyncIterator[SynjitsuHost]:
    async with synjitsu_world(tmp_path) as world:
        yield SynjitsuHost(world)
