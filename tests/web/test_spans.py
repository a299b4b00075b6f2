"""Summons as traces of OpenTelemetry."""

from __future__ import annotations

import json
from itertools import pairwise
from typing import Any

from jitsu_web.outbound.rules.notices import Notice, drafts
from jitsu_web.outbound.rules.spans import export_of, trace_id
from jitsu_web.rules.events import SummonEvent

NAMES = ["query", "summon", "start call", "armed", "start returned", "handed over", "ready"]
SUMMON = {
    "summon": "0123456789ab",
    "vm": "u-1",
    "name": "www",
    "trigger": "dns",
    "joined": 2,
    "ts": 1_700_000_000.5,
    "outcome": "ready",
    "stages": [{"name": name, "at_s": 0.5 * number} for number, name in enumerate(NAMES)],
}


def exported(**changes: Any) -> dict[str, list[dict[str, Any]]]:
    """Return the spans of a summon, by the service that they are of."""
    (draft,) = drafts(SummonEvent({**SUMMON, **changes}))
    notice = Notice("1", 1_700_000_009.0, draft.kind, draft.key, draft.subject, json.loads(json.dumps(draft.data)))
    found = {}
    for each in json.loads(export_of(notice))["resourceSpans"]:
        (name, _) = each["resource"]["attributes"]
        found[name["value"]["stringValue"]] = each["scopeSpans"][0]["spans"]
    return found


def test_one_trace_reaches_from_the_query_to_ready_across_processes() -> None:
    spans = exported()
    assert {service: [each["name"] for each in own] for service, own in spans.items()} == {
        "jitsu-vmd": ["summon www", "until start call", "until start returned", "until ready"],
        "jitsu-dns": ["until summon"],
        "jitsu-synjitsu": ["until armed", "until handed over"],
    }
    root, *_ = spans["jitsu-vmd"]
    every = [each for own in spans.values() for each in own]
    assert {each["traceId"] for each in every} == {"00000000000000000000" + "0123456789ab"}
    assert {each["parentSpanId"] for each in every if each is not root} == {root["spanId"]}
    assert len({each["spanId"] for each in every}) == len(every)
    assert all(len(each["spanId"]) == 16 for each in every)
    assert root["startTimeUnixNano"] == "1700000000000000000", "the query, half a second before the summon"
    assert root["endTimeUnixNano"] == "1700000003000000000"
    assert root["status"] == {"code": 1}


def test_parts_follow_each_other_without_a_gap() -> None:
    every = [each for own in exported().values() for each in own if "parentSpanId" in each]
    times = sorted((int(each["startTimeUnixNano"]), int(each["endTimeUnixNano"])) for each in every)
    assert all(before[1] == after[0] for before, after in pairwise(times))


def test_a_boot_that_failed_is_an_error_with_its_reason() -> None:
    assert exported(outcome="no kernel")["jitsu-vmd"][0]["status"] == {"code": 2, "message": "no kernel"}


def test_what_wakes_a_vm_by_a_packet_is_synjitsu() -> None:
    assert "jitsu-dns" not in exported(trigger="traffic")
    assert next(iter(exported(trigger="traffic")["jitsu-synjitsu"]))["name"] == "until summon"


def test_a_summon_without_stages_and_with_an_odd_id_is_a_trace_all_the_same() -> None:
    (root,) = exported(stages=[], summon="Ω")["jitsu-vmd"]
    assert len(root["traceId"]) == 32
    assert trace_id("") != "0" * 32, "which means no trace"
