"""The lines of the file in which the reaper keeps what is recorded for `jitsu why`: JSON, one array a line.

    ["jitsu-record", 1]                                                   the first line
    ["event", VM, {"what": "boot", "ts": 1732798800.0, ...}]              a boot or a stop, in place of the same one
    ["clients", VM, [[WHAT, ABOUT, CLIENT, REPORTER, TS, TIMES], ...]]    those noticed last, the latest at the end
    ["gone", VM]                                                          all of before about this VM is forgotten

A line is at most MAX_LINE_CHARACTERS long. Whatever else a file has, it is not one of ours.
"""

from __future__ import annotations

import json
import math
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from jitsu_reaper.rules.recorded import ClientKey, Noticed, Occurrence

if TYPE_CHECKING:
    from collections.abc import Iterator

    from jitsu_reaper.rules.recorded import Recorded

HEAD = '["jitsu-record", 1]\n'
MAX_LINE_CHARACTERS = 32_768
MAX_TEXT_CHARACTERS = 1_000
MAX_TS = 2.0**40
"""In 30,000 years; localtime(3) cannot show every number."""
_FIELDS = frozenset(Occurrence.__dataclass_fields__)


def new_lines(recorded: Recorded, clients: int) -> list[str]:
    """Return what the file does not have yet, which counts as saved then; the clients of so many VMs."""
    unsaved = recorded.unsaved
    lines = [_line("gone", vm) for vm in unsaved.gone]
    lines += [_event(vm, event) for vm, event in unsaved.events if vm in recorded.vms]
    unsaved.gone.clear()
    unsaved.events.clear()
    for vm in list(unsaved.clients)[:clients]:
        del unsaved.clients[vm]
        lines += _clients(recorded, vm)
    return lines


def all_lines(recorded: Recorded) -> Iterator[str]:
    """Yield everything, as it is when each VM has its turn."""
    yield HEAD
    for vm in list(recorded.vms):
        record = recorded.vms.get(vm)
        if record is not None:
            yield from [_event(vm, event) for event in record.events]
            yield from _clients(recorded, vm)


def restore(recorded: Recorded, line: str) -> None:
    """Take over what a line says; raises ValueError if it is not one of ours."""
    match json.loads(line):
        case ["event", str(vm), dict(fields)]:
            recorded.restore_event(_text(vm), _occurrence(fields))
        case ["clients", str(vm), list(rows)]:
            recorded.restore_clients(_text(vm), [_client(row) for row in rows])
        case ["gone", str(vm)]:
            recorded.forget(vm)
            recorded.unsaved.gone.clear()
        case _:
            raise ValueError("it is not a line of a record")


def _line(*parts: Any) -> str:
    return json.dumps(parts, ensure_ascii=True, separators=(",", ":")) + "\n"


def _event(vm: str, event: Occurrence) -> str:
    return _line("event", vm, {name: value for name, value in asdict(event).items() if value not in ("", None)})


def _clients(recorded: Recorded, vm: str) -> list[str]:
    record = recorded.vms.get(vm)
    if record is None or not record.clients:
        return []
    return [_line("clients", vm, [[*key, *noticed] for key, noticed in record.clients.items()])]


def _occurrence(fields: dict[str, Any]) -> Occurrence:
    if not fields.keys() <= _FIELDS or fields.get("what") not in ("boot", "stop"):
        raise ValueError("it is not a boot or a stop")
    texts = {name: _text(fields.get(name, "")) for name in ("cause", "by", "token", "about", "client", "outcome")}
    took = fields.get("took_s")
    took_s = None if took is None else _number(took)
    return Occurrence(
        fields["what"], _ts(fields.get("ts")), mono=_number(fields.get("mono", 0.0)), took_s=took_s, **texts
    )


def _client(row: Any) -> tuple[ClientKey, Noticed]:
    *texts, ts, times = row
    return ClientKey(*map(_text, texts)), Noticed(_ts(ts), int(_number(times)))


def _text(value: Any) -> str:
    if not isinstance(value, str) or len(value) > MAX_TEXT_CHARACTERS:
        raise ValueError("it has no text where one belongs")
    return value


def _ts(value: Any) -> float:
    ts = _number(value)
    if not 0 <= ts < MAX_TS:
        raise ValueError("it has a time that makes no sense")
    return ts


def _number(value: Any) -> float:
    if not isinstance(value, int | float) or not math.isfinite(value):
        raise ValueError("it has no number where one belongs")
    return float(value)
