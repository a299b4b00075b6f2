"""Programs of the suite that the tool runs for a moment because it may not import them, within a time limit."""

from __future__ import annotations

import asyncio
import sys
from dataclasses import dataclass


@dataclass(frozen=True)
class Finished:
    """A program that has ended by itself."""

    status: int
    out: str
    err: str


async def run_module(module: str, *arguments: str, limit_s: float) -> Finished | None:
    """Run `python -m module` to its end. Returns None if it has not ended within the limit, and then kills it."""
    starting = asyncio.ensure_future(
        asyncio.create_subprocess_exec(
            *(sys.executable, "-m", module, *arguments),
            stdin=asyncio.subprocess.DEVNULL,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
    )
    try:
        child = await asyncio.shield(starting)
    except asyncio.CancelledError:  # asyncio would leave the program running
        child = await starting
        child.kill()
        await child.wait()
        raise
    try:
        async with asyncio.timeout(limit_s):
            out, err = await child.communicate()
    except TimeoutError:
        return None
    finally:
        if child.returncode is None:
            child.kill()
            await child.wait()
    return Finished(child.returncode or 0, out.decode(errors="replace"), err.decode(errors="replace"))
