"""The original's `key=value,key=value` strings."""

from __future__ import annotations

from typing import TYPE_CHECKING

from jitsu_runtime.settings.load import SettingsFault, VmText

if TYPE_CHECKING:
    from collections.abc import Sequence


def parse_strings(strings: Sequence[str]) -> list[VmText]:
    """Return the VMs that the strings describe; a key may repeat. Raises SettingsFault with every reason."""
    texts, faults = [], []
    for number, string in enumerate(strings, start=1):
        where = f"VM string {number}"
        config: dict[str, list[str]] = {}
        for part in string.split(","):
            key, equals, value = part.strip().partition("=")
            if not equals or not key or not value:
                faults.append(f"{where}: {(part.strip() or string)!r} is not key=value")
            else:
                config.setdefault(key, []).append(value)
        texts.append(VmText(config=config, where=where))
    if faults:
        raise SettingsFault(faults)
    return texts
