"""Traces of summons for an OpenTelemetry collector, over OTLP/HTTP with JSON. No library of OpenTelemetry is needed."""

from __future__ import annotations

from typing import TYPE_CHECKING

from jitsu_web.outbound.rules.spans import export_of
from jitsu_web.outbound.wires.posting import Poster

if TYPE_CHECKING:
    from jitsu_web.outbound.rules.delivery import Delivered, Failed
    from jitsu_web.outbound.rules.notices import Notice
    from jitsu_web.rules.events import WebEvent

NAME = "otlp"
PATH = "/v1/traces"


class TraceSender:
    """One collector."""

    name = NAME

    def __init__(self, url: str) -> None:
        """`url` is that of the collector, without the path."""
        self._poster = Poster(url.rstrip("/") + PATH)

    def wants(self, kind: str) -> bool:
        """Say whether there is a trace of it."""
        return kind == "vm.booted"

    def note(self, event: WebEvent) -> None:
        """Do nothing with what is not sent."""

    async def run(self) -> None:
        """Keep a session open, until cancelled."""
        await self._poster.run()

    async def send(self, notice: Notice) -> Delivered | Failed:
        """Send the trace of a summon."""
        return await self._poster.post(export_of(notice), {"Content-Type": "application/json"})
