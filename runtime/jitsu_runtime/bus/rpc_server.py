"""An owner's end of an rpc: each request gets one reply.

What comes from a peer is checked before it is acted on (G9), in this order:

    its length                 a longer message than any of our kinds: the transport disconnects the peer
    its header                 malformed, another version, no id                              error or nothing
    the right to send it       by the role of the sender's key (wire/permissions.py)          `forbidden`
    its kind, its own length   of a kind that nobody here answers, or too long for its kind   error
    the number under way       of this peer, and of all (wire/under_way.py)                   `unavailable`
    its body                   read in steps and within limits (wire/bodies.py)               `malformed`

Replies wait for a slow peer within the bounds of wire/outbox.py.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import structlog

from jitsu_protocol.messages import Failure, Message, Request
from jitsu_protocol.model import errors
from jitsu_protocol.wire import permissions
from jitsu_protocol.wire.bodies import Reading, read
from jitsu_protocol.wire.calls import Answered
from jitsu_protocol.wire.codec import MAX_FRAME_BYTES, encode, id_of, open_frame
from jitsu_protocol.wire.under_way import UnderWay
from jitsu_runtime.bus.replies import Replies
from jitsu_runtime.clock import SYSTEM_CLOCK

if TYPE_CHECKING:
    from collections.abc import Awaitable, Mapping

    from jitsu_protocol.wire.codec import Header
    from jitsu_runtime.bus.links import CountDropped, Incoming, OwnerLink
    from jitsu_runtime.clock import Clock
    from jitsu_runtime.world import Handler

log = structlog.get_logger("bus")

MAX_TIMEOUT_S = 600.0
"""No request is worked on for longer, whatever its envelope says."""
AT_ONCE_BYTES = 64 * 1024
"""A longer body is read in steps, between which others are answered."""
MAX_READING_BYTES = 64 * 1024 * 1024
"""Bodies that are read in steps, or wait for that."""
QUIET_S = 10.0
"""Of many refusals of one role, one in that time is logged; all are counted."""


class RpcServer:
    """Serves one owner's requests."""

    def __init__(
        self,
        link: OwnerLink,
        handlers: Mapping[type[Request], Handler],
        dropped: CountDropped,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        """`handlers` may be coroutines or plain functions; a JitsuError that one raises becomes the reply."""
        self._link = link
        self._handlers = {cls.kind: (cls, handler) for cls, handler in handlers.items()}
        self._dropped = dropped
        self._clock = clock
        self._answered = Answered()
        self._under_way = UnderWay()
        self._replies = Replies(link, dropped)
        self._reading = asyncio.Lock()
        self._reading_bytes = 0
        self._logged_at: dict[str, float] = {}
        self._group = asyncio.TaskGroup()

    @property
    def waiting_bytes(self) -> int:
        """Of replies, how much waits for peers that do not take it, beside what the transport has."""
        return self._replies.waiting_bytes

    @property
    def peers_served(self) -> int:
        """How many connections have requests under way."""
        return self._under_way.peers

    async def run(self) -> None:
        """Serve until cancelled."""
        try:
            async with self._group:
                self._group.create_task(self._replies.flush_for_ever())
                await self._link.attend(self._received)
        finally:
            self._link.close()

    def _received(self, incoming: Incoming) -> None:
        peer, frame = incoming.peer, incoming.frame
        try:
            header = open_frame(frame)
            if header.id:
                self._check(header, len(frame) - header.body_at, incoming.role)
        except (errors.BadRequest, errors.Forbidden) as error:
            self._dropped(error.code)
            if id := id_of(frame):
                self._reply(peer, id, error)
            return
        if not header.id:
            self._dropped("no-id")
            return
        todo = self._answered.begin(header.id)
        if isinstance(todo, bytes):
            self._replies.send(peer, todo)
            return
        self._under_way.begin(header.id, peer)
        if not todo:
            return
        if self._under_way.is_too_many(peer):
            self._finish(header.id, errors.Unavailable(f"{len(self._under_way)} requests are under way"))
        else:
            self._take(header, frame[header.body_at :])

    def _check(self, header: Header, size: int, role: str | None) -> None:
        """Raise Forbidden or BadRequest for what can be refused without a look at the body of so many bytes."""
        kind = header.kind
        if role is not None:
            try:
                permissions.check(role, kind)
            except errors.Forbidden:
                now = self._clock.now()
                if now > self._logged_at.get(role, -QUIET_S) + QUIET_S:
                    self._logged_at[role] = now
                    log.warning("refused", role=role, kind=kind)
                raise
        if kind not in self._handlers:
            raise errors.UnknownKind(f"nobody here answers messages of kind {kind!r}")
        longest = self._handlers[kind][0].max_bytes
        if size > longest:
            raise errors.MalformedMessage(f"{kind} of {size + header.body_at} bytes is too long: {longest} are allowed")

    def _take(self, header: Header, body: memoryview) -> None:
        """Read a body, and carry out what it asks for."""
        cls = self._handlers[header.kind][0]
        if len(body) > AT_ONCE_BYTES:
            if self._reading_bytes + len(body) > MAX_READING_BYTES:
                self._finish(header.id, errors.Unavailable("too many large requests are being read"))
            else:
                self._reading_bytes += len(body)  # now: many can come before the first task runs
                self._group.create_task(self._read_in_steps(header, cls, body))
            return
        try:
            request = read(cls, body)
        except errors.BadRequest as error:
            self._finish(header.id, error)
        else:
            self._carry_out(header, request)

    async def _read_in_steps(self, header: Header, cls: type[Request], body: memoryview) -> None:
        """Read a large body between other things, one at a time: steps of many would be as long as all of one."""
        try:
            async with self._reading:
                reading = Reading(cls, body)
                for _ in reading.steps():
                    await asyncio.sleep(0)
                request = reading.result()
        except errors.BadRequest as error:
            self._finish(header.id, error)
        else:
            self._carry_out(header, request)
        finally:
            self._reading_bytes -= len(body)

    def _carry_out(self, header: Header, request: Request) -> None:
        try:
            result = self._handlers[header.kind][1](request)
        except Exception as error:
            self._finish(header.id, _as_jitsu_error(error, header.kind))
            return
        if isinstance(result, Message):
            self._finish(header.id, result)
        else:
            self._group.create_task(self._wait(header, result))

    async def _wait(self, header: Header, result: Awaitable[Message]) -> None:
        reply: Message | errors.JitsuError | None = None
        try:
            async with asyncio.timeout(min(header.timeout, MAX_TIMEOUT_S)):
                reply = await result
        except TimeoutError:
            reply = None  # the caller has stopped waiting at the same time
        except Exception as error:
            reply = _as_jitsu_error(error, header.kind)
        finally:
            self._finish(header.id, reply)

    def _finish(self, id: bytes, reply: Message | errors.JitsuError | None) -> None:
        peer = self._under_way.end(id)
        frame = None if reply is None else self._reply(peer, id, reply)
        # An error is not kept: asked again, the request may succeed.
        self._answered.done(id, None if isinstance(reply, errors.JitsuError) else frame)

    def _reply(self, peer: bytes, id: bytes, reply: Message | errors.JitsuError) -> bytes:
        frame = b"" if isinstance(reply, errors.JitsuError) else encode(reply, id=id)
        if len(frame) > MAX_FRAME_BYTES:
            reply = errors.Refused(f"the answer would have {len(frame)} bytes, {MAX_FRAME_BYTES} are allowed")
        if isinstance(reply, errors.JitsuError):
            frame = encode(Failure.model_validate(errors.to_wire(reply)), id=id)
        self._replies.send(peer, frame)
        return frame


def _as_jitsu_error(error: Exception, kind: str) -> errors.JitsuError:
    """Turn any failure of a handler into a reply; one that was not foreseen is logged with its context."""
    if isinstance(error, errors.JitsuError):
        return error
    log.error("request failed unexpectedly", kind=kind, exc_info=error)
    return errors.Bug(f"{type(error).__name__}: {error}", hint="see the log of the process that answered")
