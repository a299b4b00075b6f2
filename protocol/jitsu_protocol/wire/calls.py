"""Both halves of an rpc, without sockets: a caller's calls that wait for a reply, and an owner's replies.

A caller sends a request with an id and waits for the reply with the same id. The owner may be away, may restart and
lose the request, or may be busy. So the caller sends it again after a while, and later each time. That is safe because
every request is safe to send twice (messages/) and an owner works on one id once at a time (`Answered`). A call that
has met no owner at all is repeated sooner. When the call's time is over, it is given up, and a reply that comes later
is dropped.

All calls over one connection are one machine. It has no states of its own; each call is waiting until it is over.

    event             then
    Called            Send; refused if too many calls wait already
    NotSent           Send again soon: no owner was there to take it
    ReplyArrived      Deliver, if that call waits; and the owner is there, so calls that it has not answered yet are
                      spared twice instead of being sent again: it is busy
    Abandoned         nothing: the caller waits no longer
    tick              Send what is due, a few at a time, or GiveUp
"""

from __future__ import annotations

import heapq
from collections import OrderedDict
from dataclasses import dataclass, field
from typing import Any

from jitsu_protocol.model.errors import Unavailable

FIRST_RESEND_S = 0.1
"""Soon enough that a request lost with an owner that restarted still meets a `max_wait` of 1.2 s."""
UNSENT_RESEND_S = 0.01
"""There was no owner to send to, or it has too much to do: the request leaves soon after it can; later each time."""
MAX_UNSENT_RESEND_S = 0.1
MAX_AT_ONCE = 32
"""Resend at most this many at once, and the others PAUSE_S later: the process has other things to do."""
PAUSE_S = 0.005
SLOWEST_BYTES_S = 1_000_000
"""The slowest that an owner works on a large request. Copies sent sooner would only fill its memory."""
MAX_SPARED = 2
"""How often a call is spared because its owner has answered others in the meantime."""
MAX_RESEND_S = 0.4
"""A caller that waits long meets an owner that returned within that time (G7 allows a second)."""
MAX_WAITING_CALLS = 20_000
MAX_ANSWERS_KEPT = 1024
MAX_ANSWERS_KEPT_BYTES = 16 * 1024 * 1024


@dataclass(slots=True)
class Called:
    """Somebody calls; the request's frame has so many bytes."""

    id: bytes
    timeout_s: float
    size: int = 0


@dataclass(slots=True)
class NotSent:
    """No owner was there to send this call's frame to."""

    id: bytes


@dataclass(slots=True)
class ReplyArrived:
    """A reply arrived."""

    id: bytes
    reply: Any = None


@dataclass(slots=True)
class Abandoned:
    """Whoever made this call waits for it no longer."""

    id: bytes


CallEvent = Called | NotSent | ReplyArrived | Abandoned


@dataclass(frozen=True, slots=True)
class Send:
    """Send this request's frame, for the first time or again."""

    id: bytes
    timeout_s: float
    """Seconds that are left."""


@dataclass(frozen=True, slots=True)
class Deliver:
    """Hand the reply to whoever called."""

    id: bytes
    reply: Any = None


@dataclass(frozen=True, slots=True)
class GiveUp:
    """Report to whoever called that no reply came in time."""

    id: bytes


CallAction = Send | Deliver | GiveUp


@dataclass(slots=True)
class _Waiting:
    deadline: float
    interval: float = 2 * FIRST_RESEND_S
    resend_at: float = 0.0
    unsent_interval: float = UNSENT_RESEND_S
    sent_at: float = 0.0
    spared: int = 0


@dataclass
class Calls:
    """All calls over one connection that wait for their reply."""

    _waiting: dict[bytes, _Waiting] = field(default_factory=dict)
    _due: list[tuple[float, bytes]] = field(default_factory=list)
    _heard_at: float = 0.0

    def __len__(self) -> int:
        """Return how many calls wait."""
        return len(self._waiting)

    def handle(self, event: CallEvent, now: float) -> list[CallAction]:
        """Handle an event; raises Unavailable if too many calls wait."""
        match event:
            case Called():
                return self._called(event, now)
            case ReplyArrived(id, reply):
                self._heard_at = now
                return [] if self._waiting.pop(id, None) is None else [Deliver(id, reply)]
            case NotSent(id):
                self._not_sent(id, now)
            case Abandoned(id):
                self._waiting.pop(id, None)
        return []

    def _called(self, event: Called, now: float) -> list[CallAction]:
        if len(self._waiting) >= MAX_WAITING_CALLS:
            raise Unavailable("too many calls wait for a reply")
        first = max(FIRST_RESEND_S, event.size / SLOWEST_BYTES_S)
        call = _Waiting(now + event.timeout_s, resend_at=now + first, sent_at=now)
        call.interval = max(call.interval, first)
        self._waiting[event.id] = call
        self._note_due(event.id, call)
        return [Send(event.id, event.timeout_s)]

    def _not_sent(self, id: bytes, now: float) -> None:
        call = self._waiting[id]
        call.resend_at = now + call.unsent_interval
        call.sent_at, call.spared = now, MAX_SPARED
        call.unsent_interval = min(2 * call.unsent_interval, MAX_UNSENT_RESEND_S)
        call.interval = FIRST_RESEND_S
        self._note_due(id, call)

    def _note_due(self, id: bytes, call: _Waiting) -> None:
        heapq.heappush(self._due, (min(call.deadline, call.resend_at), id))

    def deadline(self) -> float | None:
        """Return when a call is to be sent again or given up."""
        while self._due and self._due[0][1] not in self._waiting:
            heapq.heappop(self._due)
        return self._due[0][0] if self._due else None

    def tick(self, now: float) -> list[CallAction]:
        """Return what is due."""
        actions: list[CallAction] = []
        resends = 0
        while self._due and self._due[0][0] <= now:
            _, id = heapq.heappop(self._due)
            call = self._waiting.get(id)
            if call is None:
                continue
            if call.deadline <= now:
                del self._waiting[id]
                actions.append(GiveUp(id))
                continue
            if call.resend_at > now:
                continue  # an older entry of a call that was noted as not sent
            if resends >= MAX_AT_ONCE:
                call.resend_at = now + PAUSE_S
            else:
                call.resend_at = now + call.interval
                call.interval = max(call.interval, min(2 * call.interval, MAX_RESEND_S))
                if self._heard_at > call.sent_at and call.spared < MAX_SPARED:
                    call.spared += 1
                else:
                    resends += 1
                    call.sent_at = now
                    actions.append(Send(id, call.deadline - now))
            self._note_due(id, call)
        return actions


@dataclass
class Answered:
    """The owner's half: a request that was sent twice is carried out once.

    Keeps the ids that are being worked on and the latest replies, within bounds. A request whose reply has been
    forgotten is carried out again, which is safe.
    """

    _working: set[bytes] = field(default_factory=set)
    _replies: OrderedDict[bytes, bytes] = field(default_factory=OrderedDict)
    _bytes: int = 0

    def begin(self, id: bytes) -> bytes | bool:
        """Return True to carry the request out, False if that is under way, or the reply to send again."""
        if id in self._replies:
            return self._replies[id]
        if id in self._working:
            return False
        self._working.add(id)
        return True

    def done(self, id: bytes, reply: bytes | None) -> None:
        """Note the reply; None if there was none to send."""
        self._working.discard(id)
        if reply is None:
            return
        self._replies[id] = reply
        self._bytes += len(reply)
        while len(self._replies) > MAX_ANSWERS_KEPT or self._bytes > MAX_ANSWERS_KEPT_BYTES:
            _, old = self._replies.popitem(last=False)
            self._bytes -= len(old)
