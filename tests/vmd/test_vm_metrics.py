"""The metrics of each VM: what adds up, and that there are none of too many VMs."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from prometheus_client import generate_latest
from prometheus_client.exposition import choose_encoder

from jitsu_protocol.messages import OperatorStop, Summon, Trace
from jitsu_protocol.model.states import VmState
from jitsu_vmd.rules.vm_totals import Exemplar, Period, VmTotals
from tests.support.vmd import running_vmd
from tests.support.vms import make_vm

if TYPE_CHECKING:
    from pathlib import Path

    from tests.support.vmd import PlayedVmd

MIB = 1024 * 1024


def totals(limit: int = 10) -> VmTotals:
    return VmTotals((0.1, 1.0), limit)


def test_time_that_a_vm_is_up_and_memory_that_it_saves_add_up_by_its_states() -> None:
    kept = totals()
    for state, at in [(VmState.OFF, 0.0), (VmState.STARTING, 10.0), (VmState.READY, 11.0), (VmState.PAUSED, 31.0)]:
        kept.moved("a", state, 64 * MIB, at, of=1)
    assert kept.rows["a"].period.totals(131.0) == (21.0, 10.0 * 64 * MIB)
    kept.moved("a", VmState.SUSPENDED, 64 * MIB, 131.0, of=1)
    assert kept.rows["a"].period.totals(133.0) == (21.0, 12.0 * 64 * MIB)


def test_another_amount_of_memory_counts_from_when_it_is_configured() -> None:
    kept = totals()
    kept.moved("a", VmState.OFF, 10, 0.0, of=1)
    kept.moved("a", VmState.OFF, 10, 3.0, of=1)
    kept.moved("a", VmState.OFF, 20, 5.0, of=1)
    assert kept.rows["a"].period.totals(6.0) == (0.0, 70.0)


def test_nobody_knows_what_a_vm_in_an_unknown_state_saves() -> None:
    assert Period(VmState.UNKNOWN, 0.0, 10).totals(5.0) == (0.0, 0.0)


def test_boots_are_counted_by_trigger_and_outcome_and_only_those_that_succeed_by_time() -> None:
    kept = totals()
    kept.moved("a", VmState.READY, 10, 0.0, of=1)
    for seconds, is_ready in [(0.05, True), (0.1, True), (0.5, True), (5.0, True), (7.0, False)]:
        kept.booted("a", "dns", Exemplar(f"s{seconds}", seconds, 0.0), is_ready=is_ready)
    row = kept.rows["a"]
    assert row.boots == {("dns", "ready"): 4, ("dns", "failed"): 1}
    assert {number: (count, latest.summon) for number, (count, latest) in row.buckets.items()} == {
        0: (2, "s0.1"),
        1: (1, "s0.5"),
        2: (1, "s5.0"),
    }
    assert row.boot_s == 5.65


def test_with_more_vms_than_the_limit_nothing_is_kept_of_any() -> None:
    kept = totals(limit=2)
    kept.moved("a", VmState.OFF, 10, 0.0, of=1)
    kept.moved("b", VmState.OFF, 10, 0.0, of=2)
    kept.moved("c", VmState.OFF, 10, 0.0, of=3)
    kept.booted("a", "dns", Exemplar("s", 1.0, 0.0), is_ready=True)
    assert kept.rows == {}
    kept.moved("a", VmState.OFF, 10, 9.0, of=2)
    assert list(kept.rows) == ["a"]
    kept.forget("a")
    assert kept.rows == {}


def scraped(vmd: PlayedVmd) -> str:
    return generate_latest(vmd.world.metrics.registry).decode()


def values(text: str, name: str) -> dict[str, float]:
    return {labels: float(value) for labels, value in re.findall(rf"^{name}{{(.*)}} (.*)$", text, re.MULTILINE)}


async def test_a_scrape_has_the_state_the_boots_and_the_times_of_each_vm(tmp_path: Path) -> None:
    vm = make_vm(response_delay="0", memory="64MiB")
    async with running_vmd(tmp_path, vm, hypervisor__metrics="127.0.0.1:1") as vmd:
        vmd.world.time.advance(100.0)
        await vmd.summoned(Summon(vm=vm.uuid))
        vmd.world.time.advance(7.0)
        text = scraped(vmd)
        states = values(text, "jitsu_vm_state")
        assert len(states) == len(VmState)
        assert [labels for labels, value in states.items() if value] == ['state="ready",vm="www"']
        assert values(text, "jitsu_vm_boots_total") == {'outcome="ready",trigger="dns",vm="www"': 1.0}
        assert values(text, "jitsu_vm_boot_seconds_count") == {'vm="www"': 1.0}
        assert 7.0 <= values(text, "jitsu_vm_up_seconds_total")['vm="www"'] < 8.0
        saved = values(text, "jitsu_vm_memory_saved_byte_seconds_total")['vm="www"']
        assert 100.0 <= saved / (64 * MIB) < 101.0
        held = vmd.world.metrics.registry.get_sample_value
        assert held("jitsu_vmd_memory_held_bytes") == 64 * MIB
        assert held("jitsu_vmd_memory_saved_bytes") == 0
        await vmd.daemon.operator_stop(OperatorStop(vm=vm.uuid))
        assert held("jitsu_vmd_memory_held_bytes") == 0
        assert held("jitsu_vmd_memory_saved_bytes") == 64 * MIB


async def test_openmetrics_has_the_id_of_a_summon_as_exemplar(tmp_path: Path) -> None:
    vm = make_vm(response_delay="0")
    async with running_vmd(tmp_path, vm, hypervisor__metrics="127.0.0.1:1") as vmd:
        await vmd.summoned(Summon(vm=vm.uuid))
        (done,) = vmd.daemon.outside.history.trace(Trace()).timelines
        openmetrics, _ = choose_encoder("application/openmetrics-text; version=1.0.0")
        text = openmetrics(vmd.world.metrics.registry).decode()
        for name in ("jitsu_vm_boot_seconds", "jitsu_vmd_summon_seconds"):
            assert re.search(rf'^{name}_bucket{{.*}} 1\.0 # {{summon="{done.summon}"}} ', text, re.MULTILINE), name
        assert text.endswith("# EOF\n")


async def test_status_says_that_there_are_too_many_vms_for_metrics_of_each(tmp_path: Path) -> None:
    vms = [make_vm(f"v{n}", f"127.0.4.{n + 1}") for n in range(3)]
    where = "127.0.0.1:1"
    async with running_vmd(tmp_path, *vms, hypervisor__metrics=where, hypervisor__vm_metrics="2") as vmd:
        assert values(scraped(vmd), "jitsu_vm_state") == {}
        note = "no metrics of single VMs: there are 3, and hypervisor.vm_metrics allows 2"
        assert note in vmd.daemon.notes()
        vmd.daemon.outside.vm_metrics.limit(3)
        assert note not in vmd.daemon.notes()
        assert len(values(scraped(vmd), "jitsu_vm_state")) == 3 * len(VmState)


async def test_nothing_is_kept_of_any_vm_while_no_metrics_are_served(tmp_path: Path) -> None:
    vm = make_vm(response_delay="0")
    async with running_vmd(tmp_path, vm, hypervisor__vm_metrics="0") as vmd:
        await vmd.summoned(Summon(vm=vm.uuid))
        assert values(scraped(vmd), "jitsu_vm_state") == {}
        assert not [note for note in vmd.daemon.notes() if "metrics" in note]
