"""Which role may send which request, on every tcp endpoint of a suite with keys (the runtime's curve.py).

Each key belongs to a role, which is a service or an operator. This table lists everything that a role may request. A
kind of request that the table does not have may be sent by operators only.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, get_args

from jitsu_protocol import messages
from jitsu_protocol.messages import tokens
from jitsu_protocol.messages.base import AuthoredRequest
from jitsu_protocol.model.errors import Forbidden
from jitsu_protocol.model.identity import Role as IdentityRole
from jitsu_protocol.model.identity import is_via_web

if TYPE_CHECKING:
    from jitsu_protocol.messages import Request

Role = Literal["store", "vmd", "dns", "synjitsu", "reaper", "web", "operator"]
ROLES: tuple[str, ...] = get_args(Role)

EVERYBODY = frozenset(ROLES)
OPERATOR = frozenset({"operator"})
USERS = OPERATOR | {"web"}
"""Operators, and jitsu-web in the name of one (`check_user`)."""
_CALLERS: dict[type[Request], frozenset[str]] = {
    messages.Ping: EVERYBODY,
    # the store
    messages.List: EVERYBODY,
    messages.Record: frozenset({"vmd", "reaper"}),
    messages.Register: frozenset({"reaper"}),
    messages.Describe: OPERATOR | {"vmd"},
    messages.ChangesSince: USERS | {"dns"},
    messages.Read: USERS,
    messages.Log: USERS,
    messages.Diff: USERS,
    messages.ListBranches: USERS,
    messages.Apply: USERS,
    messages.Merge: USERS,
    messages.CreateBranch: USERS,
    messages.DeleteBranch: USERS,
    tokens.CreateToken: USERS,
    tokens.RevokeToken: USERS,
    tokens.ListTokens: USERS,
    tokens.ReadDigests: frozenset({"web"}),
    # vmd
    messages.ListVms: EVERYBODY,
    messages.Summon: USERS | {"dns", "synjitsu"},
    messages.HandedOver: frozenset({"synjitsu"}),
    messages.Drain: frozenset({"reaper"}),
    messages.StopDrained: frozenset({"reaper"}),
    messages.CancelDrain: frozenset({"reaper"}),
    messages.Trace: USERS,
    messages.Check: USERS,
    messages.Discover: USERS,
    messages.OperatorStop: USERS,
    messages.StartDiscarding: USERS,
    # synjitsu
    messages.Arm: frozenset({"vmd"}),
    messages.Disarm: frozenset({"vmd"}),
    # the reaper
    messages.Why: USERS,
    messages.Report: frozenset({"dns", "synjitsu"}),
    messages.ForgetClients: OPERATOR,
}


def check(role: str, kind: str) -> None:
    """Raise Forbidden unless a role may send requests of a kind; the role of an unknown key is ""."""
    if role not in _BY_KIND.get(kind, OPERATOR):
        raise Forbidden(
            f"a key of {role} may not send {kind}" if role else "this key is no longer known",
            hint="`jitsu keys list` says what the keys in bus.keys are for",
        )


def check_user(role: str | None, request: Request) -> None:
    """Raise Forbidden unless a request names the person in whose name it is sent, as the role of its key demands.

    jitsu-web has to name its user, and may not pass for somebody who asks directly. Nobody else may pass for it.
    A service does not pass for an operator either, whose start a hold or a back-off does not stop.
    On ipc, where there are no keys (None), everybody is believed.
    """
    if role is None:
        return
    match request:
        case messages.Summon(trigger=trigger, by=user) if role not in USERS:
            if trigger == "operator" or user.startswith(f"{IdentityRole.OPERATOR}:"):
                raise Forbidden(f"a key of {role} may not start a VM as an operator")
        case messages.Summon(by=user) | messages.StartDiscarding(by=user) | messages.OperatorStop(by=user):
            pass
        case AuthoredRequest(author=user):
            pass
        case _:
            return
    is_of_web = is_via_web(user)
    if is_of_web and role != "web":
        raise Forbidden(f"a key of {role} may not send requests in the name of users of jitsu-web")
    if role == "web" and not is_of_web:
        raise Forbidden(f"jitsu-web may send {request.kind} only in the name of one of its users")


_BY_KIND = {request.kind: callers for request, callers in _CALLERS.items()}
