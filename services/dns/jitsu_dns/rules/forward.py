"""Forwards questions about names of others to other servers.

For each question that is under way:

    it begins                            the healthiest server is asked over UDP, from a port of its own, with a random
                                         id and a random mixture of upper and lower case
    the response is truncated            the same server is asked over TCP
    it has the name in another case      the same server is asked again, with the name in lower case
    FORMERR, NOTIMP or BADVERS           the same server is asked again, without EDNS
    TRY_S is over, or the server failed  the next server is asked (SERVFAIL, REFUSED, malformed, no connection)
    TOTAL_S is over, or no server left   everybody who waits gets SERVFAIL with the reason, and so do all who ask the
                                         same within FAILURE_S
    the response is an answer            everybody who waits gets it; it is kept for as long as its TTLs allow

Equal questions are asked once. If one of the servers asks us the question that we are asking it, that is a loop, and
its question is refused. What is known about the servers is in health.py, and what is kept in kept.py.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from heapq import heappop, heappush
from typing import TYPE_CHECKING

from jitsu_dns.rules.events import DROP, ClientGone, Drop, Reply, SendResponse
from jitsu_dns.rules.health import Health, Server
from jitsu_dns.rules.kept import KeptAnswers, Key
from jitsu_dns.rules.message import CD, RA, Ede, Rcode
from jitsu_dns.rules.rates import Limited
from jitsu_dns.rules.upstream import Response, Unfit, parse_response, question_for

if TYPE_CHECKING:
    from collections.abc import Hashable, Sequence
    from random import Random

    from jitsu_dns.rules.exchange import Exchange
    from jitsu_dns.rules.message import Records
    from jitsu_dns.rules.rates import ResponseLimit
    from jitsu_protocol.rates import Networks

TRY_S = 0.8
TOTAL_S = 3.0
"""Below the 5 s after which a stub resolver asks again (resolv.conf(5))."""
MAX_UNDER_WAY = 1000
MAX_WAITING_EACH = 100


@dataclass(frozen=True, slots=True)
class Question:
    """What a client wants to know about a name that is not ours."""

    exchange: Exchange
    aliases: Records | None = None
    """Ours, which lead from the query's name to `target`."""
    target: bytes = b""

    @property
    def name(self) -> bytes:
        """The name that other servers are asked for."""
        return self.target or self.exchange.query.key

    @property
    def key(self) -> Key:
        """What questions that are asked once have in common."""
        query = self.exchange.query
        wants_dnssec = query.edns is not None and query.edns.do
        return self.name, query.question[-4:], wants_dnssec, bool(query.flags & CD)


# --- events and actions ---


@dataclass(frozen=True, slots=True)
class QuestionAsked:
    """A client, for whom that is done, has asked about a name that is not ours."""

    question: Question


@dataclass(frozen=True, slots=True)
class ResponseReceived:
    """Something has come in response to an attempt."""

    attempt: int
    data: bytes
    tcp: bool = False


@dataclass(frozen=True)
class AttemptFailed:
    """An attempt has not reached its server."""

    attempt: int
    reason: str


@dataclass(frozen=True)
class ServersChanged:
    """There are other servers to ask, or other clients to ask them for."""

    servers: Sequence[Server]
    clients: Networks


Event = QuestionAsked | ResponseReceived | AttemptFailed | ServersChanged | ClientGone


@dataclass(frozen=True)
class AskServer:
    """Send a packet to a server; then handle ResponseReceived or AttemptFailed with this attempt."""

    attempt: int
    server: Server
    data: bytes
    tcp: bool


@dataclass(frozen=True)
class ForgetAttempt:
    """Close what an attempt has opened: nobody waits for it any more."""

    attempt: int


Action = AskServer | ForgetAttempt | SendResponse | Reply | Drop


# --- the machine ---


@dataclass
class _UnderWay:
    """One question that servers are being asked."""

    first: Question
    left: list[Server]
    total_at: float
    waiting: list[Question] = field(default_factory=list)
    server: Server = ("", 0)
    sent: bytes = b""
    attempt: int = 0
    mixed: bool = True
    edns: bool = True
    reason: str = "no server answers"


class _Attempts:
    """The packets that were sent and not answered yet, and when each is given up."""

    def __init__(self) -> None:
        self._keys: dict[int, Key] = {}
        self._deadlines: list[tuple[float, int]] = []
        """A heap; attempts that are over stay in it until it is their turn."""
        self._last = 0

    def begin(self, key: Key, give_up_at: float) -> int:
        """Return the number of a new attempt for a question."""
        self._last += 1
        self._keys[self._last] = key
        heappush(self._deadlines, (give_up_at, self._last))
        return self._last

    def key_of(self, attempt: int) -> Key | None:
        """Return the question that an attempt is for, None if it is over."""
        return self._keys.get(attempt)

    def end(self, attempt: int) -> bool:
        """Forget an attempt; return whether it was still under way."""
        return self._keys.pop(attempt, None) is not None

    def deadline(self) -> float | None:
        """Return when the next attempt is given up."""
        while self._deadlines and self._deadlines[0][1] not in self._keys:
            heappop(self._deadlines)
        return self._deadlines[0][0] if self._deadlines else None

    def pop_due(self, now: float) -> int | None:
        """Return an attempt that is to be given up."""
        due = self.deadline()
        return heappop(self._deadlines)[1] if due is not None and now >= due else None


@dataclass
class ForwardCounts:
    """What has happened since the start, for the metrics."""

    asked: int = 0
    hits: int = 0
    failures: int = 0


class Forwarder:
    """All questions that are under way."""

    def __init__(
        self,
        servers: Sequence[Server],
        clients: Networks,
        random: Random,
        responses: ResponseLimit | None = None,
        max_under_way: int = MAX_UNDER_WAY,
    ) -> None:
        """`clients` are those for whom it is done; `responses` limits what they get; `random` must be unguessable."""
        self.health = Health(servers)
        self.clients = clients
        self.kept = KeptAnswers()
        self.counts = ForwardCounts()
        self._random = random
        self._responses = responses
        self._max_under_way = max_under_way
        self._under_way: dict[Key, _UnderWay] = {}
        self._attempts = _Attempts()
        self._by_client: dict[Hashable, set[Key]] = {}
        """Those over TCP, who may be gone before they are answered."""
        self._actions: list[Action] = []

    def __len__(self) -> int:
        """Return how many questions are under way."""
        return len(self._under_way)

    def handle(self, event: Event, now: float) -> Sequence[Action]:
        """Return what is to be done because of an event."""
        match event:
            case QuestionAsked(question):
                answer = self._ask(question, now)
                if answer is not None:
                    self._actions.append(Reply(answer) if answer else DROP)
            case ResponseReceived():
                self._received(event, now)
            case AttemptFailed(attempt, reason):
                self._failed(attempt, reason, now)
            case ServersChanged(servers, clients):
                self._reload(servers, clients)
            case ClientGone(client):
                self._gone(client)
        return self._flush()

    def deadline(self) -> float | None:
        """Return when the next attempt is given up."""
        return self._attempts.deadline()

    def tick(self, now: float) -> Sequence[Action]:
        """Give up the attempts whose time is over."""
        while (attempt := self._attempts.pop_due(now)) is not None:
            key = self._attempts.key_of(attempt)
            assert key is not None
            under_way = self._under_way[key]
            if now >= under_way.total_at:
                self.health.failed(under_way.server, now)
                self._give_up(key, under_way, now)
            else:
                self._failed(attempt, "it does not answer", now)
        return self._flush()

    def _flush(self) -> list[Action]:
        actions, self._actions = self._actions, []
        return actions

    # --- events ---

    def _reload(self, servers: Sequence[Server], clients: Networks) -> None:
        """Ask other servers; questions that are under way are asked of those that stay."""
        self.health.replace(servers)
        self.clients = clients
        for under_way in self._under_way.values():
            under_way.left = [each for each in under_way.left if each in servers]

    def _ask(self, question: Question, now: float) -> bytes | None:
        """Return the answer if it is known (b"" if it is not sent), None if it comes later."""
        key, client = question.key, question.exchange.client
        kept = self.kept.answer(key, now)
        if kept is not None:
            self.counts.hits += 1
            return self._answer(question, kept[1], kept[0], now)
        if reason := self.kept.failure(key, now):
            self.counts.hits += 1
            return self._servfail(question, reason, now, Ede.CACHED_ERROR)
        under_way = self._under_way.get(key)
        if under_way is not None and client.address in self.health.addresses:
            return self._servfail(question, "a forwarding loop: a server that we forward to forwards to us", now)
        if under_way is None:
            if not self.health.servers:
                return self._servfail(question, "there is no server to forward to (dns.forward)", now)
            if len(self._under_way) >= self._max_under_way:
                return self._servfail(question, "too many questions are under way", now)
            under_way = self._under_way[key] = _UnderWay(question, self.health.order(now), now + TOTAL_S)
            self._next(key, under_way, now)
        if len(under_way.waiting) >= MAX_WAITING_EACH:
            return self._servfail(question, "too many wait for this", now)
        under_way.waiting.append(question)
        if not client.udp:
            self._by_client.setdefault(client.id, set()).add(key)
        return None

    def _received(self, event: ResponseReceived, now: float) -> None:
        """Handle what came for an attempt; what is not a response to it is ignored."""
        key = self._attempts.key_of(event.attempt)
        if key is None:
            return
        under_way = self._under_way[key]
        response = parse_response(event.data, under_way.sent)
        if response is Unfit.FORGED and not event.tcp:
            return
        if response is Unfit.OTHER_CASE and under_way.mixed:
            under_way.mixed = False
            self._ask_again(key, under_way, now)
            return
        if isinstance(response, Unfit):
            self._failed(event.attempt, "it sends something that is not an answer", now)
            return
        if response.rcode in (Rcode.FORMERR, Rcode.NOTIMP, Rcode.BADVERS) and under_way.edns:
            under_way.edns = False
            self._ask_again(key, under_way, now)
            return
        if response.rcode in (Rcode.SERVFAIL, Rcode.REFUSED, Rcode.NOTIMP, Rcode.FORMERR) or response.rcode > 15:
            named = Rcode(response.rcode).name if response.rcode in set(Rcode) else f"rcode {response.rcode}"
            self._failed(event.attempt, f"it says {named}", now)
            return
        self.health.answered(under_way.server, now, mixed=under_way.mixed, edns=under_way.edns)
        if response.truncated and not event.tcp:
            self._send(key, under_way, under_way.sent, now, tcp=True)
            return
        self._end(key, under_way)
        if response.ttl and not response.truncated:
            self.kept.keep(key, response, now)
        for question in under_way.waiting:
            self._deliver(question, self._answer(question, response, 0, now))

    def _failed(self, attempt: int, reason: str, now: float) -> None:
        key = self._attempts.key_of(attempt)
        if key is None:
            return
        under_way = self._under_way[key]
        self.health.failed(under_way.server, now)
        under_way.reason = f"{under_way.server[0]}: {reason}"
        self._next(key, under_way, now)

    def _gone(self, client: Hashable) -> None:
        for key in self._by_client.pop(client, ()):
            under_way = self._under_way[key]
            under_way.waiting = [each for each in under_way.waiting if each.exchange.client.id != client]

    # --- one question ---

    def _next(self, key: Key, under_way: _UnderWay, now: float) -> None:
        """Ask the next server, or give up."""
        is_new = not under_way.attempt
        if not under_way.left or not (under_way.waiting or is_new):
            self._give_up(key, under_way, now)
            return
        under_way.server = under_way.left.pop(0)
        under_way.mixed = self.health.keeps_case(under_way.server, now)
        under_way.edns = self.health.has_edns(under_way.server, now)
        self._ask_again(key, under_way, now)

    def _ask_again(self, key: Key, under_way: _UnderWay, now: float) -> None:
        """Ask the same server, with what it is believed to understand."""
        question = under_way.first
        name = self._mixed(question.name) if under_way.mixed else question.name
        sent = question_for(question.exchange.query, self._random.randrange(65536), name, edns=under_way.edns)
        self._send(key, under_way, sent, now, tcp=False)

    def _send(self, key: Key, under_way: _UnderWay, data: bytes, now: float, *, tcp: bool) -> None:
        self._forget_attempt(under_way)
        self.counts.asked += 1
        # With nobody else to ask, it may take all the time there is.
        try_at = min(now + TRY_S, under_way.total_at) if under_way.left else under_way.total_at
        under_way.attempt, under_way.sent = self._attempts.begin(key, try_at), data
        self._actions.append(AskServer(under_way.attempt, under_way.server, data, tcp))

    def _give_up(self, key: Key, under_way: _UnderWay, now: float) -> None:
        self.counts.failures += 1
        self._end(key, under_way)
        if under_way.waiting:
            self.kept.keep_failure(key, under_way.reason, now)
        for question in under_way.waiting:
            self._deliver(question, self._servfail(question, under_way.reason, now))

    def _end(self, key: Key, under_way: _UnderWay) -> None:
        self._forget_attempt(under_way)
        del self._under_way[key]
        for question in under_way.waiting:
            keys = self._by_client.get(question.exchange.client.id)
            if keys is not None:
                keys.discard(key)
                if not keys:
                    del self._by_client[question.exchange.client.id]

    def _forget_attempt(self, under_way: _UnderWay) -> None:
        if self._attempts.end(under_way.attempt):
            self._actions.append(ForgetAttempt(under_way.attempt))

    def _mixed(self, name: bytes) -> bytes:
        """Return a name with each letter in a random case: 0x20, what a forger has to guess as well."""
        bits = self._random.getrandbits(len(name))
        upper = name.upper()  # also the length bytes, which are below 64 and so no letters
        return bytes(u if bits >> n & 1 else c for n, (c, u) in enumerate(zip(name, upper, strict=True)))

    # --- answers ---

    def _deliver(self, question: Question, data: bytes) -> None:
        if data:
            self._actions.append(SendResponse(question.exchange.client.id, data))

    def _answer(self, question: Question, response: Response, age_s: int, now: float) -> bytes:
        exchange, query = question.exchange, question.exchange.query
        if question.aliases is not None:
            joined = response.behind(question.aliases, query, question.target, age_s)
            if joined is None:
                return self._servfail(question, "the answer cannot be read", now)
            response, age_s = joined, 0
        data = response.answer(query, age_s, udp=exchange.client.udp, extras=exchange.options)
        alike = (response.rcode, query.question.lower() if response.rcode == Rcode.NOERROR else b"")
        return self._limited(exchange, data, alike, now)

    def _servfail(self, question: Question, reason: str, now: float, code: Ede = Ede.NETWORK_ERROR) -> bytes:
        exchange = question.exchange
        reply = bytearray(exchange.respond(Rcode.SERVFAIL, error=(code, reason)))
        reply[3] |= RA | (exchange.query.flags & CD)
        return self._limited(exchange, bytes(reply), (Rcode.SERVFAIL, b""), now)

    def _limited(self, exchange: Exchange, data: bytes, alike: Hashable, now: float) -> bytes:
        """Return what is sent: the answer, or if that is over the limit one without records, or b"" for nothing."""
        client = exchange.client
        if self._responses is None or not client.udp or exchange.is_proven:
            return data
        verdict = self._responses.judge(client.address, ("forwarded", alike), now)
        if verdict is Limited.SEND:
            return data
        return b"" if verdict is Limited.DROP else exchange.truncated(authoritative=False)
