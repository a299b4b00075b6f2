"""The table of settings: jitsu.toml, environment and flags become one typed `Settings`, or a list of faults.

Each section is a model of sections.py; flags, `--help` and docs/reference/configuration.md are derived from it. A flag
counts before the environment (`JITSU_DNS_PORT`), that before the file. A fault names where it stands: file, line and
key; variable; or flag.

A child of `jitsu up` inherits its settings as an open file, in JSON (inherited.py): they may be larger than an
environment or a list of arguments can be. They count before the child's environment, which its parent has taken into
account already.
"""

from __future__ import annotations

import argparse
import dataclasses
import functools
import json
import os
import re
from dataclasses import dataclass
from pathlib import Path
from types import UnionType
from typing import TYPE_CHECKING, Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import (
    BaseModel,
    ConfigDict,
    ValidationError,
)

from jitsu_protocol.model.vm import VM, Holdings, InvalidVm, as_text, from_config, nearest, reason
from jitsu_protocol.model.vm_keys import KEYS, Address, DnsName, Mac, OwnerName, VmId
from jitsu_runtime.settings.help import Group, HelpPage, Parser, version_text
from jitsu_runtime.settings.inherited import inherited_settings
from jitsu_runtime.settings.schema import (
    SECTION_OF,
    SECTIONS,
    BusSettings,
    DefaultsSettings,
    DnsSettings,
    HypervisorSettings,
    LogSettings,
    ReaperSettings,
    Section,
    StoreSettings,
    SynjitsuSettings,
    unit_of,
)
from jitsu_runtime.settings.service_help import EXIT_STATUS, SERVICES
from jitsu_runtime.settings.toml_positions import TomlFault, TomlFile

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from pydantic import JsonValue
    from pydantic.fields import FieldInfo

    from jitsu_runtime.settings.values import ListenAddress


class Settings(BaseModel):
    """All settings of the suite."""

    model_config = ConfigDict(frozen=True)

    dns: DnsSettings
    hypervisor: HypervisorSettings
    synjitsu: SynjitsuSettings
    reaper: ReaperSettings
    store: StoreSettings
    bus: BusSettings
    defaults: DefaultsSettings
    log: LogSettings
    vms: tuple[VM, ...] = ()
    """The VMs of jitsu.toml and of the command line; none in a service, which takes them from the store."""

    def metrics(self, service: str) -> ListenAddress:
        """Return where a service's metrics are, if they are anywhere."""
        sections: dict[str, DnsSettings | HypervisorSettings | SynjitsuSettings | ReaperSettings | StoreSettings] = {
            "dns": self.dns,
            "vmd": self.hypervisor,
            "synjitsu": self.synjitsu,
            "reaper": self.reaper,
            "store": self.store,
        }
        return sections[service].metrics

    def with_live(self, read: Settings, service: str) -> tuple[Settings, list[str]]:
        """Return these settings with what is live of others, and the keys of a service that wait for its restart."""
        updated, waiting = {}, []
        for section in ("bus", SECTION_OF[service]):
            own, new = getattr(self, section), getattr(read, section)
            changed = {key: value for key, value in new if value != getattr(own, key)}
            live = {key: value for key, value in changed.items() if is_live(type(own).model_fields[key])}
            waiting += [f"{section}.{key}" for key in changed if key not in live]
            updated[section] = own.model_copy(update=live)
        return self.model_copy(update=updated), waiting

    def as_values(self) -> dict[str, JsonValue]:
        """Return all settings by "section.key", so that a child needs no file and no flags."""
        return {
            f"{section}.{key}": value
            for section in SECTIONS
            for key, value in getattr(self, section).model_dump(mode="json").items()
            if value is not None
        }


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
    """Where settings come from; what is further down counts before what is above it."""

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

    `flags` and `presets` map "section.key" to values; presets are what the caller assumes where nobody says anything.
    """
    sources = _Sources(presets or {}, _read(file), environ, {}, flags)
    sections = _sections(sources)
    toml, faults, defaults = sources.toml, sources.faults, sections["defaults"]
    texts = ([] if toml is None else _vm_tables(toml, faults)) + list(vm_texts)
    defaults_text = defaults.as_texts() if isinstance(defaults, DefaultsSettings) else {}
    vms = _vms(texts, defaults_text, faults)
    if not faults and isinstance(bus := sections["bus"], BusSettings):
        faults += _host_faults(sections)
        faults += [
            f"{text.at('host')}: {vm.host} is not listed in bus.hosts" for vm, text in vms if vm.host not in bus.vmds
        ]
    if faults:
        raise SettingsFault(faults)
    return Settings.model_validate({**sections, "vms": [vm for vm, _ in vms]})


def _load_without_vms(
    file: Path | None, environ: Mapping[str, str], flags: Mapping[str, str], inherited: Mapping[str, JsonValue]
) -> Settings:
    """Return the settings alone; raises SettingsFault with every reason.

    Services take the VMs from the store, and building 10,000 of them takes a second, in which nobody is served.
    """
    sources = _Sources({}, _read(file), environ, inherited, flags)
    sections = _sections(sources)
    faults = sources.faults or _host_faults(sections)
    if faults:
        raise SettingsFault(faults)
    return Settings.model_validate(sections)


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


def _host_faults(sections: Mapping[str, Section | None]) -> list[str]:
    """Return what is wrong with the endpoints of the bus, and with the host that vmd says it is."""
    bus, hypervisor = sections["bus"], sections["hypervisor"]
    if not isinstance(bus, BusSettings):
        return []
    faults = _plain_tcp(bus)
    if isinstance(hypervisor, HypervisorSettings) and hypervisor.host not in bus.vmds:
        faults.append(f"hypervisor.host: {hypervisor.host!r} is not listed in bus.hosts")
    return faults


def load_service(service: str, argv: Sequence[str], environ: Mapping[str, str]) -> Settings:
    """Return the settings of a service from its command line, without VMs.

    Exits for --help, --version and a command line that is wrong; raises SettingsFault.
    """
    flags = dict(vars(service_parser(service).parse_args(argv)))
    if "dns.version" in flags and flags["dns.version"] is None:
        flags["version"] = True
    if flags.pop("version", False):
        print(version_text(f"jitsu-{service}"))
        raise SystemExit(0)
    flags.pop("check", None)  # of the service's main
    file = flags.pop("config", environ.get("JITSU_CONFIG"))
    try:
        return _load_without_vms(Path(file) if file else None, environ, flags, inherited_settings(environ))
    except OSError as error:
        raise SettingsFault([f"the settings that `jitsu up` passes on cannot be read: {error.strerror}"]) from None


def service_parser(service: str) -> Parser:
    """Return the parser of a service's command line: a flag for each setting of its own, of the bus and of the log."""
    own, about = SECTION_OF[service], SERVICES[service]
    parser = Parser(prog=f"jitsu-{service}", allow_abbrev=False, argument_default=argparse.SUPPRESS)
    general = [("--config FILE", "The jitsu.toml that is read; else the one that JITSU_CONFIG names.")]
    parser.add_argument("--config", metavar="FILE")
    groups: list[Group] = []
    for name in (own, "bus", "log"):
        rows = []
        for key, field in SECTIONS[name].model_fields.items():
            flag = (f"--{key}" if name == own else f"--{name}-{key}").replace("_", "-")
            parser.add_argument(flag, dest=f"{name}.{key}", nargs="?" if flag == "--version" else None)
            default = default_of(field)
            rows.append((f"{flag} VALUE", f"{field.description} [{default}]" if default else field.description or ""))
        groups.append(Group(f"Settings of [{name}]", rows))
    if service != "dns":  # whose --version VALUE is a setting, and without a value prints the version too
        parser.add_argument("--version", action="store_true")
    if about.check:
        parser.add_argument("--check", action="store_true")
        general.append(("--check", about.check))
    general += [("--version", "Print the version, and exit."), ("-h, --help", "Show this message and exit.")]
    parser.page = HelpPage(
        f"jitsu-{service} [OPTION]...",
        (
            f"{about.what[0].upper()}{about.what[1:]}. It is one of the five processes of Jitsu, which find each other "
            "as [bus] says.",
            f"Each setting has a variable too, such as JITSU_{own.upper()}_METRICS. A flag counts before it, and it "
            "before jitsu.toml.",
        ),
        (Group("Options", general), *groups, Group("Exit status", list(EXIT_STATUS.items()))),
        about.examples,
        f"{about.page}, docs/reference/configuration.md",
    )
    return parser


def _is_setting(key: str) -> bool:
    section, _, name = key.partition(".")
    return section in SECTIONS and name in SECTIONS[section].model_fields


def _spelling(key: str) -> str:
    return f"flag for {key}"


def _unknown_sections(toml: TomlFile) -> list[str]:
    known = [*SECTIONS, "vm"]
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
        faults.append(f"{place(key)}: unknown key{nearest(key, model.model_fields)}")
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
    known = ("kind", "connect")
    faults += [
        f"{toml.at('hypervisor', name, key)}: unknown key{nearest(key, known)}"
        for key in [key for key in table if key not in known][:MAX_FAULTS_SHOWN]
    ]
    return " ".join([name, str(table.get("kind", "libvirt")), *([str(table["connect"])] if "connect" in table else [])])


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


def _plain_tcp(bus: BusSettings) -> list[str]:
    faults = []
    for key, endpoint in bus.endpoints():
        scheme, _, rest = endpoint.partition("://")
        if scheme not in ("ipc", "tcp") or not rest:
            faults.append(f"bus.{key}: {endpoint!r} is neither ipc:// nor tcp://")
        elif scheme == "ipc" and len(os.fsencode(rest)) > MAX_IPC_PATH_BYTES:
            where = "runtime_dir" if key != "hosts" and not getattr(bus, key) else key
            faults.append(f"bus.{where}: {rest!r} is too long for a Unix socket ({MAX_IPC_PATH_BYTES} bytes at most)")
        elif scheme == "tcp" and not _is_host_and_port(rest):
            faults.append(f"bus.{key}: {endpoint!r} is not tcp://HOST:PORT, with a PORT from 1 to 65535")
        elif scheme == "tcp" and not (bus.keys or bus.allow_plain_tcp or _is_loopback(rest)):
            faults.append(
                f"bus.{key}: {endpoint} is not loopback, and its messages can be read "
                "and forged on the way: `jitsu keys init DIRECTORY`, and name that in bus.keys "
                "(or set bus.allow_plain_tcp = true if plain tcp is what you want)"
            )
    return faults


def _is_host_and_port(rest: str) -> bool:
    host, _, port = rest.rpartition(":")
    is_host = bool(re.fullmatch(r"[A-Za-z0-9._-]+|\*|\[[0-9A-Fa-f:.]+(%[A-Za-z0-9._-]+)?\]", host))
    return is_host and port.isascii() and port.isdecimal() and 0 < int(port) <= 65535


def _is_loopback(rest: str) -> bool:
    host = rest.rpartition(":")[0].strip("[]")
    return host in ("localhost", "::1") or host.startswith("127.")


MAX_IPC_PATH_BYTES = 100  # sun_path holds 108 (unix(7)); a lock file beside it ends in .lock


def is_live(field: FieldInfo) -> bool:
    """Say whether a process that runs takes another value of a setting."""
    return isinstance(field.json_schema_extra, dict) and bool(field.json_schema_extra.get("live"))


def default_of(field: Any) -> str:
    """Return a setting's default as text, "" if it has none."""
    default = field.get_default(call_default_factory=True)
    if isinstance(default, list):
        return ", ".join(map(as_text, default))
    return "" if default is None else as_text(default)


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
    bool: "boolean",
    int: "integer",
    float: "number",
}
"""Types that a reader is told; the others are text."""
