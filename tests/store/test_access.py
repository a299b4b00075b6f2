from __future__ import annotations

import pytest

from jitsu_protocol.errors import BadRequest
from jitsu_protocol.identity import parse
from jitsu_store.rules.access import branch_refusal, merge_refusal, operator_refusal, record_refusal, write_refusal

UUID = "4d47be4e-9cd2-5d84-a20e-7b966138fbe2"
OTHER = "fc85d032-e9b7-5961-bf65-70d68caa284b"
OPERATOR, REAPER, VMD, VM = map(parse, ("operator:me", "service:reaper", "service:vmd", f"vm:{UUID}"))


def test_an_operator_may_do_everything() -> None:
    assert write_refusal(OPERATOR, "master", ["anything"]) == ""
    assert merge_refusal(OPERATOR, "a", "b", ["anything"]) == ""
    assert branch_refusal(OPERATOR, "a") == operator_refusal(OPERATOR, "push") == ""


def test_a_service_writes_only_its_statistics() -> None:
    assert write_refusal(REAPER, "master", ["jitsu/replica/dns-0/lease_s"]) == ""
    for who, branch, path in (
        (REAPER, "master", f"jitsu/vm/{UUID}/ip"),
        (REAPER, "try", "jitsu/replica/dns-0/lease_s"),
        (VMD, "master", "jitsu/replica/dns-0/lease_s"),
    ):
        assert "a service writes only its statistics" in write_refusal(who, branch, [path])
    assert merge_refusal(VMD, "a", "master", [])
    assert branch_refusal(VMD, "a")
    assert operator_refusal(VMD, "push") == "only an operator may push"
    stats = f"jitsu/stats/{UUID}"
    assert record_refusal("vmd", [f"{stats}/total_starts", f"{stats}/start_ts"]) == ""
    assert record_refusal("reaper", [f"{stats}/dns/a.b/total_requests"]) == ""
    assert record_refusal("reaper", [f"{stats}/total_starts"])
    assert record_refusal("dns", [f"{stats}/total_starts"])
    assert record_refusal("vmd", [f"jitsu/vm/{UUID}/total_starts"])


def test_a_vm_writes_below_its_entry_on_branches_of_its_own() -> None:
    own = f"jitsu/vm/{UUID}/ip"
    assert write_refusal(VM, UUID, [own]) == write_refusal(VM, f"{UUID}-two", [own]) == ""
    assert "branches that begin with its uuid" in write_refusal(VM, "master", [own])
    assert "branches that begin with its uuid" in write_refusal(VM, OTHER, [own])
    assert f"only below jitsu/vm/{UUID}/" in write_refusal(VM, UUID, [own, f"jitsu/vm/{OTHER}/ip"])
    assert write_refusal(VM, UUID, [f"jitsu/vm/{UUID}"])  # the entry itself is not below it
    assert merge_refusal(VM, UUID, "master", [own]) == ""
    assert merge_refusal(VM, "try", "master", [own])
    assert merge_refusal(VM, UUID, "try", [own])
    assert merge_refusal(VM, UUID, "master", [f"jitsu/stats/{UUID}/total_starts"])
    assert operator_refusal(VM, "pull")


@pytest.mark.parametrize(
    "text", ["", "root", "operator:", "god:me", "vm:www", "operator:a\nb", "operator:" + "x" * 200]
)
def test_what_is_no_identity_is_refused(text: str) -> None:
    with pytest.raises(BadRequest):
        parse(text)
