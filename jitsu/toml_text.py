"""VMs as the [vm.NAME] sections of a jitsu.toml.

tomlkit writes names and texts. A number or a boolean stays as it is where reading it gives the same text again;
everything else is quoted. Only `jitsu export` imports this module, because importing tomlkit takes a tenth of the
time that `jitsu` needs to start.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import tomlkit

from jitsu_protocol.model.export import keys_of
from jitsu_protocol.model.vm import VM, as_text

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

_WHOLE = re.compile(r"-?(0|[1-9][0-9]*)")
_DECIMAL = re.compile(r"-?(0|[1-9][0-9]*)\.[0-9]+")


def toml(vms: Iterable[VM]) -> str:
    """Return the sections, by name."""
    return "\n".join(_section(vm) for vm in sorted(vms, key=lambda each: each.name))


def _section(vm: VM) -> str:
    lines = [f"{key} = {_value(values)}" for key, values in keys_of(vm).items()]
    return "\n".join([f"[vm.{tomlkit.key(vm.name).as_string()}]", *lines, ""])


def _value(values: Sequence[str]) -> str:
    texts = [value if _is_bare(value) else tomlkit.string(value).as_string() for value in values]
    return texts[0] if len(texts) == 1 else f"[{', '.join(texts)}]"


def _is_bare(text: str) -> bool:
    """Return whether a text may stand without quotes, because reading it gives the same text again."""
    if _WHOLE.fullmatch(text):
        return str(int(text)) == text if len(text) < 19 else False
    return text in ("true", "false") or (_DECIMAL.fullmatch(text) is not None and as_text(float(text)) == text)
