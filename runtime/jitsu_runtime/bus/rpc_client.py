"""A caller's end of an rpc: drives the machine of wire/calls.py over a link.

`run()` lasts as long as the link; it belongs in the process's TaskGroup.
"""

from __future__ import annotations

import asyncio
import uuid
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import structlog

from jitsu_protocol.messages import Message
from jitsu_protocol.model import errors
from jitsu_protocol.wire.calls import (
    Abandoned,
    CallAction,
    Called,
    CallEvent,
    Calls,
    Deliver,
    GiveUp,
    NotSent,
    ReplyArrived,
    Send,
)
from jitsu_protocol.wire.codec import HEADER_BYTES, body_as, decode, encode
from jitsu_runtime.clock import SYSTEM_CLOCK
from jitsu_runtime.driver import Driver

if TYPE_CHECKING:
    from collections.abc import Sequence

    from jitsu_protocol.messages import Request
    from jitsu_runtime.bus.links import CallerLink
    from jitsu_runtime.clock import Clock

log = structlog.get_logger("bus")

R = TypeVar("R", bound=Message)
Reply = tuple[str, dict[str, Any]]
"""(kind, body)"""


@dataclass(slots=True)
class _Call:
    request: Request
    future: asyncio.Future[Reply]
    frame: bytes
    """For the first time that it is sent; later ones have less time left."""


class RpcClient:
    """Calls one owner; any number of calls at once."""

    def __init__(self, link: CallerLink, name: str, clock: Clock = SYSTEM_CLOCK, prefix: bytes = b"") -> None:
        """`name` is the owner's; ids of calls begin with `prefix`, which no other client has."""
        self._link = link
        self._name = name
        self._waiting: dict[bytes, _Call] = {}
        self._prefix = prefix or uuid.uuid4().bytes
        self._count = 0
        self._driver = Driver[CallEvent, CallAction](Calls(), self._perform, clock)

    async def run(self) -> None:
        """Take replies until cancelled."""
        try:
            await self._link.attend(self._received)
        finally:
            self._driver.close()
            self._link.close()

    async def call(self, request: Request, reply: type[R], timeout: float) -> R:
        """Send a request and return its reply.

        Raises the error that the owner replied with, or TimedOut after `timeout` seconds.
        """
        self._count += 1
        id = self._prefix + self._count.to_bytes(6, "big")
        frame = encode(request, id=id, timeout=timeout)
        if len(frame) > request.max_bytes + HEADER_BYTES:
            raise errors.BadRequest(
                f"a request of {len(frame)} bytes is too long for {request.kind}: {request.max_bytes} are allowed",
                hint="ask for it in smaller parts",
            )
        future: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()
        self._waiting[id] = _Call(request, future, frame)
        try:
            self._driver.handle(Called(id, timeout, len(frame)))
            kind, body = await future
        finally:
            del self._waiting[id]
            if not future.done() or future.cancelled():
                self._driver.handle(Abandoned(id))
        return body_as(reply, kind, body)

    def _received(self, frame: bytes) -> None:
        try:
            envelope = decode(frame)
        except errors.BadRequest as error:
            log.warning("unreadable reply dropped", owner=self._name, error=str(error))
            return
        self._driver.handle(ReplyArrived(envelope.id, (envelope.kind, envelope.body)))

    def _perform(self, actions: Sequence[CallAction]) -> None:
        for action in actions:
            call = self._waiting.get(action.id)
            if call is None or call.future.done():
                continue  # cancelled, and its caller has not been woken yet
            match action:
                case Send(id, timeout_s):
                    frame, call.frame = call.frame or encode(call.request, id=id, timeout=timeout_s), b""
                    if not self._link.send(frame):
                        self._driver.handle(NotSent(id))
                case Deliver(_, reply):
                    call.future.set_result(reply)
                case GiveUp():
                    call.future.set_exception(
                        errors.TimedOut(f"{self._name} does not answer", hint=f"is jitsu-{self._name} running?")
                    )
