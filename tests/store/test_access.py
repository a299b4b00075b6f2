from __future__ import annotations

import re
from pathlib import Path

import pytest

from jitsu_protocol.model.errors import BadRequest
from jitsu_protocol.model.identity import parse
from jitsu_protocol.model.vm_keys import KEYS
from jitsu_store.rules.access import (
    branch_refusal,
    merge_refusal,
    names_of,
    operator_refusal,
    record_refusal,
    write_refusal,
)

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
    assert record_refusal("vmd", {f"{stats}/total_starts": "3", f"{stats}/start_ts": "1700000000.123456"}) == ""
    assert record_refusal("reaper", {f"{stats}/dns/a.b/total_requests": "1"}) == ""
    assert record_refusal("reaper", {f"{stats}/total_starts": "1"})
    assert record_refusal("dns", {f"{stats}/total_starts": "1"})
    assert record_refusal("vmd", {f"jitsu/vm/{UUID}/total_starts": "1"})


@pytest.mark.parametrize(
    ("service", "path"),
    [
        ("reaper", "jitsu/stats/total_requests"),
        ("reaper", f"jitsu/stats/{UUID}/total_requests"),
        ("reaper", f"jitsu/stats/{UUID}/dns/total_requests"),
        ("reaper", f"jitsu/stats/{UUID}/dns/a.b/x/total_requests"),
        ("reaper", f"jitsu/stats/{UUID}/dns//total_requests"),
        ("reaper", f"jitsu/stats/{UUID}/dns/../total_requests"),
        ("vmd", "jitsu/stats/total_starts"),
        ("vmd", f"jitsu/stats/{UUID}/total_starts/total_starts"),
        ("vmd", f"jitsu/stats/{UUID}/dns/a.b/total_starts"),
    ],
)
def test_a_statistic_that_would_stand_in_the_way_of_another_is_refused(service: str, path: str) -> None:
    assert "writes only its own statistics" in record_refusal(service, {path: "1"})


@pytest.mark.parametrize("value", ["", "x", "1" * 30, "1.2.3", "nan", "1\n", "٣", "1" * 1_200_000])
def test_a_statistic_is_a_number(value: str) -> None:
    assert "a statistic is a number" in record_refusal("vmd", {f"jitsu/stats/{UUID}/total_starts": value})


TTL = f"jitsu/vm/{UUID}/dns/www.jitsu.test/ttl"
NAMES = {"www.jitsu.test", "*.apps.jitsu.test"}
SERVICES = [parse(f"service:{name}") for name in ("store", "vmd", "dns", "synjitsu", "reaper")]
VM_SETS = {"ttl", "stop_mode", "response_delay", "wait_for_key", "wait_for_port"} | {
    *("ready", "use_synjitsu", "answer", "handover", "max_wait", "on_timeout")
}


def leaves_of(key: str) -> list[str]:
    """Return each path below a VM by which a key can be set."""
    found = [f"config/{key}/0", f"config/{key}/7", key, *(["dns/other.test/ttl"] if key == "dns" else [])]
    return [f"jitsu/vm/{UUID}/{leaf}" for leaf in found]


@pytest.mark.parametrize("key", KEYS)
def test_each_key_may_be_set_by_an_operator_and_by_a_vm_only_if_it_affects_nobody_else(key: str) -> None:
    for path in leaves_of(key):
        assert write_refusal(OPERATOR, "master", [path]) == merge_refusal(OPERATOR, UUID, "master", [path]) == ""
        for service in SERVICES:
            assert "a service writes only its statistics" in write_refusal(service, "master", [path])
            assert merge_refusal(service, UUID, "master", [path])
        allowed = key in VM_SETS and not (key == "ttl" and path.endswith(f"{UUID}/ttl"))  # which is no leaf
        for refusal in (
            write_refusal(VM, UUID, [TTL, path], NAMES),
            merge_refusal(VM, UUID, "master", [TTL, path], NAMES),
            merge_refusal(VM, UUID, f"{UUID}-two", [TTL, path], NAMES),
        ):
            assert bool(refusal) is not allowed, path
            assert allowed or "a VM may not" in refusal


@pytest.mark.parametrize(
    ("name", "allowed"),
    [
        ("www.jitsu.test", True),
        ("WWW.jitsu.test.", True),
        ("api.www.jitsu.test", True),
        ("*.www.jitsu.test", True),
        ("x.apps.jitsu.test", True),
        ("apps.jitsu.test", False),
        ("*.jitsu.test", False),
        ("awww.jitsu.test", False),
        ("mail.jitsu.test", False),
        ("", False),
    ],
)
def test_a_vm_has_only_names_below_those_that_an_operator_gave_it(name: str, allowed: bool) -> None:
    path = f"jitsu/vm/{UUID}/dns/{name}/ttl"
    assert bool(write_refusal(VM, UUID, [path], NAMES)) is not allowed
    assert bool(merge_refusal(VM, UUID, "master", [path], NAMES)) is not allowed


def test_the_names_of_a_vm_are_those_that_are_configured_and_those_that_it_has() -> None:
    start = f"jitsu/vm/{UUID}"
    leaves = {f"{start}/config/dns/0": "A.test.", f"{start}/dns/b.test/ttl": "5", f"{start}/config/name/0": "c.test"}
    assert names_of(VM, leaves) == {"a.test", "b.test"}


def test_the_table_in_the_page_is_that_of_the_code() -> None:
    page = (Path(__file__).parents[2] / "docs/explanation/security.md").read_text()
    row = next(line for line in page.splitlines() if line.startswith("| the VM itself |"))
    assert (
        set(re.findall("`([a-z_]+)`", row)) == VM_SETS == {key for key, about in KEYS.items() if about.set_by == "vm"}
    )


def test_a_vm_writes_below_its_entry_on_branches_of_its_own() -> None:
    own = f"jitsu/vm/{UUID}/response_delay"
    assert write_refusal(VM, UUID, [own]) == write_refusal(VM, f"{UUID}-two", [own]) == ""
    assert "branches that begin with its uuid" in write_refusal(VM, "master", [own])
    assert "branches that begin with its uuid" in write_refusal(VM, OTHER, [own])
    assert f"only below jitsu/vm/{UUID}/" in write_refusal(VM, UUID, [own, f"jitsu/vm/{OTHER}/response_delay"])
    assert write_refusal(VM, UUID, [f"jitsu/vm/{UUID}"])  # the entry itself is not below it
    assert write_refusal(VM, UUID, [f"jitsu/vm/{UUID}/config/response_delay/x"])
    assert write_refusal(VM, UUID, [f"jitsu/vm/{UUID}/response_delay/below"])
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
