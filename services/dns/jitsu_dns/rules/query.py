"""Which answer a query gets, and when: the machine of a dns replica.

Driven by queries, by what store, vmd and reaper say, and by the clock. `warm` answers the datagrams that were asked
before and may be answered now, byte for byte; `query` answers one that it left, if there is an answer at once; all
else comes out of `take` as actions.

    warm      a VM of the name is ready, and this replica registered with the reaper within its lease:
              answered from the table, with the addresses of all that are ready, another one first each time
    cold      else: the query waits, one Summon per VM is under way, whoever asks meanwhile joins it
              (rules/cold.py)
    outside   forwarded for clients for whom that is done (rules/forward.py), except special-use names
              (rules/special.py), else REFUSED; the same for where one of our aliases leads
    limited   over UDP, to a client that has not shown that its address is its own: see rules/access.py
    unknown   the name may be one that this replica does not know yet: the question is held (rules/names.py, unknown.py)
    denied    the client may start no VM, or its network no more of them now: REFUSED with the reason
"""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_address
from typing import TYPE_CHECKING

from jitsu_dns.rules import records as build
from jitsu_dns.rules.access import Limited
from jitsu_dns.rules.actions import Counts, ReportNow, Send, SendAll
from jitsu_dns.rules.cold import ColdQueries
from jitsu_dns.rules.forward import Question
from jitsu_dns.rules.message import (
    CD,
    CHAOS,
    HEADER_BYTES,
    IN,
    NO_EXTRAS,
    NO_RECORDS,
    RA,
    RD,
    Ede,
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
from jitsu_dns.rules.names import MAX_AT_ONCE, Known, Names
from jitsu_dns.rules.pending import Pending
from jitsu_dns.rules.ready import Ready, ReadyPackets
from jitsu_dns.rules.replies import extras_for, with_error
from jitsu_dns.rules.special import SpecialNames
from jitsu_dns.rules.states import States
from jitsu_dns.rules.table import MAX_ALIASES, Hit, Warm
from jitsu_dns.rules.transfer import is_older, messages, serial_in
from jitsu_dns.rules.unknown import HeldQuery, Unknown
from jitsu_protocol.model.states import VmState

if TYPE_CHECKING:
    from collections.abc import Collection, Hashable, Iterable, Sequence

    from jitsu_dns.rules.access import ResponseLimit, SummonLimit
    from jitsu_dns.rules.actions import About, Action, Asker
    from jitsu_dns.rules.cookies import Cookies
    from jitsu_dns.rules.forward import Forwarder
    from jitsu_dns.rules.message import Extras, Query
    from jitsu_dns.rules.notify import Notifier
    from jitsu_dns.rules.ready import Senders
    from jitsu_dns.rules.table import Node, Table
    from jitsu_dns.rules.uses import Uses
    from jitsu_protocol.messages import VmStatus
    from jitsu_protocol.model.errors import JitsuError
    from jitsu_protocol.model.inventory import VmChanged

MAX_TURNS = 16
"""In how many orders an answer with several VMs is kept ready."""
_OPT_BYTES = (0, 11)
"""How long the rest of a packet may be that is kept: there is no OPT record, or one without options."""
_OTHER_TYPES = frozenset({Type.AXFR, Type.IXFR, Type.OPT, 0})
_VERSION_NAMES = frozenset({to_wire("version.bind"), to_wire("version.server")})
_ID_NAMES = frozenset({to_wire("id.server"), to_wire("hostname.bind")})  # RFC 4892


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
        special: SpecialNames | None = None,
        notify: Notifier | None = None,
        names: Names | None = None,
        wall_ahead_s: float = 0.0,
    ) -> None:
        """`wall_ahead_s` is how far Unix time is ahead of `now`; `notify` knows who may transfer zones.

        `names` are those that the store describes; without them `configure` says all that there is.
        """
        self.table = table
        self.uses = uses
        self.states = States()
        self.faults: dict[str, str] = {}
        """VM -> why it is left out."""
        self.counts = Counts()
        self.pending = Pending(max_waiting)
        self.responses = responses
        self.forward = forward
        self._special = special or SpecialNames()
        self.notify = notify
        self._secondaries: Collection[bytes] = ()
        if notify is not None:
            self._secondaries = {ip_address(address).packed for address, _ in notify.secondaries}
        self.summons, self._cookies = summons, cookies
        self._about = about
        self._wall_ahead_s = wall_ahead_s
        self.names = Names() if names is None else names
        if names is None:
            self.names.known = Known.TOLD
        self.trusts_at: float | None = None
        """From when on names that are only remembered are answered for; None: they are, or there are none."""
        self._unknown = Unknown(max_waiting)
        self._serial = 0
        self._ready = ReadyPackets(uses, responses, self.counts.answers)
        self._actions: list[Action] = []
        self._cold = ColdQueries(table, uses, self.states, self.pending, self.counts, self._actions)

    # --- queries ---

    def warm(self, datagrams: Sequence[bytes], now: float, senders: Senders | None = None) -> list[bytes | None]:
        """Return the answers to datagrams that were answered before and may be again; None for the others.

        `senders` are given if responses are limited.
        """
        if not self.uses.may_answer_warm(now):
            return [None] * len(datagrams)
        return self._ready.answers(datagrams, now, senders)

    def query(self, data: bytes, asker: Asker, now: float, arrived: float | None = None) -> bytes | None:
        """Take a packet; return what is sent back at once, None if that is nothing or comes later.

        `arrived` is when it came, if that was earlier and it was held.
        """
        query = parse(data)
        if isinstance(query, Malformed):
            self.counts.malformed += 1
            return self._malformed(data, query, asker, now)
        extras, is_proven = extras_for(query, asker, self._about, self._cookies, now + self._wall_ahead_s)
        is_proven = is_proven or arrived is not None  # a question that was held has been charged when it came
        if query.qclass != IN or query.qtype in _OTHER_TYPES or (query.edns is not None and query.edns.version != 0):
            if (verdict := self._limited(query, asker, "other", is_proven, now)) is not None:
                return verdict
            return self._other(data, query, asker, extras)
        if not self.names.is_complete and self._may_be_unknown(query.key, now):
            if (verdict := self._limited(query, asker, "unknown", is_proven, now)) is not None:
                return verdict
            return self._hold(HeldQuery(data, query, asker, extras, now if arrived is None else arrived))
        found = self.table.find(query.key, query.qtype)
        if isinstance(found, Hit):
            return self._hit(data, query, asker, found, extras, is_proven, now, arrived)
        if found is None:
            return self._outside(query, asker, extras, is_proven, now)
        if found.leads_outside and self._is_forwarded_for(query, asker):
            return self._forward(Question(query, asker, extras, is_proven, found.records, found.leads_outside), now)
        alike = (found.rcode, found.zone if found.rcode is Rcode.NXDOMAIN else query.question.lower())
        if (verdict := self._limited(query, asker, alike, is_proven, now)) is not None:
            return verdict
        return self._respond(query, asker, found.rcode, "fixed", found.records, extras)

    @property
    def packets_kept(self) -> int:
        """How many packets have a ready answer."""
        return len(self._ready)

    def take(self) -> list[Action]:
        """Return what is to be done, and forget it."""
        actions = self._actions[:]
        self._actions.clear()  # the same list for all parts of the rules
        return actions

    def gone(self, client: Hashable) -> None:
        """Note that a client can be sent nothing more."""
        self.pending.drop_client(client)
        self._unknown.drop_client(client)
        if self.forward is not None:
            self.forward.gone(client)

    def count(self, most: int) -> bool:
        """Bring what the warm path has counted to the names, for so many of them; say whether there are more."""
        return self._ready.count(most)

    # --- vmd ---

    def summoned(self, vm: str, now: float, *, armed: bool = False) -> None:
        """Note that vmd says: the VM may be told to clients; `armed`: it still starts, Synjitsu holds its addresses."""
        self._cold.summoned(vm, now, armed=armed)

    def refused(self, vm: str, error: JitsuError, now: float) -> None:
        """Note why vmd, or nobody, made the VM reachable."""
        self._cold.refused(vm, error, now)

    def all_states(self, statuses: Iterable[VmStatus], now: float, host: str = "") -> None:
        """Take a snapshot of the states of all VMs of one host."""
        for vm in self.states.on_host(host):
            self._invalidate(vm)
            self.states.forget(vm)
        for status in statuses:
            self.state(status, now)

    def state(self, status: VmStatus, now: float, *, gone: bool = False) -> None:
        """Take a VM's new state."""
        if gone and self.states.moved_away(status):
            return  # its new host has said so first
        self._invalidate(status.uuid)
        if gone:
            self.states.forget(status.uuid)
            return
        self.states.put(status)
        if status.state is VmState.DRAINING:
            self._actions.append(ReportNow())
        elif any(self.states.serves(held.vm) for held in self.table.held_by(status.uuid)):
            self._cold.summoned(status.uuid, now)

    def drains(self) -> list[str]:
        """Return the drains that this replica honours."""
        return self.states.drains()

    # --- store ---

    def configure(self, changes: Sequence[VmChanged], serial: int, now: float) -> None:
        """Take VMs that came, went or are configured otherwise, and the serial that the zones have with that."""
        table = self.table
        depended = table.answers_depend_on_others
        table.is_reshaped = False
        left: set[Node] = set()
        for change in changes:
            for vm in (change.old, change.new):
                if vm is not None:
                    self._invalidate(vm.uuid)
            if change.old is not None:
                left.update(held.node for held in table.held_by(change.old.uuid))
            self._replace(change)
            if change.new is not None:
                self._invalidate(change.new.uuid)
        if not changes and serial == table.serial:
            return
        table.publish(serial)
        if self.notify is not None:
            self.notify.changed(table.changed_zones(), now)
        if table.is_reshaped and (depended or table.answers_depend_on_others):
            self._ready.clear()  # what stood for a name may no longer do so
        self._cold.reconfigured(left, now)

    def _replace(self, change: VmChanged) -> None:
        """Take one change; a VM of which no records can be made is left out, with the reason in `faults`."""
        for vm in (change.old, change.new):
            if vm is not None:
                self.faults.pop(vm.uuid, None)
        try:
            self.table.replace(change.old, change.new)
        except ValueError as error:
            self.table.replace(change.old, None)
            if change.new is not None:
                self.faults[change.new.uuid] = f"{change.new.name}: {error}"

    def told(self, serial: int, now: float) -> None:
        """Note that `names` has changed: a few VMs are made at once, the others by `make_some`."""
        self._serial = serial
        if self.names.left <= MAX_AT_ONCE:
            self.configure(self.names.make_some(), serial, now)
        if self.names.known is Known.TOLD:
            self.trusts_at = None
        self._ask_again(now)

    def make_some(self, now: float) -> bool:
        """Make some of the VMs that are known by their leaves only; return whether there are more."""
        if self.names.left:
            self.configure(self.names.make_some(), self._serial, now)
            if not self.names.left:
                self._ask_again(now)
        return self.names.left > 0

    # --- what is not known yet ---

    def _may_be_unknown(self, key: bytes, now: float) -> bool:
        """Make the VMs that a name's answer depends on; return whether others, that nobody knows yet, may have it."""
        names, table = self.names, self.table
        if self.trusts_at is not None and now < self.trusts_at:
            return True
        for _ in range(MAX_ALIASES):
            if made := names.make(names.wanted(key)):
                self.configure(made, self._serial, now)
            target = table.alias_of(key)
            if target is None:
                break
            key = target
        if names.known is Known.TOLD and key in table.zones:
            return False
        return names.may_change(key, table.stands_for(key))

    def _hold(self, held: HeldQuery) -> bytes | None:
        if self._unknown.hold(held):
            return None
        return self._unheld(held)

    def _unheld(self, held: HeldQuery) -> bytes:
        extras = with_error(held.extras, Ede.NOT_READY, "this server does not know all names yet")
        return self._respond(held.query, held.asker, Rcode.SERVFAIL, "other", extras=extras)

    def _ask_again(self, now: float) -> None:
        """Look again at all that is held."""
        for held in self._unknown.release():
            answer = self.query(held.data, held.asker, now, held.arrived)
            if answer:
                self._actions.append(Send(held.asker.client, answer))

    # --- clock ---

    def next_deadline(self) -> float | None:
        """Return when `passed` wants to be called."""
        held = None if not len(self._unknown) else self.trusts_at
        due = (self._cold.next_deadline(), self._unknown.next_deadline(), held)
        return min((each for each in due if each is not None), default=None)

    def passed(self, now: float) -> None:
        """Look at the clock."""
        self._cold.passed(now)
        if self.trusts_at is not None and now >= self.trusts_at:
            self.trusts_at = None
            self._ask_again(now)
        for held in self._unknown.due(now):
            self._actions.append(Send(held.asker.client, self._unheld(held)))

    # --- one query ---

    def _other(self, data: bytes, query: Query, asker: Asker, extras: Extras) -> bytes | None:
        """Answer what is not asked of the zones of class IN."""
        if query.edns is not None and query.edns.version != 0:
            return self._respond(query, asker, Rcode.BADVERS, "other", extras=extras)
        if query.qclass == CHAOS and query.qtype in (Type.TXT, Type.ANY):
            return self._chaos(query, asker, extras)
        if query.qclass != IN:
            return self._respond(query, asker, Rcode.REFUSED, "other", extras=with_error(extras, Ede.PROHIBITED, ""))
        if query.qtype in (Type.AXFR, Type.IXFR):
            return self._transfer(data, query, asker, extras)
        return self._respond(query, asker, Rcode.FORMERR, "other", extras=extras)

    def _is_forwarded_for(self, query: Query, asker: Asker) -> bool:
        return self.forward is not None and bool(query.flags & RD) and asker.address in self.forward.clients

    def _forward(self, question: Question, now: float) -> bytes | None:
        """Answer a question of names of others: what is special here, all else when another server has answered."""
        query = question.query
        is_above_ours = self.table.exists(question.name)
        special = self._special.answer(question.name, query.qtype, is_above_ours=is_above_ours)
        if special is not None:
            return self._answer_specially(question, *special, now)
        assert self.forward is not None
        self.counts.answers[query.qtype, Rcode.NOERROR, "forwarded"] += 1
        return self.forward.ask(question, now)

    def _answer_specially(self, question: Question, rcode: Rcode, records: Records, now: float) -> bytes:
        query, asker = question.query, question.asker
        alike = ("special", rcode, query.question.lower() if rcode is Rcode.NOERROR else b"")
        if (verdict := self._limited(query, asker, alike, question.is_proven, now)) is not None:
            return verdict
        if (before := question.aliases) is not None:
            records = replace(records, answer=before.answer + records.answer, answers=before.answers + records.answers)
        reply = bytearray(self._respond(query, asker, rcode, "special", records, question.extras))
        reply[3] |= RA | (query.flags & CD)
        return bytes(reply)

    def _outside(self, query: Query, asker: Asker, extras: Extras, proven: bool, now: float) -> bytes | None:
        if self._is_forwarded_for(query, asker):
            return self._forward(Question(query, asker, extras, proven), now)
        if (verdict := self._limited(query, asker, (Rcode.REFUSED,), proven, now)) is not None:
            return verdict
        return self._respond(
            query, asker, Rcode.REFUSED, "outside", extras=with_error(extras, Ede.NOT_AUTHORITATIVE, "")
        )

    def _transfer(self, data: bytes, query: Query, asker: Asker, extras: Extras) -> bytes | None:
        """Give a zone to a secondary (RFC 5936); all of it for what has changed, as RFC 1995, 4 allows."""
        soa = self.table.soa_of(query.key)
        rcode = Rcode.NOERROR
        if asker.address not in self._secondaries:
            rcode, extras = Rcode.REFUSED, with_error(extras, Ede.PROHIBITED, "not one of dns.secondaries")
        elif not self.names.is_complete:
            rcode, extras = Rcode.SERVFAIL, with_error(extras, Ede.NOT_READY, "not all names are known yet")
        elif soa is None:
            rcode = Rcode.NOTAUTH
        elif query.qtype == Type.IXFR and (asker.udp or not is_older(serial_in(data), self.table.serial)):
            return self._respond(query, asker, rcode, "fixed", Records(soa, 1), extras)  # the rest is asked over TCP
        elif asker.udp:
            rcode = Rcode.FORMERR  # RFC 5936, 4.2
        elif (records := self.table.transfer(query.key)) is None:
            rcode, extras = Rcode.SERVFAIL, with_error(extras, Ede.OTHER, "too many transfers are under way")
        else:
            self.counts.answers[query.qtype, rcode, "fixed"] += 1
            self._actions.append(SendAll(asker.client, messages(query, records, extras)))
            return None
        return self._respond(query, asker, rcode, "other", extras=extras)

    def _malformed(self, data: bytes, query: Malformed, asker: Asker, now: float) -> bytes | None:
        if query.reply is None:
            return None
        if query.cookie is not None:
            wall = now + self._wall_ahead_s
            is_proven = self._cookies.is_valid(query.cookie, asker.address, wall)
            if not is_proven and self._judge(asker, "cookie", now) is not Limited.SEND:
                return None
            return cookie_reply(data, self._cookies.answer(query.cookie, asker.address, wall))
        if self._judge(asker, (Rcode.FORMERR,), now) is not Limited.SEND:
            return None
        return query.reply

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
            said = [f"{vm.name} {self.states.of(uuid)}" for uuid, vm in vms.items()]
        if not said:
            return self._respond(query, asker, Rcode.REFUSED, "other", extras=extras)
        return self._respond(query, asker, Rcode.NOERROR, "other", build.texts(said, CHAOS), extras)

    def _hit(
        self,
        data: bytes,
        query: Query,
        asker: Asker,
        hit: Hit,
        extras: Extras,
        proven: bool,
        now: float,
        arrived: float | None,
    ) -> bytes | None:
        warm = self._warm_for(hit, now)
        if warm is None:
            if (verdict := self._limited(query, asker, ("cold", query.question.lower()), proven, now)) is not None:
                return verdict
            return self._wait(query, asker, hit, extras, now, now if arrived is None else arrived)
        if (verdict := self._limited(query, asker, warm, proven, now)) is not None:
            return verdict
        self._ready.answered(warm, now)
        orders = min(len(warm.held), MAX_TURNS)
        response = self._bytes(query, asker, hit.records(warm.held, warm.count % orders), extras)
        # Options that are not understood would make countless packets of one question.
        if asker.udp and extras is NO_EXTRAS and len(data) - HEADER_BYTES - len(query.question) in _OPT_BYTES:
            tails = [self._bytes(query, asker, hit.records(warm.held, first), extras)[2:] for first in range(orders)]
            self._ready.keep(data, Ready(warm, tuple(tails)))
        return response

    def _warm_for(self, hit: Hit, now: float) -> Warm | None:
        """Return what may be answered without asking vmd, None if that is nothing."""
        if not self.uses.may_answer_warm(now):
            return None
        warm = next((warm for warm in hit.node.warm if warm.qtype == hit.qtype), None)
        if warm is None:
            ready = tuple(h for h in hit.node.of_type(hit.qtype) if self.states.serves(h.vm))
            if not ready:
                return None
            warm = Warm(ready, hit.qtype)
            hit.node.warm = (*hit.node.warm, warm)
        return warm

    def _wait(self, query: Query, asker: Asker, hit: Hit, extras: Extras, now: float, arrived: float) -> bytes | None:
        refusal = self._cold.wait(query, asker, hit, extras, self.summons, now, arrived)
        if refusal is None:
            return None
        extras = with_error(extras, refusal.code, refusal.text)
        return self._respond(query, asker, refusal.rcode, "denied", extras=extras)

    # --- common ---

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
