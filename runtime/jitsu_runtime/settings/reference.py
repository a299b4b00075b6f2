"""docs/reference/configuration.md, which `make docs` writes from the sections and the keys of VMs."""

from __future__ import annotations

import inspect
from types import UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from jitsu_protocol.model.vm_keys import KEYS, Address, DnsName, Mac, OwnerName, VmId
from jitsu_runtime.settings.commands import CommandSettings
from jitsu_runtime.settings.schema import SECTIONS
from jitsu_runtime.settings.section import default_of, is_live, unit_of
from jitsu_runtime.settings.values import Forwarding


def reference() -> str:
    """Return docs/reference/configuration.md."""
    lines = [
        "# Configuration",
        "",
        "All processes read one file, `jitsu.toml`. Only the `jitsu` command reads the VMs in it, and writes them into",
        "the store, where the services find them. A flag overrides an environment variable",
        "(`JITSU_<SECTION>_<KEY>`), and that overrides the file. A running process applies settings that are *live*,",
        "and the level and format of its log, when it receives SIGHUP; others need a restart. This page is made from",
        "the settings models by `make docs`.",
        "",
        "A duration is a number of seconds, or text with a unit: `ms`, `s`, `m` or `min`, `h` or `d`; for example",
        '600, `"10m"`, `"1.5h"` or `"250ms"`. A TTL must come to whole seconds. A size is a number of KiB, or text',
        "with a unit: `KiB`, `MiB`, `GiB` or `TiB`, or in short `K`, `M`, `G` or `T`; for example 524288,",
        '`"512MiB"`, `"512M"` or `"4G"`. All of these count by 1024, so that `M` is MiB, as in QEMU. Units may be',
        "written in the file, in flags, in environment variables, in `key=value` strings and after `jitsu set`; the",
        "state tree holds plain seconds and KiB. The column *type* says which keys are durations (s) and which are",
        "sizes (KiB).",
    ]
    for name, model in SECTIONS.items():
        lines += ["", f"## [{name}]", "", (model.__doc__ or "").strip(), ""]
        lines += ["| key | type | default | meaning |", "|---|---|---|---|"]
        for key, field in model.model_fields.items():
            kind = _type_text(field.annotation, unit_of(field))
            live = " Live." if is_live(field) else ""
            lines.append(f"| `{key}` | {kind} | {default_of(field)} | {field.description}{live} |")
    lines += ["", "## [command.NAME]", "", inspect.cleandoc(CommandSettings.__doc__ or ""), ""]
    lines += ["There is neither a flag nor a variable for these.", "", "| key | type | default | meaning |"]
    lines += ["|---|---|---|---|"]
    for key, field in CommandSettings.model_fields.items():
        kind = _type_text(field.annotation, unit_of(field))
        shown = "" if field.is_required() else default_of(field)
        lines.append(f"| `{key}` | {kind} | {shown} | {field.description} |")
    lines += ["", "## [vm.NAME]", "", "One VM. The same keys stand in `key=value,...` strings.", ""]
    lines += ["| key | type | default | meaning |", "|---|---|---|---|"]
    for key, about in KEYS.items():
        kind = _type_text(about.type, about.unit) + (", repeats" if about.repeats else "")
        lines.append(f"| `{key}` | {kind} | {about.default} | {about.doc} |")
    return "\n".join(lines) + "\n"


def _type_text(annotation: Any, unit: str) -> str:
    kind = _KINDS.get(annotation) or _KINDS.get(_plain(annotation)) or "text"
    return f"{kind} ({unit})" if unit else kind


def _plain(annotation: Any) -> Any:
    """Return the type that is meant, without what checks it, and without None or an empty text beside it."""
    if get_origin(annotation) is Annotated:
        return _plain(get_args(annotation)[0])
    if get_origin(annotation) in (Union, UnionType):
        kinds = [each for each in get_args(annotation) if each not in (type(None), Literal[""])]
        known = [each for each in kinds if each in _KINDS]
        return known[0] if known else _plain(kinds[0])
    return get_origin(annotation) or annotation


_KINDS: dict[Any, str] = {
    DnsName: "DNS name",
    OwnerName: "DNS name",
    list[DnsName]: "list of DNS names",
    Address: "IP address",
    Mac: "MAC address",
    VmId: "UUID",
    list: "list",
    Forwarding: "list",
    dict: "table",
    bool: "boolean",
    int: "integer",
    float: "number",
}
"""What the page calls a type; all others are text."""
