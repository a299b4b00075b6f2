"""Webhooks: each event is a POST that is signed as Standard Webhooks has it (standardwebhooks.com, version 1).

webhook-id          the id of the event; the same when it is sent again
webhook-timestamp   when this attempt was made, in Unix time
webhook-signature   v1,BASE64 of HMAC-SHA-256 over `id.timestamp.body`, with the secret of this webhook
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
from typing import TYPE_CHECKING

from jitsu_protocol.model.errors import SetupFault
from jitsu_runtime.credentials import read_secret
from jitsu_web.outbound.wires.posting import Poster

if TYPE_CHECKING:
    from jitsu_runtime.clock import Clock
    from jitsu_runtime.settings.events import WebhookTarget
    from jitsu_web.outbound.rules.delivery import Delivered, Failed
    from jitsu_web.outbound.rules.notices import Notice
    from jitsu_web.rules.events import WebEvent

PREFIX = "whsec_"
"""Of a secret that is base64."""
MIN_SECRET_BYTES = 24  # Standard Webhooks


class WebhookSender:
    """One webhook."""

    def __init__(self, target: WebhookTarget, clock: Clock) -> None:
        """Read the secret; raises SetupFault."""
        self.name = target.name
        self._target = target
        self._clock = clock
        self._secret = secret_of(read_secret(target.secret_file, f"events.webhooks: {target.name}"), target.name)
        self._poster = Poster(target.url)

    def wants(self, kind: str) -> bool:
        """Say whether it is sent this kind of event."""
        return self._target.wants(kind)

    def note(self, event: WebEvent) -> None:
        """Do nothing with what is not sent."""

    async def run(self) -> None:
        """Keep a session open, until cancelled."""
        await self._poster.run()

    async def send(self, notice: Notice) -> Delivered | Failed:
        """Post an event."""
        body, at = notice.body(), int(self._clock.wall())
        headers = {
            "Content-Type": "application/cloudevents+json",
            "webhook-id": notice.id,
            "webhook-timestamp": str(at),
            "webhook-signature": signature(self._secret, notice.id, at, body),
        }
        return await self._poster.post(body, headers)


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
