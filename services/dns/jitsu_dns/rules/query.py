"""Which answer a query gets, and when: the machine of a dns replica.

Driven by queries, by what store, vmd and reaper say, and by the clock. `warm` answers the datagrams that were asked
before and may be answered now, byte for byte; `query` answers one that it left, if there is an answer at once; all
else comes out of `take` as actions.

    warm      a VM of the name is ready, and this replica registered with the reaper within its lease:
              answered from the table, with the addresses of all that are ready, another one first each time
    cold      else: the query waits, one Summon per VM is under way, whoever asks meanwhile joins it
              Summoned           everybody who waits is answered; where all VMs of the name are summoned, when all are
              a reason not to    another VM of the name is summoned; none left: SERVFAIL with the reason (RFC 8914)
              max_wait over      answered anyway if vmd is heard and says that it starts, unless on_timeout = servfail
    outside   forwarded for clients for whom that is done (rules/forward.py), else REFUSED
    denied    the client may start no VM, or its network no more of them now: REFUSED with the reason
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from ipaddress import ip_address
from typing import TYPE_CHECKING

from jitsu_dns.rules import records as build
from jitsu_dns.rules.access import Limited
from jitsu_dns.rules.message import (
    CHAOS,
    IN,
    NO_EXTRAS,
    NO_RECORDS,
    RD,
    Ede,
    Extras,
    Malformed,
    Rcode,
    Records,
    Type,
    cookie_reply,
    parse,
    respond,
    to_wire,
    truncated,
)
from jitsu_dns.rules.pending import Pending, Waiting
from jitsu_dns.rules.ready import Ready, ReadyPackets
from jitsu_dns.rules.table import Hit, Warm
from jitsu_dns.rules.transfer import is_older, messages, serial_in
from jitsu_protocol.errors import BackingOff, BootFailed, JitsuError, TimedOut
from jitsu_protocol.keys import OnTimeout, SummonMode
from jitsu_protocol.states import VmState

if TYPE_CHECKING:
    from collections.abc import Collection, Hashable, Iterable, Iterator, Sequence

    from jitsu_dns.rules.access import ResponseLimit, SummonLimit
    from jitsu_dns.rules.cookies import Cookies
    from jitsu_dns.rules.forward import Forwarder
    from jitsu_dns.rules.message import Query
    from jitsu_dns.rules.notify import Notifier
    from jitsu_dns.rules.ready import Senders
    from jitsu_dns.rules.table import Held, Node, Table
    from jitsu_dns.rules.uses import Uses
    from jitsu_protocol.inventory import VmChanged
    from jitsu_protocol.messages import VmStatus

UNDER_WAY = frozenset({VmState.STARTING, VmState.BOOTING, VmState.READY, VmState.DRAINING})
_PREFERRED = (VmState.READY, VmState.DRAINING, VmState.BOOTING, VmState.STARTING, VmState.PAUSED, VmState.SUSPENDED)
MAX_TURNS = 16
"""In how many orders an answer with several VMs is kept ready."""
_VERSION_NAMES = frozenset({to_wire("version.bind"), to_wire("version.server")})
_ID_NAMES = frozenset({to_wire("id.server"), to_wire("hostname.bind")})  # RFC 4892


@dataclass(frozen=True)
class Send:
    """Send a response to a client."""

    client: Hashable
    data: bytes


@dataclass(frozen=True)
class SendAll:
    """Send messages to a client over TCP, each when it can take it."""

    client: Hashable
    messages: Iterator[bytes]


@dataclass(frozen=True)
class AskSummon:
    """Ask vmd to make a VM reachable; answer with `summoned` or `refused`."""

    vm: str
    timeout: float
    """Seconds."""


@dataclass(frozen=True)
class ReportNow:
    """Tell the reaper at once: a VM drains."""


Action = Send | SendAll | AskSummon | ReportNow


@dataclass(frozen=True, slots=True)
class Asker:
    """Where a query came from."""

    client: Hashable
    """What a response is sent to."""
    address: bytes
    """4 or 16 bytes."""
    udp: bool


@dataclass(frozen=True)
class About:
    """What a replica says of itself (class CH; NSID), and to whom TCP connections are kept."""

    version: str = ""
    """Empty: not told."""
    replica: str = ""
    tcp_idle: float = 10.0


@dataclass
class Counts:
    """What happened since the start, for the metrics."""

    answers: Counter[tuple[int, int, str]] = field(default_factory=Counter)
    """(type, rcode, path): warm, cold, fixed, outside, forwarded, denied, other."""
    malformed: int = 0
    late: int = 0
    overflow: int = 0
    waits: list[float] = field(default_factory=list)
    """Seconds that cold queries waited, since the shell last took them."""


@dataclass(slots=True)
class _Asked:
    """The summons that the queries of one name wait for."""

    qtype: int
    outstanding: set[str]
    tried: set[str]
    reached: set[str] = field(default_factory=set)


class Front:
    """One replica."""

    def __init__(
        self,
        table: Table,
        uses: Uses,
        max_waiting: int,
        *,
        summons: SummonLimit,
        responses: ResponseLimit,
        cookies: Cookies,
        about: About,
        forward: Forwarder | None = None,
        notify: Notifier | None = None,
        wall_ahead_s: float = 0.0,
    ) -> None:
        """`wall_ahead_s` is how far Unix time is ahead of `now`; `notify` knows who may transfer zones."""
        self.table = table
        self.uses = uses
        self.unheard: Collection[str] = ()
        """Hosts whose vmd is not heard now."""
        self.counts = Counts()
        self.pending = Pending(max_waiting)
        self.responses = responses
        self.forward = forward
        self.notify = notify
        self._secondaries: Collection[bytes] = ()
        if notify is not None:
            self._secondaries = {ip_address(address).packed for address, _ in notify.secondaries}
        self.summons, self._cookies = summons, cookies
        self._about = about
        self._wall_ahead_s = wall_ahead_s
        self._states: dict[str, VmStatus] = {}
        self._ready = ReadyPackets(uses, responses, self.counts.answers)
        self._summoning: set[str] = set()
        self._asked: dict[Node, _Asked] = {}
        self._actions: list[Action] = []

    # --- queries ---

    def warm(self, datagrams: Sequence[bytes], now: float, senders: Senders | None = None) -> list[bytes | None]:
        """Return the answers to datagrams that were answered before and may be again; None for the others.

        `senders` are given if responses are limited.
        """
        if not self.uses.may_answer_warm(now):
            return [None] * len(datagrams)
        return self._ready.answers(datagrams, now, senders)

    def query(self, data: bytes, asker: Asker, now: float) -> bytes | None:
        """Take a packet; return what is sent back at once, None if that is nothing or comes later."""
        query = parse(data)
        if isinstance(query, Malformed):
            self.counts.malformed += 1
            return self._malformed(data, query, asker, now)
        extras, is_proven = self._extras(query, asker, now)
        if query.edns is not None and query.edns.version != 0:
            return self._respond(query, asker, Rcode.BADVERS, "other", extras=extras)
        if query.qclass == CHAOS and query.qtype in (Type.TXT, Type.ANY):
            return self._chaos(query, asker, extras)
        if query.qclass != IN:
            return self._respond(query, asker, Rcode.REFUSED, "other", extras=_with(extras, Ede.PROHIBITED, ""))
        if query.qtype in (Type.AXFR, Type.IXFR):
            return self._transfer(data, query, asker, extras)
        if query.qtype in (Type.OPT, 0):
            return self._respond(query, asker, Rcode.FORMERR, "other", extras=extras)
        found = self.table.find(query.key, query.qtype)
        if isinstance(found, Hit):
            return self._hit(data, query, asker, found, extras, is_proven, now)
        if found is None:
            return self._outside(query, asker, extras, is_proven, now)
        alike = (found.rcode, found.zone if found.rcode is Rcode.NXDOMAIN else query.question.lower())
        if (verdict := self._limited(query, asker, alike, is_proven, now)) is not None:
            return verdict
        return self._respond(query, asker, found.rcode, "fixed", found.records, extras)

    def take(self) -> list[Action]:
        """Return what is to be done, and forget it."""
        actions, self._actions = self._actions, []
        return actions

    def gone(self, client: Hashable) -> None:
        """Note that a client can be sent nothing more."""
        self.pending.drop_client(client)
        if self.forward is not None:
            self.forward.gone(client)

    def count(self, most: int) -> bool:
        """Bring what the warm path has counted to the names, for so many of them; say whether there are more."""
        return self._ready.count(most)

    # --- vmd ---

    def summoned(self, vm: str, now: float) -> None:
        """Note that vmd says: the VM may be told to clients."""
        self._summoning.discard(vm)
        for held in self.table.held_by(vm):
            asked = self._asked.get(held.node)
            if asked is None:
                continue
            asked.reached.add(vm)
            asked.outstanding.discard(vm)
            if not asked.outstanding or not self._wants_all(held.node):
                self._release(held.node, now)

    def refused(self, vm: str, error: JitsuError, now: float) -> None:
        """Note why vmd, or nobody, made the VM reachable."""
        self._summoning.discard(vm)
        for held in self.table.held_by(vm):
            node = held.node
            asked = self._asked.get(node)
            if asked is None or vm not in asked.outstanding:
                continue
            asked.outstanding.discard(vm)
            left = self.pending.last_deadline(node) - now
            if isinstance(error, TimedOut):
                if left > 0:  # those who came later still have time
                    asked.outstanding.add(vm)
                    self._summon(vm, left)
                elif not asked.outstanding:
                    self._asked.pop(node)
                continue
            if not self._wants_all(node) and left > 0:
                asked.outstanding.update(self._choose(node, asked.qtype, asked.tried))
                asked.tried |= asked.outstanding
                for other in asked.outstanding:
                    self._summon(other, left)
            if not asked.outstanding:
                self._release(node, now, error)

    def all_states(self, statuses: Iterable[VmStatus], now: float, host: str = "") -> None:
        """Take a snapshot of the states of all VMs of one host."""
        for uuid in [uuid for uuid, status in self._states.items() if status.host == host]:
            self._invalidate(uuid)
            del self._states[uuid]
        for status in statuses:
            self.state(status, now)

    def state(self, status: VmStatus, now: float, *, gone: bool = False) -> None:
        """Take a VM's new state."""
        known = self._states.get(status.uuid)
        if gone and known is not None and known.host != status.host:
            return  # it has moved, and its new host has said so first
        self._invalidate(status.uuid)
        if gone:
            self._states.pop(status.uuid, None)
            return
        self._states[status.uuid] = status
        if status.state is VmState.DRAINING:
            self._actions.append(ReportNow())
        elif status.state is VmState.READY:
            self.summoned(status.uuid, now)

    def drains(self) -> list[str]:
        """Return the drains that this replica honours."""
        return [status.drain for status in self._states.values() if status.drain]

    # --- store ---

    def configure(self, changes: Sequence[VmChanged], serial: int, now: float) -> None:
        """Take VMs that came, went or are configured otherwise, and the serial that the zones have with that."""
        had_wildcards = self.table.wildcards
        for change in changes:
            for vm in (change.old, change.new):
                if vm is not None:
                    self._invalidate(vm.uuid)
            self.table.replace(change.old, change.new)
            if change.new is not None:
                self._invalidate(change.new.uuid)
        if not changes and serial == self.table.serial:
            return
        self.table.publish(serial)
        if self.notify is not None:
            self.notify.changed(self.table.changed_zones(), now)
        if self.table.wildcards or had_wildcards:
            self._ready.clear()  # a packet may have been answered by what stands no more for its name
        for node, asked in list(self._asked.items()):
            there = {held.vm.uuid for held in node.held}
            asked.outstanding &= there
            if not asked.outstanding:
                self._release(node, now, BootFailed("it is configured no more"))

    # --- clock ---

    def next_deadline(self) -> float | None:
        """Return when `passed` wants to be called."""
        return self.pending.next_deadline()

    def passed(self, now: float) -> None:
        """Look at the clock."""
        for waiting in self.pending.due(now):
            self.counts.late += 1
            held = waiting.hit.node.of_type(waiting.hit.qtype)
            anyway = [each for each in held if self._is_under_way(each) and each.vm.on_timeout is OnTimeout.ANSWER]
            vm = held[0].vm.name if held else "it"
            state = self._state(held[0].vm.uuid) if held else VmState.UNKNOWN
            if anyway:
                self._answer(waiting, anyway, now)
            elif held and self._is_under_way(held[0]):
                self._servfail(waiting, (Ede.NOT_READY, f"{vm} is still {state}"))
            else:
                self._servfail(waiting, (Ede.NETWORK_ERROR, f"{vm}: the VM daemon does not answer"))

    def _is_under_way(self, held: Held) -> bool:
        """Say whether a VM is on its way, as far as that is known: what an unheard vmd said last may be long over."""
        return self._state(held.vm.uuid) in UNDER_WAY and held.vm.host not in self.unheard

    # --- one query ---

    def _outside(self, query: Query, asker: Asker, extras: Extras, proven: bool, now: float) -> bytes | None:
        forward = self.forward
        if forward is not None and query.flags & RD and asker.address in forward.clients:
            self.counts.answers[query.qtype, Rcode.NOERROR, "forwarded"] += 1
            return forward.ask(query, asker.client, asker.address, now, udp=asker.udp)
        if (verdict := self._limited(query, asker, (Rcode.REFUSED,), proven, now)) is not None:
            return verdict
        return self._respond(query, asker, Rcode.REFUSED, "outside", extras=_with(extras, Ede.NOT_AUTHORITATIVE, ""))

    def _transfer(self, data: bytes, query: Query, asker: Asker, extras: Extras) -> bytes | None:
        """Give a zone to a secondary (RFC 5936); all of it for what has changed, as RFC 1995, 4 allows."""
        soa = self.table.soa_of(query.key)
        rcode = Rcode.NOERROR
        if asker.address not in self._secondaries:
            rcode, extras = Rcode.REFUSED, _with(extras, Ede.PROHIBITED, "not one of dns.secondaries")
        elif soa is None:
            rcode = Rcode.NOTAUTH
        elif query.qtype == Type.IXFR and (asker.udp or not is_older(serial_in(data), self.table.serial)):
            return self._respond(query, asker, rcode, "fixed", Records(soa, 1), extras)  # the rest is asked over TCP
        elif asker.udp:
            rcode = Rcode.FORMERR  # RFC 5936, 4.2
        elif (records := self.table.transfer(query.key)) is None:
            rcode, extras = Rcode.SERVFAIL, _with(extras, Ede.OTHER, "too many transfers are under way")
        else:
            self.counts.answers[query.qtype, rcode, "fixed"] += 1
            self._actions.append(SendAll(asker.client, messages(query, records, extras)))
            return None
        return self._respond(query, asker, rcode, "other", extras=extras)

    def _malformed(self, data: bytes, query: Malformed, asker: Asker, now: float) -> bytes | None:
        if query.reply is None:
            return None
        if query.cookie is not None:
            return cookie_reply(data, self._cookies.answer(query.cookie, asker.address, now + self._wall_ahead_s))
        if self._judge(asker, (Rcode.FORMERR,), now) is not Limited.SEND:
            return None
        return query.reply

    def _extras(self, query: Query, asker: Asker, now: float) -> tuple[Extras, bool]:
        """Return what the query's EDNS options get, and whether its cookie proves the client's address."""
        edns = query.edns
        if edns is None or not (edns.cookie or edns.wants_nsid or (edns.wants_keepalive and not asker.udp)):
            return NO_EXTRAS, False
        wall = now + self._wall_ahead_s
        cookie, proven = b"", False
        if edns.cookie:
            cookie = self._cookies.answer(edns.cookie, asker.address, wall)
            proven = self._cookies.is_valid(edns.cookie, asker.address, wall)
        nsid = self._about.replica.encode() if edns.wants_nsid else b""
        keepalive = int(10 * self._about.tcp_idle) if edns.wants_keepalive and not asker.udp else None
        return Extras(cookie=cookie, nsid=nsid, keepalive=keepalive), proven

    def _chaos(self, query: Query, asker: Asker, extras: Extras) -> bytes:
        """Say what this server is; and to who is exempt from limits, the state of a name's VMs, which boots none."""
        said: list[str] = []
        if query.key in _VERSION_NAMES and self._about.version:
            said = [self._about.version]
        elif query.key in _ID_NAMES:
            said = [self._about.replica]
        elif asker.address in self.responses.exempt:
            found = [self.table.find(query.key, rtype) for rtype in (Type.A, Type.AAAA)]
            vms = {held.vm.uuid: held.vm for hit in found if isinstance(hit, Hit) for held in hit.node.held}
            said = [f"{vm.name} {self._state(uuid)}" for uuid, vm in vms.items()]
        if not said:
            return self._respond(query, asker, Rcode.REFUSED, "other", extras=extras)
        return self._respond(query, asker, Rcode.NOERROR, "other", build.texts(said, CHAOS), extras)

    def _hit(
        self, data: bytes, query: Query, asker: Asker, hit: Hit, extras: Extras, proven: bool, now: float
    ) -> bytes | None:
        warm = self._warm_for(hit, now)
        if warm is None:
            return self._wait(query, asker, hit, extras, now)
        if (verdict := self._limited(query, asker, warm, proven, now)) is not None:
            return verdict
        self._ready.answered(warm, now)
        orders = min(len(warm.held), MAX_TURNS)
        response = self._bytes(query, asker, hit.records(warm.held, warm.count % orders), extras)
        if asker.udp and extras is NO_EXTRAS:
            tails = [self._bytes(query, asker, hit.records(warm.held, first), extras)[2:] for first in range(orders)]
            self._ready.keep(data, Ready(warm, tuple(tails)))
        return response

    def _warm_for(self, hit: Hit, now: float) -> Warm | None:
        """Return what may be answered without asking vmd, None if that is nothing."""
        if not self.uses.may_answer_warm(now):
            return None
        warm = next((warm for warm in hit.node.warm if warm.qtype == hit.qtype), None)
        if warm is None:
            ready = tuple(h for h in hit.node.of_type(hit.qtype) if self._state(h.vm.uuid) is VmState.READY)
            if not ready:
                return None
            warm = Warm(ready, hit.qtype)
            hit.node.warm = (*hit.node.warm, warm)
        return warm

    def _wait(self, query: Query, asker: Asker, hit: Hit, extras: Extras, now: float) -> bytes | None:
        node, vms = hit.node, hit.node.of_type(hit.qtype)
        chosen: set[str] = set()
        if node not in self._asked:
            chosen = self._choose(node, hit.qtype, set())
            new = sum(vm not in self._summoning and self._state(vm) not in UNDER_WAY for vm in chosen)
            if new and (reason := self.summons.refusal(asker.address, new, now)):
                return self._respond(
                    query, asker, Rcode.REFUSED, "denied", extras=_with(extras, Ede.PROHIBITED, reason)
                )
        max_wait = min(held.vm.max_wait for held in vms)
        waiting = Waiting(query, asker.client, asker.udp, hit, extras, now, now + max_wait)
        if not self.pending.add(waiting):
            self.counts.overflow += 1
            extras = _with(extras, Ede.OTHER, "too many queries wait")
            return self._respond(query, asker, Rcode.SERVFAIL, "denied", extras=extras)
        if chosen:
            self._asked[node] = _Asked(hit.qtype, chosen, set(chosen))
        asked = self._asked[node]
        for held in vms:
            if held.vm.uuid in asked.outstanding:
                self.uses.used(held, 1, now)
        for vm in chosen:
            self._summon(vm, max_wait)
        return None

    def _choose(self, node: Node, qtype: int, tried: set[str]) -> set[str]:
        """Return which VMs of a name to summon: all, or the one that is nearest to being ready and not tried yet."""
        vms = [held.vm.uuid for held in node.of_type(qtype) if held.vm.uuid not in tried]
        if not vms or self._wants_all(node):
            return set(vms)
        node.turn += 1
        first = node.turn % len(vms)
        return {min([*vms[first:], *vms[:first]], key=self._distance)}

    def _distance(self, vm: str) -> int:
        state = self._state(vm)
        if state in _PREFERRED:
            return _PREFERRED.index(state)
        return len(_PREFERRED) + (state is VmState.FAILED)

    @staticmethod
    def _wants_all(node: Node) -> bool:
        return any(held.vm.summon is SummonMode.ALL for held in node.held)

    # --- those who wait ---

    def _release(self, node: Node, now: float, error: JitsuError | None = None) -> None:
        """Answer everybody who waits for a name: with the VMs that are reachable, or with why none is."""
        asked = self._asked.pop(node)
        for waiting in self.pending.release(node):
            reached = [
                held
                for held in node.of_type(waiting.hit.qtype)
                if held.vm.uuid in asked.reached or self._state(held.vm.uuid) is VmState.READY
            ]
            if reached:
                self._answer(waiting, reached, now)
            else:
                self._servfail(waiting, _ede_for(error or TimedOut("the VM is not ready")))

    def _answer(self, waiting: Waiting, held: Sequence[Held], now: float) -> None:
        for each in held:
            self.uses.used(each, 0, now)  # the answer's TTL runs from now on (G3)
        self.counts.waits.append(now - waiting.arrived)
        found = self.table.find(waiting.query.key, waiting.query.qtype)
        hit = found if isinstance(found, Hit) else waiting.hit  # the name may be configured otherwise by now
        asker = Asker(waiting.client, b"", waiting.udp)
        self.counts.answers[waiting.query.qtype, Rcode.NOERROR, "cold"] += 1
        self._actions.append(Send(waiting.client, self._bytes(waiting.query, asker, hit.records(held), waiting.extras)))

    def _servfail(self, waiting: Waiting, ede: tuple[Ede, str]) -> None:
        asker = Asker(waiting.client, b"", waiting.udp)
        extras = _with(waiting.extras, *ede)
        data = self._respond(waiting.query, asker, Rcode.SERVFAIL, "cold", extras=extras)
        self._actions.append(Send(waiting.client, data))

    def _summon(self, vm: str, timeout: float) -> None:
        if vm not in self._summoning:
            self._summoning.add(vm)
            self._actions.append(AskSummon(vm, timeout))

    # --- common ---

    def _state(self, vm: str) -> VmState:
        known = self._states.get(vm)
        return VmState.UNKNOWN if known is None else known.state

    def _invalidate(self, vm: str) -> None:
        """Forget what is kept ready for the names of a VM."""
        for held in self.table.held_by(vm):
            for warm in held.node.warm:
                self._ready.invalidate(warm)
            held.node.warm = ()

    def _judge(self, asker: Asker, alike: Hashable, now: float) -> Limited:
        return self.responses.judge(asker.address, alike, now) if asker.udp else Limited.SEND

    def _limited(self, query: Query, asker: Asker, alike: Hashable, proven: bool, now: float) -> bytes | None:
        """Return what is sent instead of an answer that is over the limit (b"" for nothing), None if it is not."""
        verdict = Limited.SEND if proven else self._judge(asker, alike, now)
        if verdict is Limited.SEND:
            return None
        return b"" if verdict is Limited.DROP else truncated(query)

    def _respond(
        self,
        query: Query,
        asker: Asker,
        rcode: Rcode,
        path: str,
        records: Records = NO_RECORDS,
        extras: Extras = NO_EXTRAS,
    ) -> bytes:
        self.counts.answers[query.qtype, rcode, path] += 1
        authoritative = path in ("fixed", "cold")
        return respond(query, rcode, records, authoritative=authoritative, udp=asker.udp, extras=extras)

    @staticmethod
    def _bytes(query: Query, asker: Asker, records: Records, extras: Extras) -> bytes:
        return respond(query, Rcode.NOERROR, records, udp=asker.udp, extras=extras)


def _with(extras: Extras, code: Ede, text: str) -> Extras:
    return Extras((code, text), extras.cookie, extras.nsid, extras.keepalive)


def _ede_for(error: JitsuError) -> tuple[Ede, str]:
    """Return the extended error for a reason: the one place where codes become RFC 8914's."""
    if isinstance(error, BackingOff):
        wait = f"; next try in {error.retry_after:.1f} s" if error.retry_after else ""
        return Ede.CACHED_ERROR, f"{error.message}{wait}"
    if isinstance(error, BootFailed):
        return Ede.OTHER, f"boot failed: {error.message}"
    return Ede.NOT_READY, error.message
