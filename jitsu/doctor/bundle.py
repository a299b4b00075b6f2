"""`jitsu doctor --bundle FILE`: what somebody who helps needs to see, without secrets and without clients' addresses.

    findings.json   what the doctor found
    versions.json   of all parts, of Python and of the system
    settings.json   all settings; those that are secret are left out
    status.json     the VMs and what services say, if a suite runs
    log.txt         the latest lines of the journal, if systemd runs the suite

Every address that is not of the configuration becomes client-1, client-2, ... in all of them, the same one everywhere.
"""

from __future__ import annotations

import io
import json
import re
import subprocess
import tarfile
from ipaddress import ip_address
from pathlib import Path
from typing import TYPE_CHECKING

from jitsu.link import SYSTEMD
from jitsu_runtime.clock import SYSTEM_CLOCK

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from jitsu.doctor.finding import Suite

SECRET = re.compile(r"secret|webhooks|(password|token)(?!_file)", re.IGNORECASE)
"""Settings whose value is never written down: dns.cookie_secret; events.webhooks, because a URL may hold a token."""
LEFT_OUT = "(left out)"
LOG_LINES = 5000
LOG_LIMIT_S = 20.0
_IPV4 = r"(?<![\d.])\d{1,3}(?:\.\d{1,3}){3}(?!\.?\d)"
_IPV6 = r"(?<![\w:.])(?:[0-9a-fA-F]{0,4}:){2,7}[0-9a-fA-F]{0,4}(?![\w:])"
_ADDRESS = re.compile(f"{_IPV4}|{_IPV6}")
_MAC = re.compile(r"(?<![\w:])(?:[0-9a-fA-F]{2}:){5}[0-9a-fA-F]{2}(?![\w:])")
_REVERSE = re.compile(r"(?i)(?:[0-9a-f]\.){4,32}(?=ip6\.arpa)")
_IN_TEXT = re.compile(r"(?i)(\b(?:\w*secret\w*|password|token)\b\W{1,4})[^\s,\"'}]+")
"""A word that announces a secret, and what follows it."""
_IN_URI = re.compile(r"(://[^/\s:@]*:)[^/\s@]+(?=@)")
"""The password in https://USER:PASSWORD@HOST."""


class Pseudonyms:
    """Stable names for addresses of clients."""

    def __init__(self, known: Iterable[str]) -> None:
        """`known` are addresses that may stay: those of the configuration."""
        self._known = set(known)
        self._names: dict[str, str] = {}

    def hidden(self, text: str) -> str:
        """Return a text without addresses that are not known, and without what looks like a secret."""
        text = _IN_URI.sub(rf"\1{LEFT_OUT}", _IN_TEXT.sub(rf"\1{LEFT_OUT}", _REVERSE.sub("", text)))
        return _ADDRESS.sub(self._name, _MAC.sub(self._mac, text))

    def _name(self, match: re.Match[str]) -> str:
        try:
            address = ip_address(match[0])
        except ValueError:
            return match[0]  # a time such as 12:00:01
        if str(address) in self._known or address.is_unspecified or address.is_loopback:
            return match[0]
        return self._names.setdefault(str(address), f"client-{len(self._names) + 1}")

    def _mac(self, match: re.Match[str]) -> str:
        address = match[0].lower()
        return match[0] if address in self._known else self._names.setdefault(address, f"mac-{len(self._names) + 1}")


def configured_addresses(suite: Suite) -> set[str]:
    """Return the addresses that the configuration names: of VMs, of servers, of endpoints."""
    text = json.dumps(suite.settings.as_values())
    found = {str(address) for vm in suite.vms for address in vm.addresses} | {vm.mac for vm in suite.vms}
    for match in _ADDRESS.finditer(text):
        try:
            found.add(str(ip_address(match[0])))
        except ValueError:
            continue
    return found


def shown_settings(suite: Suite) -> dict[str, object]:
    """Return all settings but those that are secret."""
    found: dict[str, object] = {}
    for key, value in suite.settings.as_values().items():
        if SECRET.search(key) and value:
            value = LEFT_OUT
        found[key] = _without_passwords(value)
    return found


def _without_passwords(value: object) -> object:
    if isinstance(value, list):
        return [_without_passwords(each) for each in value]
    if isinstance(value, dict):  # of [command.NAME]
        variables = value.get("environment")
        shown = value | {"environment": dict.fromkeys(variables, LEFT_OUT)} if isinstance(variables, dict) else value
        return {key: _without_passwords(each) for key, each in shown.items()}
    return _IN_URI.sub(rf"\1{LEFT_OUT}", value) if isinstance(value, str) else value


def journal() -> str:
    """Return the latest lines that the units of the suite have logged, "" if there is no journal."""
    if not SYSTEMD.exists():
        return ""
    command = ["journalctl", "--no-pager", "-o", "short-iso", "-n", str(LOG_LINES), "-u", "jitsu*"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=LOG_LIMIT_S, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout


def write(file: Path, suite: Suite, parts: Mapping[str, object], log: str) -> list[str]:
    """Write the archive, for its owner only, and return the names of what is in it; raises OSError."""
    names = Pseudonyms(configured_addresses(suite))
    texts = {f"{name}.json": json.dumps(what, indent=2, default=str) for name, what in parts.items()}
    texts["settings.json"] = json.dumps(shown_settings(suite), indent=2)
    if log:
        texts["log.txt"] = log
    file.unlink(missing_ok=True)
    file.touch(mode=0o600)
    with tarfile.open(file, "w:gz") as archive:
        for name, text in texts.items():
            content = (text if name == "settings.json" else names.hidden(text)).encode()
            entry = tarfile.TarInfo(f"jitsu-doctor/{name}")
            entry.size, entry.mtime, entry.mode = len(content), int(SYSTEM_CLOCK.wall()), 0o600
            archive.addfile(entry, io.BytesIO(content))
    return list(texts)
