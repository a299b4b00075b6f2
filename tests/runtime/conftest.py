"""What the tests of the bus share."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import zmq.asyncio

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


@pytest.fixture
async def context() -> AsyncIterator[zmq.asyncio.Context]:
    made = zmq.asyncio.Context()
    yield made
    made.destroy(linger=0)
