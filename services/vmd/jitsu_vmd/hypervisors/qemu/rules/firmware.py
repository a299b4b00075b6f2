"""Which UEFI firmware a VM is given, of those that the host's packages describe (QEMU, docs/interop/firmware.json).

The descriptions are JSON files in two directories; a file in the first hides one of the same name in the second, and of
those that fit the first by name is used. Firmware that needs Secure Boot, or memory encryption, is left out: QEMU would
have to be started in another way for it.
"""

from __future__ import annotations

from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

DIRECTORIES = ("/etc/qemu/firmware", "/usr/share/qemu/firmware")
ARCHITECTURE, MACHINE = "x86_64", "pc-q35-7.2"
NOT_WANTED = {"secure-boot", "enrolled-keys", "requires-smm", "amd-sev-es", "intel-tdx"}


@dataclass(frozen=True)
class Firmware:
    """A UEFI firmware."""

    program: str
    """A file that all its VMs share, and only read."""
    variables: str
    """A file of which each VM gets a copy."""


def firmware_of(described: Mapping[str, Any]) -> Firmware | None:
    """Return the firmware of the first description, by file name, that fits; None if none does."""
    found = (_fitting(described[name]) for name in sorted(described))
    return next((each for each in found if each is not None), None)


def _fitting(described: Any) -> Firmware | None:
    try:
        fits = any(
            target["architecture"] == ARCHITECTURE and any(fnmatchcase(MACHINE, each) for each in target["machines"])
            for target in described["targets"]
        )
        mapping, variables = described["mapping"], described["mapping"].get("nvram-template")
        is_plain = "uefi" in described["interface-types"] and mapping["device"] == "flash"
        if not (fits and is_plain) or variables is None or NOT_WANTED & set(described["features"]):
            return None
        if mapping.get("mode", "split") != "split" or {mapping["executable"]["format"], variables["format"]} != {"raw"}:
            return None
        return Firmware(str(mapping["executable"]["filename"]), str(variables["filename"]))
    except (KeyError, TypeError, AttributeError):
        return None
