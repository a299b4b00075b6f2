"""What the page says and decides, by examples: its pure modules, called in a real browser."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.support.browser import Visit

    Opener = Callable[..., Visit]

pytestmark = pytest.mark.browser

CALL = """async ([module, name, args]) => {
  const revive = (value) => (value && value.set ? new Set(value.set) : value);
  const found = (await import(`/js/${module}.js`))[name](...args.map(revive));
  return found instanceof Map ? [...found] : found;
}"""
VIEW: dict[str, Any] = {"text": "", "states": {"set": []}, "sort": "name", "descending": False}


def vm(name: str, **more: Any) -> dict[str, Any]:
    return {"name": name, "uuid": name, "state": "off", "address": "", "host": "", "names": [], "idle_s": None, **more}


WORDS: list[tuple[str, list[Any], Any]] = [
    ("duration", [0.0004], "0 ms"),
    ("duration", [0.3], "0.3 s"),
    ("duration", [9.96], "10 s"),
    ("duration", [59.6], "60 s"),
    ("duration", [240], "4 min"),
    ("duration", [3590], "1 h"),
    ("duration", [7500], "2 h 5 min"),
    ("duration", [86_390], "1 day"),
    ("duration", [86_400 * 2000], "2,000 days"),
    ("duration", [-5], "0 ms"),
    ("duration", ["nonsense"], "0 ms"),
    ("milliseconds", [0.0004], "0.4 ms"),
    ("milliseconds", [1.2041], "1,204 ms"),
    ("count", [1, "query", "queries"], "1 query"),
    ("count", [2000, "VM"], "2,000 VMs"),
    ("timeOf", ["1970-01-01T00:01:00Z"], 60),
    ("timeOf", [""], None),
    ("timeOf", ["soon"], None),
    ("when", [100, 160], "60 s ago"),
    ("when", [400, 160], "in 4 min"),
    ("when", [160.5, 160], "just now"),
    ("memoryTime", [0], "\u2013"),
    ("memoryTime", [1024**3 * 3600 * 36], "36 GiB·h"),
    ("memoryTime", [1024**3 * 3600 * 1.5], "1.5 GiB·h"),
    ("memoryTime", [1024**2 * 3600 * 5], "5 MiB·h"),
    ("listed", [["a", "b", "c"]], "a, b and c"),
    ("sentence", [""], ""),
]
STATES: list[tuple[str, list[Any], Any]] = [
    ("idleWords", [{"stops_at": 400, "reason": ""}, 160], "stops in 4 min unless used"),
    (
        "idleWords",
        [{"stops_at": 400, "reason": "one SSH connection from 10.0.0.7 keeps it up"}, 160],
        "stops in 4 min unless used; one SSH connection from 10.0.0.7 keeps it up",
    ),
    ("idleWords", [{"stops_at": 100, "reason": ""}, 160], "stops any moment unless used"),
    ("idleWords", [{"stops_at": None, "reason": ""}, 160], "stays up"),
    ("idleWords", [None, 160], ""),
    ("nowWords", [vm("a", state="failed"), 0], "The reason is not known"),
    (
        "nowWords",
        [vm("a", state="failed", last_error="no memory", retry_after_s=42), 0],
        "no memory; can start again in 42 s",
    ),
    ("nowWords", [vm("a", idle_s=100, readAt=1000), 1020], "Last query 2 min ago"),
    ("nowWords", [vm("a", state="ready", idle=None, uptime_s=5), 0], "Up for 5 s"),
    ("nowWords", [vm("a", state="a-new-state"), 0], "No query yet"),
    ("announcement", [None, vm("a", state="ready")], ""),
    ("announcement", [vm("a", state="draining"), vm("a", state="ready")], ""),
    ("announcement", [vm("a", state="off"), vm("a", state="starting")], ""),
    ("announcement", [vm("a", state="stopping"), vm("a", state="suspended")], "a is suspended"),
    ("countStates", [[vm("a"), vm("b", state="failed"), vm("c")]], [["failed", 1], ["off", 2]]),
    ("canStart", [vm("a", state="paused")], True),
    ("canStop", [vm("a", state="stopping")], False),
]
ROWS: list[tuple[str, list[Any], Any]] = [
    ("addressKey", ["10.0.0.9"], "00010.00000.00000.00009"),
    ("matches", [vm("www", names=["www.example.org"]), ["example", "ww"]], True),
    ("matches", [vm("www"), ["www", "git"]], False),
    ("windowOf", [{"top": -300, "height": 560, "rowHeight": 56, "rows": 2000}], [0, 13]),
    ("windowOf", [{"top": 5600, "height": 560, "rowHeight": 56, "rows": 2000}], [92, 118]),
    ("windowOf", [{"top": 999_999, "height": 560, "rowHeight": 56, "rows": 20}], [20, 20]),
    ("windowOf", [{"top": 0, "height": 560, "rowHeight": 56, "rows": 0}], [0, 0]),
]
DIFF: list[tuple[str, list[Any], Any]] = [
    ("kindOf", [{"old": None, "value": "1"}], "added"),
    ("kindOf", [{"old": "1", "value": None}], "removed"),
    ("kindOf", [{"old": "", "value": None}], "removed"),
    ("kindOf", [{"old": "1", "value": "2"}], "changed"),
    ("partsOf", ["jitsu/vm/u/dns/a.b/ttl"], {"vm": "u", "key": "dns/a.b/ttl"}),
    ("partsOf", ["jitsu/keep/u"], {"vm": "", "key": "jitsu/keep/u"}),
    ("summaryOf", [[]], "nothing differs"),
    ("summaryOf", [[{"old": "1", "value": "2"}, {"old": None, "value": "2"}]], "1 value changed, 1 added"),
    ("nameIn", [{"jitsu/vm/u/config/name/0": "www"}, "u"], "www"),
    ("nameIn", [{"jitsu/vm/u/dns/b.org/ttl": "1", "jitsu/vm/u/dns/a.org/ttl": "1"}, "u"], "a.org"),
    ("nameIn", [{}, "u"], "u"),
]
PICTURES: list[tuple[str, str, list[Any], Any]] = [
    ("spark", "queryPath", [[0, 0]], ""),
    ("spark", "queryPath", [None], ""),
    ("spark", "queryPath", [[0, 4]], "M1 15v-15.0h.8V15z"),
    ("spark", "partsUp", [[0, 450, 900, 1800]], [0, 0.5, 1, 1]),
    ("spark", "partsUp", [[0, 0.5]], [0, 0.5]),
    ("spark", "upPath", [[0, 1, 1, 0]], "M1 17H3.00v3H1z"),
    ("waterfall", "barsOf", [[]], []),
    ("waterfall", "barsOf", [[{"name": "summon", "at_s": 0}]], []),
    (
        "waterfall",
        "barsOf",
        [[{"name": "summon", "at_s": 5}, {"name": "start", "at_s": 6}, {"name": "ready", "at_s": 9}]],
        [
            {"name": "start", "left": 0, "width": 250, "begins": 0, "took": 1},
            {"name": "ready", "left": 250, "width": 750, "begins": 1, "took": 3},
        ],
    ),
    ("why", "eventWords", [{"what": "boot", "cause": "query", "about": "a A", "client": ""}], "Booted: query, a A"),
    ("why", "outcomeWords", [{"outcome": "", "took_s": None}], "not over yet"),
    ("why", "outcomeWords", [{"outcome": "ready", "took_s": 0.61}], "ready after 0.6 s"),
    ("services", "healthWords", [[{"name": "a", "answers": False}]], "a does not answer."),
    ("api", "path", ["vms", "a/b c?#"], "/api/v1/vms/a%2Fb%20c%3F%23"),
]  # fmt: skip


def test_what_the_modules_return(opened: Opener) -> None:
    page = opened().page
    examples = [
        *(("words", *each) for each in WORDS),
        *(("states", *each) for each in STATES),
        *(("rows", *each) for each in ROWS),
        *(("diff", *each) for each in DIFF),
        *PICTURES,
    ]
    wrong = []
    for module, name, arguments, expected in examples:
        found = page.evaluate(CALL, [module, name, arguments])
        if found != expected:
            wrong.append(f"{module}.{name}({arguments}): {found!r}, not {expected!r}")
    assert wrong == []


def test_a_name_leads_no_request_elsewhere(opened: Opener) -> None:
    page = opened().page
    call = """async (name) => {
      const { path } = await import("/js/api.js");
      try { return path("vms", name, "stop"); } catch (problem) { return problem.status; }
    }"""
    assert page.evaluate(call, "..") == 400
    assert page.evaluate(call, ".") == 400
    assert page.evaluate(call, "../session") == "/api/v1/vms/..%2Fsession/stop"


def test_the_order_of_the_list(opened: Opener) -> None:
    page = opened().page
    vms = [
        vm("b10", address="10.0.0.10", idle_s=5, memory_saved_bytes_s=1),
        vm("b9", address="10.0.0.9", state="failed", memory_saved_bytes_s=7),
        vm("a", address="9.1.1.1", idle_s=1, state="ready", series={"queries": [3, 4]}),
    ]

    def order(**view: Any) -> list[str]:
        found = page.evaluate(
            """async ([vms, view]) => {
              const { visibleRows } = await import("/js/rows.js");
              return visibleRows(vms, {...view, states: new Set(view.states)}).map((vm) => vm.name);
            }""",
            [vms, {**VIEW, "states": [], **view}],
        )
        return list(found)

    assert order() == ["a", "b9", "b10"]
    assert order(descending=True) == ["b10", "b9", "a"]
    assert order(sort="address") == ["a", "b9", "b10"]
    assert order(sort="state") == ["b9", "a", "b10"]
    assert order(sort="queries") == ["a", "b9", "b10"]
    assert order(sort="used") == ["a", "b10", "b9"]
    assert order(sort="saved") == ["b9", "b10", "a"]
    assert order(sort="a-sort-of-another-version") == ["a", "b9", "b10"]
    assert order(states=["failed", "off"]) == ["b9", "b10"]
    assert order(text="  10.0 ") == ["b9", "b10"]


def test_a_stream_is_read_however_it_is_cut(opened: Opener) -> None:
    page = opened().page
    stream = (
        ': a comment\n\nid: e-1\nevent: vm\ndata: {"a":\ndata: 1}\n\n'
        "event: gone\r\ndata:x\r\n\r\nid: e-3\n\nunknown: y\ndata\n\nid: bad\0\ndata: z\n\n"
    )
    expected = [
        {"type": "vm", "data": '{"a":\n1}', "id": "e-1"},
        {"type": "gone", "data": "x", "id": "e-1"},
        {"type": "message", "data": "", "id": "e-3"},
        {"type": "message", "data": "z", "id": "e-3"},
    ]
    found = page.evaluate(
        """async (stream) => {
          const { StreamParser } = await import("/js/stream.js");
          const all = [];
          for (let cut = 0; cut <= stream.length; cut += 1) {
            const parser = new StreamParser();
            all.push(JSON.stringify([...parser.feed(stream.slice(0, cut)), ...parser.feed(stream.slice(cut))]));
          }
          return [...new Set(all)].map((each) => JSON.parse(each));
        }""",
        stream,
    )
    assert found == [expected]


def test_the_page_waits_longer_each_time_and_never_for_long(opened: Opener) -> None:
    page = opened().page
    waits = page.evaluate(
        """async () => {
          const { retryDelay } = await import("/js/stream.js");
          return [0, 1, 2, 3, 4, 50].flatMap((attempt) => [retryDelay(attempt, 0), retryDelay(attempt, 1)]);
        }"""
    )
    assert waits[:4] == [0.375, 0.625, 0.75, 1.25]
    assert waits[-2:] == [11.25, 18.75]
    assert all(math.isfinite(each) for each in waits)
