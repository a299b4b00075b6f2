"""What a jitsu.toml says beside its VMs, which `jitsu apply` does not change in processes that run."""

from __future__ import annotations

import json
from contextlib import suppress
from typing import TYPE_CHECKING

from jitsu_runtime.settings.schema import SECTIONS
from jitsu_runtime.settings.section import is_live
from jitsu_runtime.settings.toml_positions import TomlFile

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from pydantic import JsonValue

    from jitsu_runtime.settings.load import Settings

RECORD = "settings.json"
"""A file in the runtime directory of a `jitsu up`: the settings with which it was started."""
SECRET = frozenset({"dns.cookie_secret"})


def record(directory: Path, settings: Settings) -> None:
    """Write down with what settings a suite was started, for its own user to read."""
    shown = {key: value for key, value in settings.as_values().items() if key not in SECRET}
    file = directory / RECORD
    file.unlink(missing_ok=True)
    file.touch(mode=0o600)
    file.write_text(json.dumps(shown))


def restart_lines(file: Path, settings: Settings, directory: Path) -> list[str]:
    """Return a line for what a file says beside VMs that waits for a restart.

    Of a `jitsu up` it is known with which settings it runs; of other suites it is not, and all that is written counts.
    """
    data = TomlFile.read(file).data
    written = {
        f"{section}.{key}": key
        for section in SECTIONS
        if section != "defaults"
        for key in data.get(section, {})
        if key in SECTIONS[section].model_fields
    }
    if data.get("command"):
        written["command"] = "command"  # its sections are compared as a whole
    values = settings.as_values()
    with suppress(OSError, ValueError):
        running: Mapping[str, JsonValue] = json.loads((directory / RECORD).read_text())
        return [
            _changed(path, file, values, running)
            for path in written
            if path not in SECRET and values.get(path) != running.get(path)
        ]
    if not written:
        return []
    sections = ", ".join(f"[{name}]" for name in dict.fromkeys(path.partition(".")[0] for path in written))
    of_sections = {path: key for path, key in written.items() if path != "command"}
    live = [path for path, key in of_sections.items() if is_live(SECTIONS[path.partition(".")[0]].model_fields[key])]
    at_once = f" ({', '.join(live)}: SIGHUP is enough)" if live else ""
    return [f"note: only the VMs are applied; processes that run take {sections} when they are restarted{at_once}"]


def _changed(path: str, file: Path, values: Mapping[str, JsonValue], running: Mapping[str, JsonValue]) -> str:
    """Return the line for a setting that is another one in the file than in what runs."""
    if path == "command":
        return f"note: the sections [command.NAME] of {file} are not those of what runs; restart it to take them over"
    return (
        f"note: {path} is {json.dumps(values.get(path))} in {file} and {json.dumps(running.get(path))} "
        "in what runs; restart it to take that over"
    )
