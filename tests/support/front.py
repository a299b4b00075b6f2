"""A dns replica's rules for tests: with one VM, asked as the wire asks."""

from __future__ import annotations

from typing import TYPE_CHECKING

import dns.message

from jitsu_dns.rules.access import ResponseLimit, SummonLimit
from jitsu_dns.rules.actions import About, Asker
from jitsu_dns.rules.cookies import Cookies
from jitsu_dns.rules.query import Front
from jitsu_dns.rules.records import Authority, parse_static
from jitsu_dns.rules.table import Table
from jitsu_dns.rules.uses import Uses
from jitsu_protocol.messages import Report, VmStatus
from jitsu_protocol.model.inventory import VmChanged
from jitsu_protocol.rates import Networks
from tests.support.vms import make_vm

if TYPE_CHECKING:
    from collections.abc import Sequence

    from jitsu_dns.rules.forward import Forwarder
    from jitsu_dns.rules.names import Names
    from jitsu_dns.rules.notify import Notifier
    from jitsu_dns.rules.special import SpecialNames
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
) -> Front:
    made = Front(
        Table(zones, Authority(), map(parse_static, static), notes_changes=notify is not None),
        Uses("dns-0", "i", lease),
        max_waiting,
        summons=summons or SummonLimit(NOBODY, NOBODY, 0, 1),
        responses=responses or ResponseLimit(0, NOBODY),
        cookies=Cookies(bytes(16)),
        about=About("jitsu", "dns-0"),
        forward=forward,
        special=special,
        notify=notify,
        names=names,
    )
    if vms_are_told:
        made.configure([VmChanged(None, vm) for vm in (vms or (VM_WWW,))], 1, 0.0)
    if registered:
        made.uses.acknowledged(0.0)
    return made


def state(made: Front, value: VmState, vm: VM = VM_WWW, now: float = 0.0, drain: str = "") -> None:
    made.state(VmStatus(uuid=vm.uuid, name=vm.name, state=value, drain=drain), now)


def ask(made: Front, now: float, name: str = "www.jitsu.test", id: int = 1, client: object = CLIENT) -> bytes | None:
    query = dns.message.make_query(name, "A", use_edns=0)
    query.id = id
    return asked(made, query, now, client)


def asked(made: Front, query: dns.message.Message, now: float = 1.0, client: object = CLIENT) -> bytes | None:
    """Ask as the wire does: what the warm path leaves is parsed."""
    (answer,) = made.warm([query.to_wire()], now, OneSender())
    return made.query(query.to_wire(), Asker(client, ADDRESS, True), now) if answer is None else answer


def report(made: Front, drains: list[str], now: float) -> Report:
    made.count(1000)
    return made.uses.report(drains, now)


def address_in(data: bytes | None) -> str:
    assert data is not None
    return str(dns.message.from_wire(data).answer[0][0].to_text())
