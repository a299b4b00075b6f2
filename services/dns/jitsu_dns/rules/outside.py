"""Questions about names that are not ours: no zone of ours has the name, or one of our aliases leads to it.

the client is in dns.forward_for     a special-use name is answered here (special.py), any other one is forwarded
and wants recursion                  (forward.py)
else                                 REFUSED; for an alias of ours that leads there, the alias alone (front.py)
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from jitsu_dns.rules.events import Reply
from jitsu_dns.rules.forward import QuestionAsked
from jitsu_dns.rules.message import CD, RA, RD, Ede, Rcode

if TYPE_CHECKING:
    from collections.abc import Sequence

    from jitsu_dns.rules.events import Drop
    from jitsu_dns.rules.exchange import Exchange
    from jitsu_dns.rules.forward import Action, Event, Forwarder, Question
    from jitsu_dns.rules.message import Records
    from jitsu_dns.rules.responder import Responder
    from jitsu_dns.rules.special import SpecialNames
    from jitsu_dns.rules.table import Table


class Outside:
    """Answers for names of others, with or without a forwarder."""

    def __init__(self, forwarder: Forwarder | None, special: SpecialNames, table: Table, responder: Responder) -> None:
        self.forwarder = forwarder
        self._special, self._table, self._responder = special, table, responder

    def __len__(self) -> int:
        """Return how many questions other servers are being asked."""
        return 0 if self.forwarder is None else len(self.forwarder)

    def is_for(self, exchange: Exchange) -> bool:
        """Return whether questions of this client are forwarded."""
        is_wanted = bool(exchange.query.flags & RD)
        return self.forwarder is not None and is_wanted and exchange.client.address in self.forwarder.clients

    def ask(self, question: Question, now: float) -> Sequence[Action | Reply | Drop]:
        """Answer a question of a client for whom that is done."""
        assert self.forwarder is not None
        qtype = question.exchange.query.qtype
        is_above_ours = self._table.exists(question.name)
        special = self._special.answer(question.name, qtype, is_above_ours=is_above_ours)
        if special is not None:
            return [self._answer_specially(question, *special, now)]
        self._responder.counts.answers[qtype, Rcode.NOERROR, "forwarded"] += 1
        return self.forwarder.handle(QuestionAsked(question), now)

    def refuse(self, exchange: Exchange, now: float) -> Reply | Drop:
        """Answer that the name is in no zone of ours."""
        if (instead := self._responder.over_limit(exchange, (Rcode.REFUSED,), now)) is not None:
            return instead
        return self._responder.respond(exchange, Rcode.REFUSED, "outside", error=(Ede.NOT_AUTHORITATIVE, ""))

    def _answer_specially(self, question: Question, rcode: Rcode, records: Records, now: float) -> Reply | Drop:
        exchange, query = question.exchange, question.exchange.query
        alike = ("special", rcode, query.question.lower() if rcode is Rcode.NOERROR else b"")
        if (instead := self._responder.over_limit(exchange, alike, now)) is not None:
            return instead
        if (before := question.aliases) is not None:
            records = replace(records, answer=before.answer + records.answer, answers=before.answers + records.answers)
        reply = bytearray(self._responder.respond(exchange, rcode, "special", records).data)
        reply[3] |= RA | (query.flags & CD)
        return Reply(bytes(reply))

    # --- the forwarder, if there is one ---

    def handle(self, event: Event, now: float) -> Sequence[Action]:
        """Give the forwarder an event."""
        return () if self.forwarder is None else self.forwarder.handle(event, now)

    def deadline(self) -> float | None:
        """Return when the forwarder wants to look at the clock."""
        return None if self.forwarder is None else self.forwarder.deadline()

    def tick(self, now: float) -> Sequence[Action]:
        """Let the forwarder look at the clock."""
        return () if self.forwarder is None else self.forwarder.tick(now)
