"""Questions that are not held here, given on to other servers: the machine of the forwarder.

Driven by questions, by what comes back, and by the clock. For each question that is under way:

    asked        the server that is healthiest, over UDP, from a port of its own, with a random id and mixture of cases
    truncated    the same server over TCP
    TRY_S over, or the server failed (SERVFAIL, REFUSED, no connection)    the next server
    TOTAL_S over, or no server left        everybody who waits: SERVFAIL with the reason
    answered     everybody who waits; kept as long as its TTLs allow

A server that fails is asked last for a while that doubles. Questions alike are asked once. A question that one of the
servers asks while we ask it the same is a loop, and refused.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from jitsu_dns.rules.message import NO_EXTRAS, Ede, Extras, Rcode, respond
from jitsu_dns.rules.upstream import RA, parse_response, question_for

if TYPE_CHECKING:
    from collections.abc import Hashable, Sequence
    from random import Random

    from jitsu_dns.rules.message import Query
    from jitsu_dns.rules.upstream import Response
    from jitsu_protocol.limits import Networks

TRY_S = 0.8
TOTAL_S = 3.0
"""Below the 5 s after which a stub resolver asks again."""
MAX_UNDER_WAY = 1000
MAX_WAITING_EACH = 100
MAX_KEPT = 10_000
FIRST_PENALTY_S = 1.0
MAX_PENALTY_S = 30.0

Server = tuple[str, int]
"""Address and port."""
Key = tuple[bytes, bytes, bool]
"""Name in lower case, type and class, whether DNSSEC records are wanted."""


@dataclass(frozen=True)
class AskServer:
    """Send a packet to a server; answer with `received` or `failed`, both with this attempt."""

    attempt: int
    server: Server
    data: bytes
    tcp: bool


@dataclass(frozen=True)
class ForgetServer:
    """Nobody waits for that attempt any more."""

    attempt: int


@dataclass(frozen=True)
class Deliver:
    """Send a response to a client."""

    client: Hashable
    data: bytes


Action = AskServer | ForgetServer | Deliver


@dataclass
class _UnderWay:
    """One question."""

    waiting: list[tuple[Query, Hashable, bool]]
    """Query, client, whether over UDP."""
    left: list[Server]
    total_at: float
    server: Server = ("", 0)
    sent: bytes = b""
    attempt: int = 0
    try_at: float = 0.0
    reason: str = "no server answers"


@dataclass
class Health:
    """What is known of the servers."""

    servers: Sequence[Server]
    _penalty: dict[Server, tuple[float, float]] = field(default_factory=dict)
    """Server -> until when it comes last, how long that is."""

    def order(self, now: float) -> list[Server]:
        """Return the servers, the healthiest first."""
        return sorted(self.servers, key=lambda each: max(0.0, self._penalty.get(each, (0.0, 0.0))[0] - now))

    def failed(self, server: Server, now: float) -> None:
        """Note a failure."""
        until, length = self._penalty.get(server, (0.0, FIRST_PENALTY_S / 2))
        if now >= until:
            length = min(2 * length, MAX_PENALTY_S)
            self._penalty[server] = (now + length, length)

    def answered(self, server: Server) -> None:
        """Note an answer."""
        self._penalty.pop(server, None)


class Forwarder:
    """All questions that are given on."""

    def __init__(
        self, servers: Sequence[Server], clients: Networks, addresses: frozenset[bytes], random: Random
    ) -> None:
        """`clients` are those for whom it is done; `addresses` those of the servers; `random` must not be guessable."""
        self.health = Health(servers)
        self.clients = clients
        self._addresses = addresses
        self._random = random
        self._under_way: dict[Key, _UnderWay] = {}
        self._by_attempt: dict[int, Key] = {}
        self._kept: OrderedDict[Key, tuple[float, Response]] = OrderedDict()
        self._attempts = 0
        self._actions: list[Action] = []
        self.asked = self.hits = self.failures = 0

    def __len__(self) -> int:
        """Return how many questions are under way."""
        return len(self._under_way)

    def ask(self, query: Query, client: Hashable, address: bytes, now: float, *, udp: bool) -> bytes | None:
        """Take a question; return the answer if it is known, None if it comes later as an action."""
        key = (query.key, query.question[-4:], query.edns is not None and query.edns.do)
        kept = self._kept.get(key)
        if kept is not None and now < kept[0] + kept[1].ttl:
            self.hits += 1
            self._kept.move_to_end(key)
            return kept[1].answer(query, int(now - kept[0]), udp=udp)
        under_way = self._under_way.get(key)
        if under_way is not None and address in self._addresses:
            return self._servfail(query, "a loop: a server that we ask this asks us", udp=udp)
        if under_way is None:
            if len(self._under_way) >= MAX_UNDER_WAY:
                return self._servfail(query, "too many questions are under way", udp=udp)
            order = self.health.order(now)
            under_way = self._under_way[key] = _UnderWay([], order, now + TOTAL_S)
            self._next(key, under_way, query, now)
        if len(under_way.waiting) >= MAX_WAITING_EACH:
            return self._servfail(query, "too many wait for this", udp=udp)
        under_way.waiting.append((query, client, udp))
        return None

    def received(self, attempt: int, data: bytes, now: float, *, tcp: bool = False) -> None:
        """Take what came for an attempt; what is no answer to it is passed over."""
        key = self._by_attempt.get(attempt)
        if key is None:
            return
        under_way = self._under_way[key]
        response = parse_response(data, under_way.sent)
        if response is None:
            if tcp:
                self.failed(attempt, "it sends what is no answer", now)
            return
        if response.rcode in (Rcode.SERVFAIL, Rcode.REFUSED, Rcode.NOTIMP, Rcode.FORMERR):
            self.failed(attempt, f"it says {Rcode(response.rcode).name}", now)
            return
        self.health.answered(under_way.server)
        if response.truncated and not tcp:
            self._send(key, under_way, under_way.sent, now, tcp=True)
            return
        self._end(key, under_way)
        if response.ttl and not response.truncated:
            self._kept[key] = (now, response)
            if len(self._kept) > MAX_KEPT:
                self._kept.popitem(last=False)
        for query, client, udp in under_way.waiting:
            self._actions.append(Deliver(client, response.answer(query, 0, udp=udp)))

    def failed(self, attempt: int, reason: str, now: float) -> None:
        """Note that an attempt came to nothing."""
        key = self._by_attempt.get(attempt)
        if key is None:
            return
        under_way = self._under_way[key]
        self.health.failed(under_way.server, now)
        under_way.reason = f"{under_way.server[0]}: {reason}"
        self._next(key, under_way, under_way.waiting[0][0] if under_way.waiting else None, now)

    def gone(self, client: Hashable) -> None:
        """Note that a client can be sent nothing more."""
        for under_way in self._under_way.values():
            under_way.waiting = [each for each in under_way.waiting if each[1] != client]

    def next_deadline(self) -> float | None:
        """Return when `passed` wants to be called."""
        return min((min(each.try_at, each.total_at) for each in self._under_way.values()), default=None)

    def passed(self, now: float) -> None:
        """Look at the clock."""
        for key, under_way in list(self._under_way.items()):
            if now >= under_way.total_at:
                self.health.failed(under_way.server, now)
                self._give_up(key, under_way)
            elif now >= under_way.try_at:
                self.failed(under_way.attempt, "it does not answer", now)

    def take(self) -> list[Action]:
        """Return what is to be done, and forget it."""
        actions, self._actions = self._actions, []
        return actions

    # --- below ---

    def _next(self, key: Key, under_way: _UnderWay, query: Query | None, now: float) -> None:
        """Ask the next server, or give up."""
        if query is None or not under_way.left:
            self._give_up(key, under_way)
            return
        under_way.server = under_way.left.pop(0)
        sent = question_for(query, self._random.randrange(65536), self._mixed(query.key))
        self._send(key, under_way, sent, now, tcp=False)

    def _send(self, key: Key, under_way: _UnderWay, data: bytes, now: float, *, tcp: bool) -> None:
        self._forget_attempt(under_way)
        self._attempts += 1
        self.asked += 1
        under_way.attempt, under_way.sent = self._attempts, data
        # With nobody else to ask, it may take all the time there is.
        under_way.try_at = now + TRY_S if under_way.left else under_way.total_at
        self._by_attempt[under_way.attempt] = key
        self._actions.append(AskServer(under_way.attempt, under_way.server, data, tcp))

    def _give_up(self, key: Key, under_way: _UnderWay) -> None:
        self.failures += 1
        self._end(key, under_way)
        for query, client, udp in under_way.waiting:
            self._actions.append(Deliver(client, self._servfail(query, under_way.reason, udp=udp)))

    def _end(self, key: Key, under_way: _UnderWay) -> None:
        self._forget_attempt(under_way)
        del self._under_way[key]

    def _forget_attempt(self, under_way: _UnderWay) -> None:
        if self._by_attempt.pop(under_way.attempt, None) is not None:
            self._actions.append(ForgetServer(under_way.attempt))

    def _mixed(self, name: bytes) -> bytes:
        """Return a name with each letter in a random case: 0x20, what a forger has to guess as well."""
        bits = self._random.getrandbits(len(name))
        upper = name.upper()  # also the length bytes, which are below 64 and so no letters
        return bytes(u if bits >> n & 1 else c for n, (c, u) in enumerate(zip(name, upper, strict=True)))

    @staticmethod
    def _servfail(query: Query, reason: str, *, udp: bool) -> bytes:
        extras = Extras((Ede.NETWORK_ERROR, reason)) if query.edns is not None else NO_EXTRAS
        reply = bytearray(respond(query, Rcode.SERVFAIL, authoritative=False, udp=udp, extras=extras))
        reply[3] |= RA
        return bytes(reply)
