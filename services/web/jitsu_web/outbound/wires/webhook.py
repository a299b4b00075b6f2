"""Webhooks: each event is a POST that is signed as Standard Webhooks has it (standardwebhooks.com, version 1).

    webhook-id          the id of the event; the same when it is sent again
    webhook-timestamp   when this attempt was made, in Unix time
    webhook-signature   v1,BASE64 of HMAC-SHA-256 over `id.timestamp.body`, with the secret of this webhook

Redirects are not followed, proxies of the environment are not used, and of an answer only the status counts.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import hashlib
import hmac
from typing import TYPE_CHECKING

import aiohttp

from jitsu_protocol import __version__
from jitsu_protocol.model.errors import SetupFault
from jitsu_runtime.credentials import read_secret
from jitsu_web.outbound.rules.delivery import Delivered, Failed
from jitsu_web.outbound.wires.sender import LIMIT_S

if TYPE_CHECKING:
    from jitsu_runtime.clock import Clock
    from jitsu_runtime.settings.events import WebhookTarget
    from jitsu_web.outbound.rules.notices import Notice
    from jitsu_web.rules.events import WebEvent

PREFIX = "whsec_"
"""Of a secret that is base64."""
MIN_SECRET_BYTES = 24  # Standard Webhooks
FINAL = frozenset({400, 410, 413, 415, 422})
"""The receiver refuses this very event. Any other error may be repaired: 401 by a new secret, 404 by a deployment."""


class WebhookSender:
    """One webhook."""

    def __init__(self, target: WebhookTarget, clock: Clock) -> None:
        """Read the secret; raises SetupFault."""
        self.name = target.name
        self._target = target
        self._clock = clock
        self._secret = secret_of(read_secret(target.secret_file, f"events.webhooks: {target.name}"), target.name)
        self._session: aiohttp.ClientSession | None = None

    def wants(self, kind: str) -> bool:
        """Say whether it is sent this kind of event."""
        return self._target.wants(kind)

    def note(self, event: WebEvent) -> None:
        """Do nothing with what is not sent."""

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

    async def send(self, notice: Notice) -> Delivered | Failed:
        """Post an event."""
        if self._session is None:
            return Failed("the webhook is not open")
        body, at = notice.body(), int(self._clock.wall())
        headers = {
            "Content-Type": "application/cloudevents+json",
            "User-Agent": f"jitsu/{__version__}",
            "webhook-id": notice.id,
            "webhook-timestamp": str(at),
            "webhook-signature": signature(self._secret, notice.id, at, body),
        }
        try:
            async with self._session.post(
                self._target.url, data=body, headers=headers, allow_redirects=False
            ) as answer:
                return outcome_of(answer.status, answer.headers.get("Retry-After", ""))
        except TimeoutError:
            return Failed(f"no answer within {LIMIT_S:g} s")
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


def secret_of(text: str, name: str) -> bytes:
    """Return the bytes of a secret; raises SetupFault."""
    hint = "make one with `openssl rand -base64 32`"
    try:
        secret = base64.b64decode(text[len(PREFIX) :], validate=True) if text.startswith(PREFIX) else text.encode()
    except (binascii.Error, ValueError):
        raise SetupFault(f"events.webhooks: {name}: what follows {PREFIX} is not base64", hint=hint) from None
    if len(secret) < MIN_SECRET_BYTES:
        raise SetupFault(
            f"events.webhooks: {name}: the secret has {len(secret)} bytes; {MIN_SECRET_BYTES} at least", hint=hint
        )
    return secret


def signature(secret: bytes, id: str, at: int, body: bytes) -> str:
    """Return the value of webhook-signature."""
    digest = hmac.new(secret, b"%s.%d.%s" % (id.encode(), at, body), hashlib.sha256).digest()
    return f"v1,{base64.b64encode(digest).decode()}"
