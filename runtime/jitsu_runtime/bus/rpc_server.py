"""An owner's end of an rpc: each request gets one reply.

What comes from a peer is checked before it is acted on (G9), in this order:

    its length                 a longer message than any of our kinds: the transport disconnects the peer
    its header                 malformed, another version, no id                              error or nothing
    the right to send it       by the role of the sender's key (wire/permissions.py)          `forbidden`
    its kind, its own length   of a kind that nobody here answers, or too long for its kind   error
    the number under way       of this peer, and of all (wire/under_way.py)                   `unavailable`
    its body                   read in steps and within limits (wire/bodies.py)               `malformed`
    whose name it is sent in   jitsu-web has to name its user, others may not (permissions)   `forbidden`

Replies wait for a slow peer within the bounds of wire/outbox.py.
"""

from __future__ import annotations

import asyncio
from contextlib import contextmanager, suppress
from dataclasses import dataclass
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
from jitsu_runtime.rarely import Rarely

if TYPE_CHECKING:
    from collections.abc import Awaitable, Iterator, Mapping

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


@dataclass(slots=True)
class _Outcome:
    reply: Message | errors.JitsuError | None = None
    """None if there is nobody left to reply to."""


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
        self._answered = Answered()
        self._under_way = UnderWay()
        self._replies = Replies(link, dropped)
        self._reading = asyncio.Lock()
        self._reading_bytes = 0
        self._refusals = Rarely(clock)
        self._group = asyncio.TaskGroup()

    @property
    def waiting_bytes(self) -> int:
        """How many bytes of replies wait for slow peers, besides those that the transport has."""
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
            self._take(header, frame[header.body_at :], incoming.role)

    def _check(self, header: Header, size: int, role: str | None) -> None:
        """Raise Forbidden or BadRequest for a request that can be refused by its header and the `size` of its body."""
        kind = header.kind
        if role is not None:
            try:
                permissions.check(role, kind)
            except errors.Forbidden:
                if self._refusals.is_due(role):
                    log.warning("refused", role=role, kind=kind)
                raise
        if kind not in self._handlers:
            raise errors.UnknownKind(f"nobody here answers messages of kind {kind!r}")
        longest = self._handlers[kind][0].max_bytes
        if size > longest:
            raise errors.MalformedMessage(f"{kind} of {size + header.body_at} bytes is too long: {longest} are allowed")

    def _take(self, header: Header, body: memoryview, role: str | None) -> None:
        """Read a body, and carry the request out."""
        cls = self._handlers[header.kind][0]
        if len(body) > AT_ONCE_BYTES:
            if self._reading_bytes + len(body) > MAX_READING_BYTES:
                self._finish(header.id, errors.Unavailable("too many large requests are being read"))
            else:
                self._reading_bytes += len(body)  # now: many can come before the first task runs
                self._group.create_task(self._read_in_steps(header, cls, body, role))
            return
        try:
            request = read(cls, body)
            permissions.check_user(role, request)
        except (errors.BadRequest, errors.Forbidden) as error:
            self._finish(header.id, error)
        else:
            self._carry_out(header, request)

    async def _read_in_steps(self, header: Header, cls: type[Request], body: memoryview, role: str | None) -> None:
        """Read a large body between other things, one at a time: steps of many would be as long as all of one."""
        try:
            async with self._reading:
                reading = Reading(cls, body)
                for _ in reading.steps():
                    await asyncio.sleep(0)
                request = reading.result()
                permissions.check_user(role, request)
        except (errors.BadRequest, errors.Forbidden) as error:
            self._finish(header.id, error)
        else:
            self._carry_out(header, request)
        finally:
            self._reading_bytes -= len(body)

    def _carry_out(self, header: Header, request: Request) -> None:
        outcome = _Outcome()
        with self._guarded(outcome, header.kind):
            result = self._handlers[header.kind][1](request)
            if not isinstance(result, Message):
                self._group.create_task(self._wait(header, result))
                return
            outcome.reply = result
        self._finish(header.id, outcome.reply)

    async def _wait(self, header: Header, result: Awaitable[Message]) -> None:
        outcome = _Outcome()
        try:
            with self._guarded(outcome, header.kind), suppress(TimeoutError):
                # When the time is over, the caller has stopped waiting too, and nothing is replied.
                async with asyncio.timeout(min(header.timeout, MAX_TIMEOUT_S)):
                    outcome.reply = await result
        finally:
            self._finish(header.id, outcome.reply)

    @contextmanager
    def _guarded(self, outcome: _Outcome, kind: str) -> Iterator[None]:
        """Turn whatever a handler raises into its reply; an error that was not foreseen is logged and counted too."""
        try:
            yield
        except errors.JitsuError as error:
            outcome.reply = error
        except Exception as error:
            log.error("request failed unexpectedly", kind=kind, exc_info=error)
            self._dropped(errors.Bug.code)
            outcome.reply = errors.Bug(
                f"{type(error).__name__}: {error}", hint="see the log of the process that answered"
            )

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
