"""Reads settings: jitsu.toml, environment and flags become one typed `Settings`, or a list of faults.

Each section of the file is a model in schema.py. A flag overrides the environment (`JITSU_DNS_PORT`), which overrides
the file. Each fault says where it was written: file, line and key; the variable; or the flag.

A child of `jitsu up` inherits its settings as an open file with JSON (inherited.py), because they may be larger than an
environment or a list of arguments can be. Inherited settings override the child's environment, which its parent has
applied already.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from pydantic import (
    BaseModel,
    ConfigDict,
    ValidationError,
)

from jitsu_protocol.model.holdings import Holdings
from jitsu_protocol.model.hypervisors import (
    CREDENTIAL_KEYS,
    ZONES_KEY,
    Credentials,
    HypervisorKind,
    credential_texts,
    zones_text,
)
from jitsu_protocol.model.vm import VM, InvalidVm, as_text, from_config, nearest, reason
from jitsu_protocol.model.vm_keys import KEYS
from jitsu_runtime.settings.commands import CommandSettings, read_commands
from jitsu_runtime.settings.endpoints import host_faults
from jitsu_runtime.settings.events import EventsSettings
from jitsu_runtime.settings.schema import (
    SECTION_OF,
    SECTIONS,
    BusSettings,
    DefaultsSettings,
    DnsSettings,
    HypervisorSettings,
    LogSettings,
    ReaperSettings,
    StoreSettings,
    SynjitsuSettings,
)
from jitsu_runtime.settings.section import Section, is_live, unit_of
from jitsu_runtime.settings.toml_positions import TomlFault, TomlFile
from jitsu_runtime.settings.web import WebSettings

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from pathlib import Path

    from pydantic import JsonValue

    from jitsu_runtime.settings.values import ListenAddress


class Settings(BaseModel):
    """All settings of the suite."""

    model_config = ConfigDict(frozen=True)

    dns: DnsSettings
    hypervisor: HypervisorSettings
    synjitsu: SynjitsuSettings
    reaper: ReaperSettings
    store: StoreSettings
    web: WebSettings
    events: EventsSettings
    bus: BusSettings
    defaults: DefaultsSettings
    log: LogSettings
    command: dict[str, CommandSettings] = {}
    """The sections [command.NAME]."""
    vms: tuple[VM, ...] = ()
    """The VMs of jitsu.toml and of the command line; none in a service, which takes them from the store."""

    def metrics(self, service: str) -> ListenAddress:
        """Return where a service's metrics are, if they are anywhere."""
        sections: dict[
            str, DnsSettings | HypervisorSettings | SynjitsuSettings | ReaperSettings | StoreSettings | WebSettings
        ] = {
            "dns": self.dns,
            "vmd": self.hypervisor,
            "synjitsu": self.synjitsu,
            "reaper": self.reaper,
            "store": self.store,
            "web": self.web,
        }
        return sections[service].metrics

    def with_live(self, read: Settings, service: str) -> tuple[Settings, list[str]]:
        """Return these settings with the live ones of others, and the keys of a service that need its restart."""
        updated, waiting = {}, []
        current, other = dict(self), dict(read)
        for section in ("bus", SECTION_OF[service], *(("events",) if service == "web" else ())):
            own = current[section]
            values = dict(iter(own))  # dict(own) would take a field named "keys" for a mapping's method
            changed = {key: value for key, value in other[section] if value != values[key]}
            live = {key: value for key, value in changed.items() if is_live(type(own).model_fields[key])}
            waiting += [f"{section}.{key}" for key in changed if key not in live]
            updated[section] = own.model_copy(update=live)
        if service == "vmd" and self.command != read.command:
            waiting.append("command")
        return self.model_copy(update=updated), waiting

    def as_values(self) -> dict[str, JsonValue]:
        """Return all settings by "section.key", so that a child needs no file and no flags."""
        values: dict[str, JsonValue] = {
            f"{section}.{key}": value
            for section, model in self
            if section in SECTIONS
            for key, value in model.model_dump(mode="json").items()
            if value is not None
        }
        if self.command:
            values["command"] = {name: each.model_dump(mode="json") for name, each in self.command.items()}
        return values


MAX_FAULTS_SHOWN = 200


class SettingsFault(Exception):
    """The configuration is wrong; `faults` holds one line for each reason."""

    def __init__(self, faults: Sequence[str]) -> None:
        more = len(faults) - MAX_FAULTS_SHOWN
        self.faults = tuple(faults[:MAX_FAULTS_SHOWN]) + ((f"and {more} more",) if more > 0 else ())
        super().__init__("\n".join(self.faults))


@dataclass(frozen=True)
class VmText:
    """A VM as it was written, and where."""

    config: dict[str, list[str]]
    where: str
    """Where the VM as a whole is written."""
    prefix: str = ""
    """What stands before a key when it is named: `vm.www.`"""
    place: Callable[[str], str] | None = None
    """Returns `file:line` of a key; only called for a fault, as finding lines costs more than reading the file."""

    def at(self, key: str) -> str:
        """Return where a key stands."""
        where = self.where if self.place is None else self.place(key)
        return f"{where}: {self.prefix}{key}"


@dataclass(frozen=True)
class _Sources:
    """Where settings come from; each source overrides those above it."""

    presets: Mapping[str, str]
    toml: TomlFile | None
    environ: Mapping[str, str]
    inherited: Mapping[str, JsonValue]
    flags: Mapping[str, str]
    faults: list[str] = dataclasses.field(default_factory=list)
    """A line for each thing that is wrong."""


def load(
    file: Path | None,
    environ: Mapping[str, str],
    flags: Mapping[str, str],
    vm_texts: Iterable[VmText] = (),
    presets: Mapping[str, str] | None = None,
) -> Settings:
    """Return the settings and the VMs that the file and `vm_texts` describe; raises SettingsFault with every reason.

    `flags` and `presets` map "section.key" to values; presets apply where no other source has a value.
    """
    return Written(file, environ, flags, vm_texts, presets).with_vms()


class Written:
    """A configuration that has been read, and of which the VMs have not been built yet: of 10,000 that takes a second.

    The arguments are those of `load`.
    """

    def __init__(
        self,
        file: Path | None,
        environ: Mapping[str, str],
        flags: Mapping[str, str],
        vm_texts: Iterable[VmText] = (),
        presets: Mapping[str, str] | None = None,
    ) -> None:
        """Read the file and its sections; raises SettingsFault if it is not TOML."""
        self._sources = _Sources(presets or {}, _read(file), environ, {}, flags)
        self._sections = _sections(self._sources)
        self._commands = read_commands(self._sources.toml, {}, self._sources.faults)
        self._vm_texts = vm_texts

    def without_vms(self) -> Settings:
        """Return the settings alone. If they are wrong, raises SettingsFault with every reason, those of VMs too."""
        if self._sources.faults or host_faults(self._sections):
            return self.with_vms()
        return Settings.model_validate({**self._sections, "command": self._commands})

    def with_vms(self) -> Settings:
        """Build the VMs, and return the settings with them; raises SettingsFault with every reason."""
        sections, toml, faults = self._sections, self._sources.toml, list(self._sources.faults)
        defaults = sections["defaults"]
        texts = ([] if toml is None else _vm_tables(toml, faults)) + list(self._vm_texts)
        defaults_text = defaults.as_texts() if isinstance(defaults, DefaultsSettings) else {}
        vms = _vms(texts, defaults_text, faults)
        if not faults and isinstance(bus := sections["bus"], BusSettings):
            faults += host_faults(sections)
            foreign = [(vm, text) for vm, text in vms if vm.host not in bus.vmds]
            faults += [f"{text.at('host')}: {vm.host} is not listed in bus.hosts" for vm, text in foreign]
        if faults:
            raise SettingsFault(faults)
        return Settings.model_validate({**sections, "command": self._commands, "vms": [vm for vm, _ in vms]})


def load_without_vms(
    file: Path | None, environ: Mapping[str, str], flags: Mapping[str, str], inherited: Mapping[str, JsonValue]
) -> Settings:
    """Return the settings alone; raises SettingsFault with every reason.

    Services take the VMs from the store, and building 10,000 of them takes a second, in which nobody is served.
    """
    sources = _Sources({}, _read(file), environ, inherited, flags)
    sections = _sections(sources)
    commands = read_commands(sources.toml, inherited, sources.faults)
    faults = sources.faults or host_faults(sections)
    if faults:
        raise SettingsFault(faults)
    return Settings.model_validate({**sections, "command": commands})


def _read(file: Path | None) -> TomlFile | None:
    try:
        return None if file is None else TomlFile.read(file)
    except TomlFault as error:
        raise SettingsFault([str(error)]) from None


def _sections(sources: _Sources) -> dict[str, Section | None]:
    """Return each section, None for one that is wrong; what is wrong is added to the faults of the sources."""
    if sources.toml is not None:
        sources.faults.extend(_unknown_sections(sources.toml))
    found = {name: _section(name, model, sources) for name, model in SECTIONS.items()}
    unknown = [key for key in sources.flags if not _is_setting(key)]
    sources.faults.extend(f"{_spelling(key)}: there is no such setting" for key in unknown)
    return found


def _is_setting(key: str) -> bool:
    section, _, name = key.partition(".")
    return section in SECTIONS and name in SECTIONS[section].model_fields


def _spelling(key: str) -> str:
    return f"flag for {key}"


def _unknown_sections(toml: TomlFile) -> list[str]:
    known = [*SECTIONS, "command", "vm"]
    unknown = [name for name in toml.data if name not in known]
    # Looking for the nearest takes most of the time that a file of nonsense costs.
    shown = [
        f"{toml.at(name)}: unknown section{_vm_meant(name, toml.data[name]) or nearest(name, known)}"
        for name in unknown[:MAX_FAULTS_SHOWN]
    ]
    return shown + [f"{toml.path}: unknown section"] * len(unknown[MAX_FAULTS_SHOWN:])


def _vm_meant(name: str, table: object) -> str:
    """Return a hint if an unknown section has the keys of a VM, as [www] or [www.example.org] for [vm.NAME]."""
    while isinstance(table, dict) and len(table) == 1 and isinstance(next(iter(table.values())), dict):
        ((inner, table),) = table.items()
        name = f"{name}.{inner}"
    if not isinstance(table, dict) or not table:
        return ""
    is_required_one = "dns" in table or "ip" in table
    if not is_required_one and (nearest(name, SECTIONS) or not all(key in KEYS for key in table)):
        return ""
    return f"; did you mean [vm.{name if re.fullmatch('[A-Za-z0-9_-]+', name) else json.dumps(name)}]?"


def _section(name: str, model: type[Section], sources: _Sources) -> Section | None:
    """Return a section with the values of the sources, or None and a fault for each that is wrong."""
    toml, faults = sources.toml, sources.faults
    values: dict[str, Any] = {}
    where: dict[str, str] = {}
    in_file: dict[str, str] = {}
    """The key of the file at which a value stands; its line is looked for only if there is a fault."""
    table = {} if toml is None else toml.data.get(name, {})
    if toml is not None and not isinstance(table, dict):
        faults.append(f"{toml.at(name)}: must be a section: [{name}]")
        return None
    for key in model.model_fields:
        if f"{name}.{key}" in sources.presets:
            values[key] = sources.presets[f"{name}.{key}"]
    for key, value in table.items():
        if toml is None:
            continue
        if name == "hypervisor" and isinstance(value, dict):
            values.setdefault("connections", []).append(_connection(toml, key, value, faults))
            in_file["connections"] = key
        else:
            values[key], in_file[key] = value, key
    for key in model.model_fields:
        path, variable = f"{name}.{key}", f"JITSU_{name}_{key}".upper()
        if variable in sources.environ:
            values[key], where[key] = sources.environ[variable], f"environment {variable}: {path}"
        if path in sources.inherited:
            values[key], where[key] = sources.inherited[path], f"inherited: {path}"
        if path in sources.flags:
            values[key], where[key] = sources.flags[path], _spelling(path)

    def place(key: str) -> str:
        if key in where or toml is None or key not in in_file:
            return where.get(key, name)
        return toml.at(name, in_file[key])

    unknown = [key for key in values if key not in model.model_fields]
    for key in unknown[:MAX_FAULTS_SHOWN]:
        vm_meant = f"; did you mean [vm.{name}]?" if key in KEYS else ""
        faults.append(f"{place(key)}: unknown key{nearest(key, model.model_fields) or vm_meant}")
    faults += [f"{name}: unknown key"] * len(unknown[MAX_FAULTS_SHOWN:])
    try:
        read = model.model_validate({key: value for key, value in values.items() if key in model.model_fields})
    except ValidationError as error:
        for each in error.errors():
            key = str(each["loc"][0])
            why = reason(each, unit_of(model.model_fields[key]), values.get(key))
            faults.append(f"{place(key)}: {why}")
        return None
    return None if unknown else read


def _connection(toml: TomlFile, name: str, table: Mapping[str, Any], faults: list[str]) -> str:
    """Return [hypervisor.NAME] as an entry of hypervisor.connections."""
    kind = str(table.get("kind", "libvirt"))
    kinds: dict[str, HypervisorKind] = {each.value: each for each in HypervisorKind}
    used = kinds[kind].about.credentials if kind in kinds else CREDENTIAL_KEYS
    known = ("kind", "connect", ZONES_KEY, *used)
    for key in [key for key in table if key not in known][:MAX_FAULTS_SHOWN]:
        why = f"unknown key{nearest(key, known)}"
        if key in CREDENTIAL_KEYS:
            why = f"it has no effect with the kind {kind}; remove it"
        faults.append(f"{toml.at('hypervisor', name, key)}: {why}")
    credentials = {key: value for key, value in table.items() if key in used and isinstance(value, str)}
    faults += [
        f"{toml.at('hypervisor', name, key)}: must be text; are quotes missing?"
        for key in used
        if key in table and key not in credentials
    ]
    uri = [str(table["connect"])] if "connect" in table else []
    zones = [zones_text(_texts(table[ZONES_KEY]))] if ZONES_KEY in table else []
    return " ".join([name, kind, *uri, *credential_texts(Credentials(**credentials)), *zones])


def _texts(value: Any) -> list[str]:
    """Return a value of the file as texts; one that is neither text nor a list of it becomes one that is refused."""
    return [str(each) for each in value] if isinstance(value, list) else [str(value)]


def _vm_tables(toml: TomlFile, faults: list[str]) -> list[VmText]:
    tables = toml.data.get("vm", {})
    if not isinstance(tables, dict):
        faults.append(f"{toml.at('vm')}: must be sections: [vm.NAME]")
        return []
    texts = []
    for name, table in tables.items():
        if not isinstance(table, dict):
            faults.append(f"{toml.at('vm', name)}: must be a section: [vm.{name}]")
            continue
        config = {}
        for key, value in table.items():
            values = value if isinstance(value, list) else [value]
            if any(isinstance(each, dict | list) for each in values):
                faults.append(f"{toml.at('vm', name, key)}: must be a value or a list of values")
            config[key] = [as_text(each) for each in values]
        config.setdefault("name", [name])
        texts.append(VmText(config, str(toml.path), f"vm.{name}.", functools.partial(toml.place, "vm", name)))
    return texts


def _vms(texts: Sequence[VmText], defaults: dict[str, str], faults: list[str]) -> list[tuple[VM, VmText]]:
    built: list[tuple[VM, VmText]] = []
    for text in texts:
        try:
            built.append((from_config(text.config, defaults), text))
        except InvalidVm as error:
            faults += [f"{text.at(fault.key)}: {fault.message}" for fault in error.faults]
    holdings = Holdings()
    for vm, text in built:
        faults += [f"{text.at(fault.key)}: {fault.message}" for fault in holdings.clashes(vm)]
        holdings.add(vm)
    return built
