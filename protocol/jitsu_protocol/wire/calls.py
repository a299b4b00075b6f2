"""The caller's half of an rpc, without sockets: which reply belongs to which request, when to ask again,
when to give up.

                 begin ──► waiting ──► answered      reply with this id
                             │  ▲
          resend time passed └──┘ Resend             the owner may have restarted and lost the request;
                             │                       sooner for a call that is `unsent`: no owner was there
                             │
                             └──► expired            deadline passed; a reply that comes later is dropped

Asking again is safe because every request is (messages.py), and an owner answers one id once
at a time (`Answered` below).
"""

from __future__ import annotations

import heapq
from collections import OrderedDict
from dataclasses import dataclass, field

FIRST_RESEND_S = 0.1
"""Soon enough that a request lost with an owner that restarted still meets a `max_wait` of 1.2 s."""
UNSENT_RESEND_S = 0.01
"""There was no owner to send to, or it has too much to do: the request leaves soon after it can; later each time."""
MAX_UNSENT_RESEND_S = 0.1
MAX_AT_ONCE = 32
"""So many are sent again at one time, the others PAUSE_S later: what else a process does is not held up by many."""
PAUSE_S = 0.005
SLOWEST_BYTES_S = 1_000_000
MAX_SPARED = 2
"""Times that a call is not sent again because its owner has answered others meanwhile: it is there, and busy."""
MAX_RESEND_S = 0.4
"""A caller that waits long meets an owner that returned within that time (G7 allows a second)."""
MAX_WAITING_CALLS = 20_000
MAX_ANSWERS_KEPT = 1024
MAX_ANSWERS_KEPT_BYTES = 16 * 1024 * 1024


@dataclass(frozen=True)
class Resend:
    """Send this request's frame (again)."""

    id: bytes
    timeout: float
    """Seconds that are left."""


@dataclass(frozen=True)
class Expired:
    """No reply came in time."""

    id: bytes


@dataclass
class _Waiting:
    deadline: float
    interval: float = 2 * FIRST_RESEND_S
    resend_at: float = 0.0
    unsent_interval: float = UNSENT_RESEND_S
    sent_at: float = 0.0
    spared: int = 0


@dataclass
class Calls:
    """All calls over one socket that wait for their reply."""

    _waiting: dict[bytes, _Waiting] = field(default_factory=dict)
    _due: list[tuple[float, bytes]] = field(default_factory=list)
    _heard_at: float = 0.0

    def __len__(self) -> int:
        """Return how many calls wait."""
        return len(self._waiting)

    def begin(self, id: bytes, now: float, timeout: float, size: int = 0) -> bool:
        """Note a call of so many bytes that is being sent; False if too many wait already.

        A large one is not sent again before its owner can have worked on it: copies would fill its memory.
        """
        if len(self._waiting) >= MAX_WAITING_CALLS:
            return False
        first = max(FIRST_RESEND_S, size / SLOWEST_BYTES_S)
        call = _Waiting(now + timeout, resend_at=now + first, sent_at=now)
        call.interval = max(call.interval, first)
        self._waiting[id] = call
        heapq.heappush(self._due, (min(call.deadline, call.resend_at), id))
        return True

    def unsent(self, id: bytes, now: float) -> None:
        """Note that no owner was there to send this call's frame to."""
        call = self._waiting[id]
        call.resend_at = now + call.unsent_interval
        call.sent_at, call.spared = now, MAX_SPARED
        call.unsent_interval = min(2 * call.unsent_interval, MAX_UNSENT_RESEND_S)
        call.interval = FIRST_RESEND_S
        heapq.heappush(self._due, (min(call.deadline, call.resend_at), id))

    def heard(self, now: float) -> None:
        """Note that the owner has answered something."""
        self._heard_at = now

    def answered(self, id: bytes) -> bool:
        """Say whether a reply with this id is waited for; it is no more, then."""
        return self._waiting.pop(id, None) is not None

    def next_deadline(self) -> float | None:
        """Return when `passed` wants to be called."""
        while self._due and self._due[0][1] not in self._waiting:
            heapq.heappop(self._due)
        return self._due[0][0] if self._due else None

    def passed(self, now: float) -> list[Resend | Expired]:
        """Return what is due."""
        actions: list[Resend | Expired] = []
        resends = 0
        while self._due and self._due[0][0] <= now:
            _, id = heapq.heappop(self._due)
            call = self._waiting.get(id)
            if call is None:
                continue
            if call.deadline <= now:
                del self._waiting[id]
                actions.append(Expired(id))
                continue
            if call.resend_at > now:
                continue  # an older entry of a call that was noted as unsent
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
                    actions.append(Resend(id, call.deadline - now))
            heapq.heappush(self._due, (min(call.deadline, call.resend_at), id))
        return actions


@dataclass
class Answered:
    """The owner's half: a request that was sent twice is carried out once.

    Keeps the ids that are being worked on and the latest replies, within bounds; a request whose reply has
    been forgotten is carried out again, which is safe.
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
