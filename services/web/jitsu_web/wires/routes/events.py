"""The stream of everything that happens."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Annotated

from fastapi import APIRouter, Header, Query
from fastapi.responses import StreamingResponse

from jitsu_web.wires.api import TheApi, TheCaller

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from starlette.types import Receive, Scope, Send

    from jitsu_web.rules.callers import ApiCaller
    from jitsu_web.wires.api import Api

router = APIRouter(prefix="/events", tags=["events"])

COMMENT_S = 15.0
"""After so long without an event a comment is sent, by which both ends notice that the other is gone."""
RETRY_MS = 1000


class EventStreamResponse(StreamingResponse):
    """A stream of server-sent events."""

    media_type: str | None = "text/event-stream"


class _PlacedStream(EventStreamResponse):
    """One that has a place while it is sent."""

    def __init__(self, api: Api, caller: ApiCaller, last_id: str) -> None:
        super().__init__(_stream(api, caller, last_id))
        self._places, self._user = api.places, caller.name

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Take a place, and send; raises HttpProblem."""
        self._places.enter(self._user)
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._places.leave(self._user)


@router.get("", response_class=EventStreamResponse)
async def follow_events(
    api: TheApi,
    caller: TheCaller,
    last_event_id: Annotated[str, Header(max_length=100)] = "",
    after: Annotated[str, Query(max_length=100, description="As Last-Event-ID, which counts first.")] = "",
) -> EventStreamResponse:
    """Follow `vm`, `gone`, `summon`, `drain`, `commit`, `service` and `reset`, which means: read everything again."""
    return _PlacedStream(api, caller, last_event_id or after)


async def _stream(api: Api, caller: ApiCaller, last_id: str) -> AsyncIterator[bytes]:
    """Yield the text of the stream until the reader goes, or its token no longer counts."""
    hub = api.live.hub
    yield f"retry: {RETRY_MS}\n\n".encode()
    events = hub.read(last_id)
    following = asyncio.ensure_future(anext(events))
    try:
        while True:
            done, _ = await asyncio.wait({following}, timeout=COMMENT_S)
            if not api.is_still(caller):
                return
            if not done:
                yield b": still here\n\n"
                continue
            try:
                event = following.result()
            except StopAsyncIteration:
                return
            yield hub.encoded(event)
            following = asyncio.ensure_future(anext(events))
    finally:
        following.cancel()
        await asyncio.gather(following, return_exceptions=True)
        await events.aclose()
