"""Requests in the name of users of jitsu-web: who may send them, and whom they have to name."""

from __future__ import annotations

import pytest

from jitsu_protocol.messages import Apply, ListVms, OperatorStop, Summon
from jitsu_protocol.messages.tokens import CreateToken, ReadDigests
from jitsu_protocol.model.errors import Forbidden
from jitsu_protocol.model.identity import is_via_web, parse, via_web
from jitsu_protocol.wire.permissions import check, check_user

ALICE = "operator:alice via web"


def apply(author: str) -> Apply:
    return Apply(changes=[], author=author, message="", request="r")


def test_a_user_of_jitsu_web_is_an_identity_like_any_other() -> None:
    assert via_web("alice") == ALICE
    assert str(parse(ALICE)) == ALICE
    assert is_via_web(ALICE)
    for wrong in ("operator:alice", "service:alice via web", "operator: via web", "operator:a b via web"):
        assert not is_via_web(wrong)


@pytest.mark.parametrize(
    ("role", "request_", "may"),
    [
        ("web", OperatorStop(vm="x", by=ALICE), True),
        ("web", OperatorStop(vm="x"), False),
        ("web", Summon(vm="x", trigger="operator"), False),
        ("web", apply(ALICE), True),
        ("web", apply("operator:alice"), False),
        ("web", apply("service:web"), False),
        ("web", CreateToken(name="x", role="viewer", digest="0" * 64, author="operator:root"), False),
        ("web", ListVms(), True),
        ("operator", OperatorStop(vm="x", by=ALICE), False),
        ("operator", apply(ALICE), False),
        ("operator", apply("operator:alice"), True),
        ("dns", Summon(vm="x"), True),
        ("dns", Summon(vm="x", by=ALICE), False),
        ("dns", Summon(vm="x", by="operator:root"), False),
        ("synjitsu", Summon(vm="x", trigger="operator"), False),
        ("synjitsu", Summon(vm="x", trigger="traffic", by="a1b2"), True),
        ("operator", Summon(vm="x", trigger="operator", by="operator:root"), True),
        (None, OperatorStop(vm="x", by=ALICE), True),
    ],
)
def test_jitsu_web_names_its_user_and_nobody_else_passes_for_one(role: str | None, request_: Summon, may: bool) -> None:
    if may:
        check_user(role, request_)
    else:
        with pytest.raises(Forbidden):
            check_user(role, request_)


def test_digests_of_tokens_are_for_jitsu_web_alone() -> None:
    check("web", ReadDigests.kind)
    for role in ("operator", "dns", "vmd", "reaper", "synjitsu", "store"):
        with pytest.raises(Forbidden):
            check(role, ReadDigests.kind)


@pytest.mark.parametrize("kind", ["vmd.drain", "store.record", "store.register", "store.push", "store.pull", "vmd.arm"])
def test_jitsu_web_may_not_send_what_no_user_asks_for(kind: str) -> None:
    with pytest.raises(Forbidden):
        check("web", kind)
