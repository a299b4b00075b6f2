"""Questions that are not held here, given on to other servers: the machine of the forwarder.

Driven by questions, by what comes back, and by the clock. For each question that is under way:

    asked        the server that is healthiest, over UDP, from a port of its own, with a random id and mixture of cases
    truncated    the same server over TCP
    another case of the name comes back    the same server, the name in lower case
    FORMERR, NOTIMP, BADVERS    the same server without EDNS
    TRY_S over, or the server failed (SERVFAIL, REFUSED, malformed, no connection)    the next server
    TOTAL_S over, or no server left        everybody who waits: SERVFAIL with the reason; the same for FAILURE_S
    answered     everybody who waits; kept as long as its TTLs allow

What a server turns out not to be able to do is remembered for HABIT_S, once it has answered without. A server that
fails is asked last for a while that doubles. Questions alike are asked once. A question that one of the servers asks
while we ask it the same is a loop, and refused.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass, field
from heapq import heappop, heappush
from typing import TYPE_CHECKING

from jitsu_dns.rules.access import Limited
from jitsu_dns.rules.message import CD, NO_EXTRAS, RA, Ede, Extras, Rcode, respond, truncated
from jitsu_dns.rules.upstream import Response, Unfit, parse_response, question_for

if TYPE_CHECKING:
    from collections.abc import Hashable, Sequence
    from random import Random

    from jitsu_dns.rules.access import ResponseLimit
    from jitsu_dns.rules.actions import Asker
    from jitsu_dns.rules.message import Query, Records
    from jitsu_protocol.rates import Networks

TRY_S = 0.8
TOTAL_S = 3.0
"""Below the 5 s after which a stub resolver asks again."""
MAX_UNDER_WAY = 1000
MAX_WAITING_EACH = 100
MAX_KEPT_BYTES = 32 * 1024 * 1024
"""Of answers that are kept: a quarter of a million short ones, or 500 of the longest."""
FAILURE_S = 1.0  # RFC 9520, 3.2: at least a second
MAX_FAILURES_KEPT = 10_000
HABIT_S = 3600.0
FIRST_PENALTY_S = 1.0
MAX_PENALTY_S = 30.0

Server = tuple[str, int]
"""Address and port."""
Key = tuple[bytes, bytes, bool, bool]
"""Name in lower case, type and class, whether DNSSEC records are wanted, whether unchecked ones are (CD)."""


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


@dataclass(frozen=True, slots=True)
class Question:
    """What a client wants to know of names that are not held here."""

    query: Query
    asker: Asker
    extras: Extras = NO_EXTRAS
    is_proven: bool = False
    """The client has shown that its address is its own."""
    aliases: Records | None = None
    """Ours, which lead from the query's name to `target`."""
    target: bytes = b""

    @property
    def name(self) -> bytes:
        """The name that other servers are asked for."""
        return self.target or self.query.key


@dataclass
class _UnderWay:
    """One question."""

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


@dataclass
class Health:
    """What is known of the servers."""

    servers: Sequence[Server]
    _penalty: dict[Server, tuple[float, float]] = field(default_factory=dict)
    """Server -> until when it comes last, how long that is."""
    _one_case: dict[Server, float] = field(default_factory=dict)
    """Servers that give names back in another case -> until when that is believed."""
    _no_edns: dict[Server, float] = field(default_factory=dict)

    def order(self, now: float) -> list[Server]:
        """Return the servers, the healthiest first."""
        return sorted(self.servers, key=lambda each: max(0.0, self._penalty.get(each, (0.0, 0.0))[0] - now))

    def failed(self, server: Server, now: float) -> None:
        """Note a failure."""
        until, length = self._penalty.get(server, (0.0, FIRST_PENALTY_S / 2))
        if now >= until:
            length = min(2 * length, MAX_PENALTY_S)
            self._penalty[server] = (now + length, length)

    def answered(self, server: Server, now: float, *, mixed: bool, edns: bool) -> None:
        """Note an answer, to a question with or without mixed cases and EDNS."""
        self._penalty.pop(server, None)
        if not mixed and not self._is(self._one_case, server, now):
            self._one_case[server] = now + HABIT_S
        if not edns and not self._is(self._no_edns, server, now):
            self._no_edns[server] = now + HABIT_S

    def keeps_case(self, server: Server, now: float) -> bool:
        """Say whether a server gives names back as they were sent, as far as is known."""
        return not self._is(self._one_case, server, now)

    def has_edns(self, server: Server, now: float) -> bool:
        """Say whether a server knows EDNS, as far as is known."""
        return not self._is(self._no_edns, server, now)

    def replace(self, servers: Sequence[Server]) -> None:
        """Take other servers."""
        self.servers = servers
        for known in (self._penalty, self._one_case, self._no_edns):
            for server in [each for each in known if each not in servers]:
                del known[server]

    @staticmethod
    def _is(known: dict[Server, float], server: Server, now: float) -> bool:
        return now < known.get(server, 0.0)


class Kept:
    """Answers and failures that need not be asked for again."""

    def __init__(self) -> None:
        self._answers: OrderedDict[Key, tuple[float, Response]] = OrderedDict()
        self._failures: OrderedDict[Key, tuple[float, str]] = OrderedDict()
        self.size_bytes = 0

    def answer(self, key: Key, now: float) -> tuple[int, Response] | None:
        """Return how old a kept answer is, in seconds, and the answer."""
        found = self._answers.get(key)
        if found is None or now >= found[0] + found[1].ttl:
            return None
        self._answers.move_to_end(key)
        return int(now - found[0]), found[1]

    def failure(self, key: Key, now: float) -> str:
        """Return why a question failed a moment ago, or nothing."""
        until, reason = self._failures.get(key, (0.0, ""))
        return reason if now < until else ""

    def keep(self, key: Key, response: Response, now: float) -> None:
        """Keep an answer; those that were not asked for lately make room."""
        self._forget(key)
        self._answers[key] = (now, response)
        self.size_bytes += len(key[0]) + response.size_bytes
        while self.size_bytes > MAX_KEPT_BYTES:
            self._forget(next(iter(self._answers)))

    def keep_failure(self, key: Key, reason: str, now: float) -> None:
        """Keep a failure for a moment (RFC 9520)."""
        self._failures.pop(key, None)
        self._failures[key] = (now + FAILURE_S, reason)
        if len(self._failures) > MAX_FAILURES_KEPT:
            self._failures.popitem(last=False)

    def _forget(self, key: Key) -> None:
        found = self._answers.pop(key, None)
        if found is not None:
            self.size_bytes -= len(key[0]) + found[1].size_bytes


class Forwarder:
    """All questions that are given on."""

    def __init__(
        self,
        servers: Sequence[Server],
        clients: Networks,
        addresses: frozenset[bytes],
        random: Random,
        responses: ResponseLimit | None = None,
        max_under_way: int = MAX_UNDER_WAY,
    ) -> None:
        """`clients` are those for whom it is done; `addresses` those of the servers; `random` must not be guessable.

        `responses` limits what is sent over UDP.
        """
        self.health = Health(servers)
        self.clients = clients
        self._addresses = addresses
        self._random = random
        self._responses = responses
        self._max_under_way = max_under_way
        self._under_way: dict[Key, _UnderWay] = {}
        self._by_attempt: dict[int, Key] = {}
        self._by_client: dict[Hashable, set[Key]] = {}
        """Those over TCP, who may be gone before they are answered."""
        self._deadlines: list[tuple[float, int]] = []
        """A heap: when an attempt is given up; of attempts that are over, too, until it is their turn."""
        self.kept = Kept()
        self._attempts = 0
        self._actions: list[Action] = []
        self.asked = self.hits = self.failures = 0

    def __len__(self) -> int:
        """Return how many questions are under way."""
        return len(self._under_way)

    def reload(self, servers: Sequence[Server], clients: Networks, addresses: frozenset[bytes]) -> None:
        """Take other servers and clients; questions that are under way are asked of those that stay."""
        self.health.replace(servers)
        self.clients, self._addresses = clients, addresses
        for under_way in self._under_way.values():
            under_way.left = [each for each in under_way.left if each in servers]

    def ask(self, question: Question, now: float) -> bytes | None:
        """Take a question; return the answer if it is known (b"" if it is not sent), None if it comes later."""
        query = question.query
        key = (question.name, query.question[-4:], query.edns is not None and query.edns.do, bool(query.flags & CD))
        kept = self.kept.answer(key, now)
        if kept is not None:
            self.hits += 1
            return self._answer(question, kept[1], kept[0], now)
        if reason := self.kept.failure(key, now):
            self.hits += 1
            return self._servfail(question, reason, now, Ede.CACHED_ERROR)
        under_way = self._under_way.get(key)
        if under_way is not None and question.asker.address in self._addresses:
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
        if not question.asker.udp:
            self._by_client.setdefault(question.asker.client, set()).add(key)
        return None

    def received(self, attempt: int, data: bytes, now: float, *, tcp: bool = False) -> None:
        """Take what came for an attempt; what is no answer to it is passed over."""
        key = self._by_attempt.get(attempt)
        if key is None:
            return
        under_way = self._under_way[key]
        response = parse_response(data, under_way.sent)
        if response is Unfit.FORGED and not tcp:
            return
        if response is Unfit.OTHER_CASE and under_way.mixed:
            under_way.mixed = False
            self._ask_again(key, under_way, now)
            return
        if isinstance(response, Unfit):
            self.failed(attempt, "it sends something that is not an answer", now)
            return
        if response.rcode in (Rcode.FORMERR, Rcode.NOTIMP, Rcode.BADVERS) and under_way.edns:
            under_way.edns = False
            self._ask_again(key, under_way, now)
            return
        if response.rcode in (Rcode.SERVFAIL, Rcode.REFUSED, Rcode.NOTIMP, Rcode.FORMERR) or response.rcode > 15:
            named = Rcode(response.rcode).name if response.rcode in set(Rcode) else f"rcode {response.rcode}"
            self.failed(attempt, f"it says {named}", now)
            return
        self.health.answered(under_way.server, now, mixed=under_way.mixed, edns=under_way.edns)
        if response.truncated and not tcp:
            self._send(key, under_way, under_way.sent, now, tcp=True)
            return
        self._end(key, under_way)
        if response.ttl and not response.truncated:
            self.kept.keep(key, response, now)
        for question in under_way.waiting:
            self._deliver(question, self._answer(question, response, 0, now))

    def failed(self, attempt: int, reason: str, now: float) -> None:
        """Note that an attempt came to nothing."""
        key = self._by_attempt.get(attempt)
        if key is None:
            return
        under_way = self._under_way[key]
        self.health.failed(under_way.server, now)
        under_way.reason = f"{under_way.server[0]}: {reason}"
        self._next(key, under_way, now)

    def gone(self, client: Hashable) -> None:
        """Note that a client can be sent nothing more."""
        for key in self._by_client.pop(client, ()):
            under_way = self._under_way[key]
            under_way.waiting = [each for each in under_way.waiting if each.asker.client != client]

    def next_deadline(self) -> float | None:
        """Return when `passed` wants to be called."""
        while self._deadlines and self._deadlines[0][1] not in self._by_attempt:
            heappop(self._deadlines)
        return self._deadlines[0][0] if self._deadlines else None

    def passed(self, now: float) -> None:
        """Look at the clock."""
        while (due := self.next_deadline()) is not None and now >= due:
            _, attempt = heappop(self._deadlines)
            key = self._by_attempt[attempt]
            under_way = self._under_way[key]
            if now >= under_way.total_at:
                self.health.failed(under_way.server, now)
                self._give_up(key, under_way, now)
            else:
                self.failed(attempt, "it does not answer", now)

    def take(self) -> list[Action]:
        """Return what is to be done, and forget it."""
        actions, self._actions = self._actions, []
        return actions

    # --- below ---

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
        sent = question_for(question.query, self._random.randrange(65536), name, edns=under_way.edns)
        self._send(key, under_way, sent, now, tcp=False)

    def _send(self, key: Key, under_way: _UnderWay, data: bytes, now: float, *, tcp: bool) -> None:
        self._forget_attempt(under_way)
        self._attempts += 1
        self.asked += 1
        under_way.attempt, under_way.sent = self._attempts, data
        # With nobody else to ask, it may take all the time there is.
        try_at = min(now + TRY_S, under_way.total_at) if under_way.left else under_way.total_at
        self._by_attempt[under_way.attempt] = key
        heappush(self._deadlines, (try_at, under_way.attempt))
        self._actions.append(AskServer(under_way.attempt, under_way.server, data, tcp))

    def _give_up(self, key: Key, under_way: _UnderWay, now: float) -> None:
        self.failures += 1
        self._end(key, under_way)
        if under_way.waiting:
            self.kept.keep_failure(key, under_way.reason, now)
        for question in under_way.waiting:
            self._deliver(question, self._servfail(question, under_way.reason, now))

    def _end(self, key: Key, under_way: _UnderWay) -> None:
        self._forget_attempt(under_way)
        del self._under_way[key]
        for question in under_way.waiting:
            keys = self._by_client.get(question.asker.client)
            if keys is not None:
                keys.discard(key)
                if not keys:
                    del self._by_client[question.asker.client]

    def _forget_attempt(self, under_way: _UnderWay) -> None:
        if self._by_attempt.pop(under_way.attempt, None) is not None:
            self._actions.append(ForgetServer(under_way.attempt))

    def _mixed(self, name: bytes) -> bytes:
        """Return a name with each letter in a random case: 0x20, what a forger has to guess as well."""
        bits = self._random.getrandbits(len(name))
        upper = name.upper()  # also the length bytes, which are below 64 and so no letters
        return bytes(u if bits >> n & 1 else c for n, (c, u) in enumerate(zip(name, upper, strict=True)))

    # --- answers ---

    def _deliver(self, question: Question, data: bytes) -> None:
        if data:
            self._actions.append(Deliver(question.asker.client, data))

    def _answer(self, question: Question, response: Response, age_s: int, now: float) -> bytes:
        query, udp = question.query, question.asker.udp
        if question.aliases is not None:
            joined = response.behind(question.aliases, query, question.target, age_s)
            if joined is None:
                return self._servfail(question, "the answer cannot be read", now)
            response, age_s = joined, 0
        data = response.answer(query, age_s, udp=udp, extras=question.extras)
        alike = (response.rcode, query.question.lower() if response.rcode == Rcode.NOERROR else b"")
        return self._limited(question, data, alike, now)

    def _servfail(self, question: Question, reason: str, now: float, code: Ede = Ede.NETWORK_ERROR) -> bytes:
        query, extras = question.query, question.extras
        extras = Extras((code, reason), extras.cookie, extras.nsid, extras.keepalive)
        reply = bytearray(respond(query, Rcode.SERVFAIL, authoritative=False, udp=question.asker.udp, extras=extras))
        reply[3] |= RA | (query.flags & CD)
        return self._limited(question, bytes(reply), (Rcode.SERVFAIL, b""), now)

    def _limited(self, question: Question, data: bytes, alike: Hashable, now: float) -> bytes:
        """Return what is sent: the answer, or if that is over the limit one without records, or b"" for nothing."""
        asker = question.asker
        if self._responses is None or not asker.udp or question.is_proven:
            return data
        verdict = self._responses.judge(asker.address, ("forwarded", alike), now)
        if verdict is Limited.SEND:
            return data
        return b"" if verdict is Limited.DROP else truncated(question.query, authoritative=False)
