"""Posts something over HTTP: redirects are not followed, proxies of the environment are not used, and of an answer only
the status counts.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import aiohttp

from jitsu_protocol import __version__
from jitsu_web.outbound.rules.delivery import Delivered, Failed
from jitsu_web.outbound.wires.sender import LIMIT_S

if TYPE_CHECKING:
    from collections.abc import Mapping

FINAL = frozenset({400, 410, 413, 415, 422})
"""The receiver refuses this very event. Any other error may be repaired: 401 by a new secret, 404 by a deployment."""


class Poster:
    """One receiver of posts."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._session: aiohttp.ClientSession | None = None

    async def run(self) -> None:
        """Keep a session open, until cancelled."""
        limits = aiohttp.ClientTimeout(total=LIMIT_S)
        async with aiohttp.ClientSession(
            timeout=limits, trust_env=False, cookie_jar=aiohttp.DummyCookieJar(), auto_decompress=False
        ) as self._session:
            try:
                await asyncio.Event().wait()
            finally:
                self._session = None

    async def post(self, body: bytes, headers: Mapping[str, str]) -> Delivered | Failed:
        """Post, and return what the receiver's answer means."""
        if self._session is None:
            return Failed("this process has just started or is about to end")
        given = {"User-Agent": f"jitsu/{__version__}", **headers}
        try:
            async with self._session.post(self._url, data=body, headers=given, allow_redirects=False) as answer:
                return outcome_of(answer.status, answer.headers.get("Retry-After", ""))
        except TimeoutError:
            return Failed(f"no answer within {LIMIT_S:g} s")
        except aiohttp.InvalidURL:
            return Failed("this URL cannot be used")  # it may hold a token, so it is not logged
        except (aiohttp.ClientError, OSError, ValueError) as error:
            return Failed(f"{type(error).__name__}: {error}"[:300])


def outcome_of(status: int, retry_after: str) -> Delivered | Failed:
    """Return what a status of HTTP means for an event."""
    if 200 <= status < 300:
        return Delivered()
    if 300 <= status < 400:
        return Failed(f"HTTP {status}: a redirect, which is not followed; configure the address that it leads to")
    seconds = float(retry_after) if retry_after.isascii() and retry_after.isdecimal() and len(retry_after) < 7 else 0.0
    return Failed(f"HTTP {status}", is_final=status in FINAL, retry_after_s=seconds)
