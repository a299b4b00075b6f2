"""Summons as traces of OpenTelemetry (OTLP 1.0, JSON encoding): one trace for each, with a span for each of its parts.

The root span reaches from the query to ready. Below it each part is a span of the process that it was spent in: dns
until the summon is sent, Synjitsu until it holds the addresses or has handed them over, vmd for the rest. All ids
follow from the id of the summon, so that a trace that is sent twice is one trace. The trace's id ends with that of the
summon, which `jitsu trace --json` and the exemplars of the metrics show.
"""

from __future__ import annotations

import json
import re
from hashlib import sha256
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from jitsu_protocol import __version__

if TYPE_CHECKING:
    from jitsu_web.outbound.rules.notices import Notice

SPENT_IN = dict.fromkeys(("armed", "not armed", "handed over"), "jitsu-synjitsu")
"""The process in which the part before a stage is spent; vmd, if it is another stage."""
WOKEN_BY = {"dns": "jitsu-dns", "traffic": "jitsu-synjitsu", "operator": "jitsu"}
INTERNAL, OK, ERROR = 1, 1, 2  # SpanKind and StatusCode of opentelemetry-proto
NANO = 1_000_000_000


def trace_id(summon: str) -> str:
    """Return the id of the trace of a summon: 32 hexadecimal digits."""
    if not re.fullmatch("[0-9a-f]+", summon):
        summon = sha256(summon.encode()).hexdigest()
    return summon[-32:].rjust(32, "0")


def export_of(notice: Notice) -> bytes:
    """Return the ExportTraceServiceRequest of a vm.booted."""
    data = notice.data
    summon, outcome = str(data["summon"]), str(data["outcome"])
    stages = [(str(name), float(at_s)) for name, at_s in data.get("stages", ())]
    begun_at = next((at_s for name, at_s in stages if name == "summon"), 0.0)
    epoch = float(data.get("ts", notice.ts)) - begun_at
    root, common = _span_id(summon, "root"), {"traceId": trace_id(summon), "kind": INTERNAL}
    whole = {
        **common,
        "spanId": root,
        "name": f"summon {data['name']}",
        **_times(epoch, 0.0, stages[-1][1] if stages else 0.0),
        "attributes": _attributes({f"jitsu.{key}": data[key] for key in ("name", "uuid", "trigger", "joined")}),
        "status": {"code": OK} if outcome == "ready" else {"code": ERROR, "message": outcome},
    }
    by_service: dict[str, list[dict[str, Any]]] = {"jitsu-vmd": [whole]}
    for number, ((_, from_s), (name, to_s)) in enumerate(pairwise(stages)):
        woken_by = WOKEN_BY.get(str(data["trigger"]), "jitsu-dns")
        service = woken_by if name == "summon" else SPENT_IN.get(name, "jitsu-vmd")
        ids = {"spanId": _span_id(summon, str(number)), "parentSpanId": root}
        by_service.setdefault(service, []).append(
            {**common, **ids, "name": f"until {name}", **_times(epoch, from_s, to_s)}
        )
    resources = [
        {
            "resource": {"attributes": _attributes({"service.name": service, "service.version": __version__})},
            "scopeSpans": [{"scope": {"name": "jitsu", "version": __version__}, "spans": spans}],
        }
        for service, spans in by_service.items()
    ]
    return json.dumps({"resourceSpans": resources}, separators=(",", ":")).encode()


def _span_id(summon: str, part: str) -> str:
    return sha256(f"{summon}/{part}".encode()).hexdigest()[:16]


def _times(epoch: float, from_s: float, to_s: float) -> dict[str, str]:
    return {
        "startTimeUnixNano": str(round((epoch + from_s) * NANO)),
        "endTimeUnixNano": str(round((epoch + to_s) * NANO)),
    }


def _attributes(values: dict[str, Any]) -> list[dict[str, Any]]:
    return [{"key": key, "value": {"stringValue": str(value)}} for key, value in values.items()]
