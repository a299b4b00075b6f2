"""Which keys a VM's configuration may have."""

from __future__ import annotations

import difflib

from jitsu_protocol.model.vm_keys import KEYS


def config_fault(path: str) -> str:
    """Return why nothing can be set at this path below a VM's `config/`, or nothing."""
    match path.split("/"):
        case ["jitsu", "vm", _, "config", key, index] if key in KEYS and index.isdecimal():
            return ""
        case ["jitsu", "vm", _, "config", key, *_]:
            close = difflib.get_close_matches(key[:100], KEYS, n=1)
            hint = f"; did you mean {close[0]}?" if close and close[0] != key else "; write config/KEY/NUMBER"
            return f"{path}: a VM has no such key{hint}"
        case _:
            return ""
