"""Machines that describe themselves, in a whole suite: from the label to the answer, through crashes on either side."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from jitsu_protocol.messages import Applied, Apply, Change, DeleteBranch, Done, History, Leaves, List, Log, Merge
from jitsu_protocol.model.vm import VM_ROOT, uuid_for
from jitsu_vmd.hypervisor import Discovered
from tests.simulation.suite import SimulatedSuite, vm

if TYPE_CHECKING:
    from collections.abc import Iterator

LABELS = {"hypervisor.label_zones": "jitsu.test"}
SOON_S = 15.0
"""A look at all machines, and what follows."""


def machine(name: str, last: int, **keys: str) -> Discovered:
    return Discovered(name, addresses=(f"10.77.9.{last}",), keys={"dns": f"{name}.jitsu.test", "ttl": "5"} | keys)


@pytest.fixture
def suite() -> Iterator[SimulatedSuite]:
    with SimulatedSuite([vm("mine", ttl=5)], settings=LABELS) as made:
        yield made


def put(suite: SimulatedSuite, *machines: Discovered) -> None:
    """Have these machines, and no others; the suite holds their VMs to G3 too."""
    suite.guests[""].machines = {each.name: each for each in machines}
    known = {each.name for each in suite.vms}
    suite.vms = [*suite.vms, *(vm(each.name, ttl=5) for each in machines if each.name not in known)]


def names(suite: SimulatedSuite, branch: str = "master") -> set[str]:
    leaves = suite.call("store", List(prefix=VM_ROOT, branch=branch), Leaves).leaves
    return {value for path, value in leaves.items() if path.endswith("config/name/0")}


def becomes(suite: SimulatedSuite, *expected: str) -> None:
    """Wait until these VMs are configured, beside the operator's."""
    for _ in range(int(SOON_S)):
        if names(suite) == {"mine", *expected}:
            return
        suite.run(1.0)
    assert names(suite) == {"mine", *expected}


def runs(suite: SimulatedSuite, name: str) -> bool:
    return uuid_for(name) in suite.guests[""].guests


def test_a_machine_with_a_label_is_started_by_a_query_and_stopped_when_idle(suite: SimulatedSuite) -> None:
    put(suite, machine("web", 1))
    becomes(suite, "web")
    assert suite.ask("web").addresses == ["10.77.9.1"]
    assert runs(suite, "web")
    suite.run(20.0)
    assert not runs(suite, "web")
    assert names(suite, "labels") == {"web"}
    assert "labels describe 1 VM" in suite.notes("vmd")


def test_nothing_is_committed_while_nothing_changes(suite: SimulatedSuite) -> None:
    put(suite, machine("web", 1))
    becomes(suite, "web")
    before = suite.call("store", Log(path=VM_ROOT), History).commits
    suite.run(60.0)
    for process in ("vmd", "store"):
        suite.restart(process)
        suite.run(30.0)
    assert suite.call("store", Log(path=VM_ROOT), History).commits == before


def test_a_machine_that_was_removed_while_vmd_was_down_disappears_when_it_returns(suite: SimulatedSuite) -> None:
    put(suite, machine("web", 1), machine("db", 2))
    becomes(suite, "web", "db")
    suite.kill("vmd")
    put(suite, machine("db", 2))
    suite.run(5.0)
    assert names(suite) == {"mine", "web", "db"}
    suite.start("vmd")
    becomes(suite, "db")
    assert suite.ask("web").rcode == "NXDOMAIN"


def test_a_machine_that_appears_while_the_store_is_down_is_a_vm_when_it_returns(suite: SimulatedSuite) -> None:
    suite.kill("store")
    put(suite, machine("web", 1))
    suite.run(20.0)
    suite.start("store")
    suite.run(SOON_S)
    becomes(suite, "web")


@pytest.mark.parametrize("process", ["store", "vmd"])
def test_a_crash_at_any_moment_of_the_way_is_made_good(process: str) -> None:
    for tenth in range(1, 16):
        with SimulatedSuite([vm("mine", ttl=5)], seed=tenth, settings=LABELS) as suite:
            put(suite, machine("web", 1), machine("db", 2))
            suite.run(tenth / 10)
            suite.restart(process)
            becomes(suite, "web", "db")
            assert names(suite, "labels") == {"web", "db"}


def test_while_the_list_of_machines_cannot_be_had_nothing_is_removed(suite: SimulatedSuite) -> None:
    put(suite, machine("web", 1))
    becomes(suite, "web")
    put(suite)
    suite.guests[""].lists = False
    suite.run(30.0)
    suite.restart("vmd")
    suite.run(30.0)
    assert names(suite) == {"mine", "web"}
    suite.guests[""].lists = True
    becomes(suite)


def test_g3_a_vm_whose_label_vanishes_while_it_runs_stays_until_it_is_idle(suite: SimulatedSuite) -> None:
    put(suite, machine("web", 1))
    becomes(suite, "web")
    for _ in range(20):
        assert suite.ask("web").rcode == "NOERROR"
        put(suite, Discovered("web", addresses=("10.77.9.1",)))
        suite.run(1.0)
    assert runs(suite, "web")
    suite.run(30.0)
    assert not runs(suite, "web")
    becomes(suite)
    assert suite.ask("web").rcode == "NXDOMAIN"


def test_a_machine_that_claims_the_name_of_an_operators_vm_is_refused_and_shown_until_the_name_is_free(
    suite: SimulatedSuite,
) -> None:
    put(suite, machine("web", 1, dns="mine.jitsu.test"), machine("db", 2))
    becomes(suite, "db")
    shown = "labels of web are refused: dns: "
    [note] = [each for each in suite.notes("vmd") if each.startswith(shown)]
    assert "mine.jitsu.test belongs to the VM mine already" in note
    assert suite.ask("mine").addresses == [str(suite.vm("mine").addresses[0])]
    suite.run(15.0)
    assert not suite.guest_runs("mine")
    leaves = suite.call("store", List(prefix=f"{VM_ROOT}/{suite.vm('mine').uuid}"), Leaves).leaves
    gone = [Change(path=path, value=None) for path in leaves]
    suite.call("store", Apply(changes=gone, author="operator:me", message="gone", request="x"), Applied)
    suite.run(SOON_S)
    assert names(suite) == {"web", "db"}
    assert not [each for each in suite.notes("vmd") if each.startswith(shown)]


def test_a_vm_that_an_operator_removes_comes_back_at_once_because_its_label_is_there(suite: SimulatedSuite) -> None:
    put(suite, machine("web", 1))
    becomes(suite, "web")
    leaves = suite.call("store", List(prefix=f"{VM_ROOT}/{uuid_for('web')}"), Leaves).leaves
    gone = [Change(path=path, value=None) for path in leaves]
    suite.call("store", Apply(changes=gone, author="operator:me", message="gone", request="x"), Applied)
    suite.run(3.0)
    assert names(suite) == {"mine", "web"}


def test_labels_that_are_switched_off_leave_nothing_behind() -> None:
    with SimulatedSuite([vm("mine", ttl=5)], settings=LABELS) as suite:
        put(suite, machine("web", 1))
        becomes(suite, "web")
        suite.processes["vmd"].flags.pop("hypervisor.label_zones")
        suite.restart("vmd")
        becomes(suite)


def test_a_store_without_zones_accepts_nothing_from_a_vmd_that_has_them() -> None:
    with SimulatedSuite([vm("mine", ttl=5)], settings=LABELS) as suite:
        suite.processes["store"].flags.pop("hypervisor.label_zones")
        suite.restart("store")
        suite.run(2.0)
        put(suite, machine("web", 1))
        suite.run(SOON_S)
        assert names(suite) == {"mine"}
        assert any("hypervisor.label_zones is empty in the store's settings" in each for each in suite.notes("vmd"))


def test_each_host_has_its_own_machines() -> None:
    with SimulatedSuite([vm("mine", ttl=5)], hosts=("", "b"), settings=LABELS) as suite:
        put(suite, machine("web", 1))
        suite.guests["b"].machines = {"db": machine("db", 2)}
        becomes(suite, "web", "db")
        assert suite.ask("db").addresses == ["10.77.9.2"]
        assert uuid_for("db") in suite.guests["b"].guests
        suite.guests["b"].machines = {}
        becomes(suite, "web")


def test_the_label_branch_may_be_merged_or_deleted_by_an_operator_without_harm(suite: SimulatedSuite) -> None:
    put(suite, machine("web", 1))
    becomes(suite, "web")
    merged = suite.call("store", Merge(branch="labels", author="operator:me", request="m"), Applied)
    assert merged.changed == 0
    suite.call("store", DeleteBranch(name="labels", author="operator:me"), Done)
    put(suite, machine("web", 1), machine("db", 2))
    becomes(suite, "web", "db")
    assert names(suite, "labels") == {"web", "db"}
    put(suite)
    becomes(suite)
