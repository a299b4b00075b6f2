"""Which role may send which request, on every tcp endpoint of a suite with keys (the runtime's curve.py).

Each key belongs to a role, which is a service or an operator. This table lists everything that a role may request. A
kind of request that the table does not have may be sent by operators only.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, get_args

from jitsu_protocol import messages
from jitsu_protocol.model.errors import Forbidden

if TYPE_CHECKING:
    from jitsu_protocol.messages import Request

Role = Literal["store", "vmd", "dns", "synjitsu", "reaper", "web", "operator"]
ROLES: tuple[str, ...] = get_args(Role)

EVERYBODY = frozenset(ROLES)
OPERATOR = frozenset({"operator"})
_CALLERS: dict[type[Request], frozenset[str]] = {
    messages.Ping: EVERYBODY,
    # the store
    messages.List: EVERYBODY,
    messages.Record: frozenset({"vmd", "reaper"}),
    messages.Register: frozenset({"reaper"}),
    messages.Describe: OPERATOR | {"vmd"},
    messages.ChangesSince: OPERATOR | {"dns"},
    # vmd
    messages.ListVms: EVERYBODY,
    messages.Summon: OPERATOR | {"dns", "synjitsu"},
    messages.HandedOver: frozenset({"synjitsu"}),
    messages.Drain: frozenset({"reaper"}),
    messages.StopDrained: frozenset({"reaper"}),
    messages.CancelDrain: frozenset({"reaper"}),
    messages.Trace: OPERATOR,
    messages.Discover: OPERATOR,
    messages.OperatorStop: OPERATOR,
    messages.StartDiscarding: OPERATOR,
    # synjitsu
    messages.Arm: frozenset({"vmd"}),
    messages.Disarm: frozenset({"vmd"}),
    # the reaper
    messages.Report: frozenset({"dns", "synjitsu"}),
    messages.Why: OPERATOR,
    messages.ForgetClients: OPERATOR,
}


def check(role: str, kind: str) -> None:
    """Raise Forbidden unless a role may send requests of a kind; the role of an unknown key is ""."""
    if role not in _BY_KIND.get(kind, OPERATOR):
        raise Forbidden(
            f"a key of {role} may not send {kind}" if role else "this key is no longer known",
            hint="`jitsu keys list` says what the keys in bus.keys are for",
        )


_BY_KIND = {request.kind: callers for request, callers in _CALLERS.items()}
