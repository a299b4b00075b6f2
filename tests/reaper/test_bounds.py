"""Whatever a holder of the key of dns or synjitsu makes up, the reaper's memory stays bounded, and no other caller
notices (G9)."""

from __future__ import annotations

import pytest

from jitsu_protocol.messages import Report, Use
from jitsu_reaper.rules import reporters, statistics, usage
from jitsu_reaper.rules.events import UsageReported
from jitsu_reaper.rules.usage import Usage
from jitsu_store.rules.access import record_refusal
from tests.support.vms import make_vm

VM = make_vm()
NAME = next(iter(VM.names))
SMALL = {(usage, "MAX_UNKNOWN"): 10, (statistics, "MAX_FOREIGN_NAMES"): 30, (reporters, "MAX_ACKNOWLEDGED"): 5}
MAX_FLOORS = 4


def report(batch: int, uses: list[Use], **more: object) -> Report:
    return Report.model_validate(
        {"replica": "r", "instance": "i", "batch": batch, "lease_s": 9.0, "uses": uses, **more}
    )


@pytest.fixture
def known(monkeypatch: pytest.MonkeyPatch) -> Usage:
    """Return one with small limits, that has heard of a hundred VMs and hosts that do not exist."""
    for (module, name), limit in SMALL.items():
        monkeypatch.setattr(module, name, limit)
    monkeypatch.setattr(reporters, "MAX_FLOORS", MAX_FLOORS)
    made = Usage(floor=0.0)
    made.configured(VM.uuid, VM.ttl, VM.names, 0.0)
    for n in range(100):
        uses = [Use(f"made-up-{n}", f"n{m}.test", 1, 1.0) for m in range(3)]
        host = {"instance": f"i{n}", "host": f"h{n}", "drains": [f"{n}/{m}" for m in range(50)]}
        made.handle(UsageReported(report(n, uses, **host), 1e9), 100.0 + n)
    return made


def test_g9_uses_drains_and_hosts_that_are_made_up_are_kept_within_bounds(known: Usage) -> None:
    assert {vm for vm, _ in known.statistics.totals} == {f"made-up-{n}" for n in range(90, 100)}
    assert known.statistics.unsaved.keys() == known.statistics.totals.keys()
    assert known.reporters.all_acknowledge("99/4", "h99")
    assert not known.reporters.all_acknowledge("99/5", "h99")
    assert known.last_use("any", "h2") >= 102.0, "hosts beyond the limit: their VMs count as used"
    assert known.last_use("any", "h98") >= 198.0


def test_g9_names_that_no_vm_has_have_an_end_too(known: Usage) -> None:
    known.handle(UsageReported(report(200, [Use(VM.uuid, f"x{n}.test", 1, 0.0) for n in range(200)]), 1e9), 300.0)
    assert sum(vm == VM.uuid for vm, _ in known.statistics.totals) <= SMALL[statistics, "MAX_FOREIGN_NAMES"]
    known.handle(UsageReported(report(201, [Use(VM.uuid, NAME, 7, 0.0)]), 1e9), 301.0)
    assert known.statistics.totals[VM.uuid, NAME].requests == 7, "its own name is counted whatever others did"
    assert known.last_use(VM.uuid, "") == 301.0


def test_a_number_of_queries_never_has_more_digits_than_the_store_takes(known: Usage) -> None:
    for n in range(2000):
        known.handle(UsageReported(report(300 + n, [Use(VM.uuid, NAME, 2**53, 0.0)]), 1e9), 400.0)
    total = known.statistics.totals[VM.uuid, NAME].requests
    assert not record_refusal("reaper", {f"jitsu/stats/{VM.uuid}/dns/{NAME}/total_requests": str(total)})
