"""A dns replica's rules for tests: with one VM, asked as the wires ask."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import dns.message

from jitsu_dns.rules.cookies import Cookies
from jitsu_dns.rules.events import (
    ClientGone,
    Drop,
    NamesRemembered,
    NamesTold,
    QueryReceived,
    RecordWait,
    Reply,
    StatePublished,
    StatesReceived,
    SummonRefused,
    TurnCame,
    VmsChanged,
    VmSummoned,
)
from jitsu_dns.rules.exchange import Client, SelfDescription, ServerIdentity
from jitsu_dns.rules.front import Front, Limits, Others
from jitsu_dns.rules.notify import LogUnheard, SendNotify
from jitsu_dns.rules.rates import ResponseLimit, SummonLimit
from jitsu_dns.rules.records import Authority, parse_static
from jitsu_dns.rules.special import SpecialNames
from jitsu_dns.rules.table import Table
from jitsu_dns.rules.usage import NameUsage, Reporting
from jitsu_protocol.messages import Report, VmStatus
from jitsu_protocol.model.inventory import VmChanged
from jitsu_protocol.rates import Networks
from tests.support.vms import make_vm

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from jitsu_dns.rules.forward import Forwarder
    from jitsu_dns.rules.front import Event
    from jitsu_dns.rules.names import Names
    from jitsu_dns.rules.notify import Notifier
    from jitsu_protocol.model.errors import JitsuError
    from jitsu_protocol.model.states import VmState
    from jitsu_protocol.model.vm import VM

VM_WWW = make_vm(ttl="10")
CLIENT = ("192.0.2.1", 5000)
ADDRESS = bytes([192, 0, 2, 1])
NOBODY = Networks([])


class OneSender:
    def keys(self) -> list[bytes]:
        return [ADDRESS]

    def address(self, n: int) -> bytes:
        return ADDRESS


class DrivenFront:
    """A front, and the actions that it has returned."""

    def __init__(self, front: Front) -> None:
        self.front = front
        self.usage, self.states = front.usage, front.states
        self.names, self.table = front.contents.names, front.contents.table
        self.faults, self.pending = front.contents.faults, front.cold.pending
        self.forwarder = front.outside.forwarder
        self._actions: list[Any] = []

    def handle(self, event: Event, now: float) -> bytes | None:
        """Handle an event; return what is answered at once, b"" if that is dropped."""
        return self._note(self.front.handle(event, now))

    def _note(self, actions: Sequence[Any]) -> bytes | None:
        answers = [action.data if isinstance(action, Reply) else b"" for action in actions if _is_answer(action)]
        self._actions += [action for action in actions if not _is_answer(action)]
        assert len(answers) <= 1
        return answers[0] if answers else None

    def take(self) -> list[Any]:
        """Return what is to be done, and forget it; without what is only counted, and without NOTIFYs."""
        actions, self._actions = self._actions, []
        return [action for action in actions if not isinstance(action, RecordWait | SendNotify | LogUnheard)]

    def query(self, data: bytes, client: Client, now: float) -> bytes | None:
        return self.handle(QueryReceived(data, client), now)

    def warm(self, datagrams: Sequence[bytes], now: float, senders: OneSender | None = None) -> list[bytes | None]:
        return self.front.warm.answers(datagrams, now, senders)

    def summoned(self, vm: str, now: float, *, armed: bool = False) -> None:
        self.handle(VmSummoned(vm, armed), now)

    def refused(self, vm: str, error: JitsuError, now: float) -> None:
        self.handle(SummonRefused(vm, error), now)

    def state(self, status: VmStatus, now: float, *, gone: bool = False) -> None:
        self.handle(StatePublished(status, gone), now)

    def all_states(self, statuses: Sequence[VmStatus], now: float, host: str = "") -> None:
        self.handle(StatesReceived(statuses, host), now)

    def configure(self, changes: Sequence[VmChanged], serial: int, now: float) -> None:
        self.handle(VmsChanged(changes, serial), now)

    def remember(self, leaves: Mapping[str, dict[str, str]], now: float, serial: int = 5) -> None:
        self.handle(NamesRemembered(leaves, serial), now)

    def told(self, serial: int, now: float) -> None:
        self.handle(NamesTold(serial), now)

    def make_some(self, now: float) -> bool:
        self.handle(TurnCame(), now)
        return self.names.left > 0

    def gone(self, client: object) -> None:
        self.handle(ClientGone(client), 0.0)

    def passed(self, now: float) -> None:
        assert self._note(self.front.tick(now)) is None

    def deadline(self) -> float | None:
        return self.front.deadline()

    def drains(self) -> list[str]:
        return self.states.drains()

    @property
    def packets_kept(self) -> int:
        return len(self.front.warm)


def _is_answer(action: object) -> bool:
    return isinstance(action, Reply | Drop)


def front(
    *vms: VM,
    registered: bool = True,
    max_waiting: int = 10,
    lease: float = 300.0,
    summons: SummonLimit | None = None,
    responses: ResponseLimit | None = None,
    static: Sequence[str] = (),
    forward: Forwarder | None = None,
    special: SpecialNames | None = None,
    notify: Notifier | None = None,
    zones: Sequence[str] = ("jitsu.test",),
    names: Names | None = None,
    vms_are_told: bool = True,
) -> DrivenFront:
    made = DrivenFront(
        Front(
            Table(zones, Authority(), map(parse_static, static), notes_changes=notify is not None),
            NameUsage(Reporting("dns-0", "i", lease)),
            Limits(max_waiting, summons or SummonLimit(NOBODY, NOBODY, 0, 1), responses or ResponseLimit(0, NOBODY)),
            ServerIdentity(SelfDescription("jitsu", "dns-0"), Cookies(bytes(16))),
            Others(forward, special or SpecialNames(), notify, names),
        )
    )
    if vms_are_told:
        made.configure([VmChanged(None, vm) for vm in (vms or (VM_WWW,))], 1, 0.0)
    if registered:
        made.usage.acknowledged(0.0)
    return made


def state(made: DrivenFront, value: VmState, vm: VM = VM_WWW, now: float = 0.0, drain: str = "") -> None:
    made.state(VmStatus(uuid=vm.uuid, name=vm.name, state=value, drain=drain), now)


def ask(
    made: DrivenFront, now: float, name: str = "www.jitsu.test", id: int = 1, client: object = CLIENT
) -> bytes | None:
    query = dns.message.make_query(name, "A", use_edns=0)
    query.id = id
    return asked(made, query, now, client)


def asked(made: DrivenFront, query: dns.message.Message, now: float = 1.0, client: object = CLIENT) -> bytes | None:
    """Ask as the wire does: what the warm path leaves is parsed."""
    (answer,) = made.warm([query.to_wire()], now, OneSender())
    return made.query(query.to_wire(), Client(client, ADDRESS, True), now) if answer is None else answer


def report(made: DrivenFront, drains: list[str], now: float) -> Report:
    made.front.warm.count(1000)
    return made.usage.report(drains, now)


def address_in(data: bytes | None) -> str:
    assert data is not None
    return str(dns.message.from_wire(data).answer[0][0].to_text())
