"""The table of settings: jitsu.toml, environment and flags become one typed `Settings`, or a list of faults.

Each section is a model; a field's type, default, unit and meaning stand here and nowhere else: flags, `--help` and
docs/configuration.md are derived. A flag counts before the environment (`JITSU_DNS_PORT`), that before the
file. A fault names where it stands: file, line and key; variable; or flag.
"""

from __future__ import annotations

import argparse
import os
import re
import tempfile
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
)

from jitsu_protocol.toml import TomlFault, TomlFile
from jitsu_protocol.vm import (
    KEYS,
    VM,
    DnsName,
    Holdings,
    InvalidVm,
    Limit,
    MaxWait,
    OnTimeout,
    Seconds,
    StopMode,
    Ttl,
    as_text,
    dns_name,
    from_config,
    nearest,
    reason,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence


def runtime_directory() -> str:
    """Return where sockets are when nobody says: /run/jitsu for root, else below XDG_RUNTIME_DIR or /tmp."""
    if os.geteuid() == 0:
        return "/run/jitsu"
    base = os.environ.get("XDG_RUNTIME_DIR")
    if base and os.access(base, os.W_OK):
        return f"{base}/jitsu"
    return f"{tempfile.gettempdir()}/jitsu-{os.geteuid()}"


def _listen_address(text: str) -> str:
    host, colon, port = text.rpartition(":")
    if text and not (colon and host and port.isdecimal() and 0 <= int(port) <= 65535):
        raise ValueError(f"{text!r} is not HOST:PORT")
    return text


def _split(value: object) -> object:
    """Take text as a list: parts are divided by commas, or stand on lines of their own."""
    return [part for part in re.split("[,\n]", value) if part] if isinstance(value, str) else value


def _split_lines(value: object) -> object:
    return [line for line in value.splitlines() if line] if isinstance(value, str) else value


def _ip_text(text: str) -> str:
    ip_address(text)
    return text


def _network_text(text: str) -> str:
    try:
        ip_network(text, strict=False)
    except ValueError:
        raise ValueError(f"{text!r} is no network, as 192.0.2.0/24 is one") from None
    return text


def _servers(texts: list[str]) -> list[str]:
    if texts == ["0.0.0.0"]:  # as in the original
        return ["off"]
    if texts in (["system"], ["off"]):
        return texts
    return [_ip_text(text) for text in texts] or ["off"]


def _glue_text(text: str) -> str:
    name, equals, address = text.partition("=")
    if not equals:
        raise ValueError(f"{text!r} is not NAME=ADDRESS")
    return f"{dns_name(name)}={ip_address(address)}"


IpText = Annotated[str, AfterValidator(_ip_text)]
Listen = Annotated[str, AfterValidator(_listen_address)]
Names = Annotated[list[DnsName], BeforeValidator(_split)]
Texts = Annotated[list[str], BeforeValidator(_split)]
Servers = Annotated[list[str], BeforeValidator(_split), AfterValidator(_servers)]
Networks = Annotated[list[Annotated[str, AfterValidator(_network_text)]], BeforeValidator(_split)]
Glue = Annotated[list[Annotated[str, AfterValidator(_glue_text)]], BeforeValidator(_split)]
Lines = Annotated[list[str], BeforeValidator(_split_lines)]
Rate = Annotated[float, Field(ge=0, le=1e9, allow_inf_nan=False)]
CookieSecret = Annotated[str, Field(pattern=r"^([0-9a-fA-F]{32})?$")]
METRICS = "HOST:PORT of /metrics and /healthz; empty: none."


class Section(BaseModel):
    """One table of jitsu.toml."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True)


class BusSettings(Section):
    """How the processes reach each other; the same in all of them."""

    runtime_dir: str = Field("", description="Directory of the ipc sockets; empty: /run/jitsu or the user's own.")
    store_rpc: str = Field("", description="Endpoint of the store's rpc; empty: ipc.")
    store_feed: str = Field("", description="Endpoint of the store's feed; empty: ipc.")
    vmd_rpc: str = Field("", description="Endpoint of vmd's rpc; empty: ipc.")
    vmd_feed: str = Field("", description="Endpoint of vmd's feed; empty: ipc.")
    synjitsu_rpc: str = Field("", description="Endpoint of synjitsu's rpc; empty: ipc.")
    reaper_rpc: str = Field("", description="Endpoint of the reaper's rpc; empty: ipc.")
    allow_plain_tcp: bool = Field(False, description="Let tcp endpoints beyond loopback carry readable messages.")

    @property
    def directory(self) -> Path:
        """Directory of the ipc sockets."""
        return Path(self.runtime_dir or runtime_directory())

    def endpoint(self, owner: str, socket: Literal["rpc", "feed"]) -> str:
        """Return the ZeroMQ endpoint of one of an owner's sockets."""
        configured = getattr(self, f"{owner}_{socket}", "")
        return str(configured or f"ipc://{self.directory}/{owner}.{socket}")


class LogSettings(Section):
    """What is logged, and how."""

    level: Literal["debug", "info", "warning", "error"] = Field("info", description="Least severity that is logged.")
    format: Literal["auto", "human", "json"] = Field("auto", description="auto: human on a terminal, else json.")


class DnsSettings(Section):
    """The DNS front-end."""

    bind: IpText = Field("127.0.0.1", description="Address that is bound, UDP and TCP.")
    port: int = Field(53, ge=0, le=65535, description="Port that is bound.")
    replica: str = Field(
        "dns-0",
        max_length=64,
        pattern=r"^[A-Za-z0-9_-]+$",
        description="Name of this replica: unique, and the same after a restart.",
    )
    replicas: int = Field(1, ge=1, le=64, description="How many replicas `jitsu up` runs.")
    reuse_port: bool = Field(False, description="Share the port with other replicas on this host (SO_REUSEPORT).")
    zones: Names = Field(
        default_factory=list,
        description="Zones that are held; empty: the parent domain of each name.",
    )
    mname: DnsName | Literal[""] = Field("", description="Primary name server in the SOA; empty: the first one.")
    rname: DnsName | Literal[""] = Field(
        "", description="Mailbox in the SOA, with a dot for the @; empty: hostmaster.ZONE."
    )
    nameservers: Names = Field(default_factory=list, description="Name servers of each zone; empty: ns.ZONE.")
    glue: Glue = Field(
        default_factory=list,
        description="Addresses of name servers, as NAME=ADDRESS; for ns.ZONE otherwise the address that is bound.",
    )
    records: Lines = Field(
        default_factory=list,
        description="Records beside those of the VMs, as lines of a zone file with full names: "
        "`www.example.org. 300 IN MX 10 mail.example.org.`",
    )
    log_queries: bool = Field(False, description="Log each query; SIGUSR2 switches that while the server runs.")
    version: str = Field("jitsu", max_length=255, description="What version.bind is answered; empty: nothing.")
    max_waiting: int = Field(10_000, ge=1, le=1_000_000, description="Queries that may wait for a VM at once.")
    max_tcp: int = Field(1_000, ge=1, le=100_000, description="TCP connections open at once.")
    tcp_idle: Limit = Field(
        10.0,
        description="A TCP connection without a query is closed after that long.",
        json_schema_extra={"unit": "s"},
    )
    forward: Servers = Field(
        default_factory=lambda: ["system"],
        description="Who is asked for names that are not held: addresses, `system` (those of resolv.conf) or `off`.",
    )
    forward_port: int = Field(53, ge=1, le=65535, description="Port of the addresses in forward.")
    forward_for: Networks = Field(
        default_factory=list, description="Networks for which that is done; empty: loopback and this host's own."
    )
    summon_for: Networks = Field(default_factory=list, description="Networks whose queries may start VMs; empty: all.")
    summon_rate: Rate = Field(
        10.0,
        description="VMs that queries of one network (/24, /56) may start a second; 0: any number.",
        json_schema_extra={"unit": "VMs/s"},
    )
    summon_burst: Limit = Field(
        100.0, description="VMs that one network may start at once.", json_schema_extra={"unit": "VMs"}
    )
    response_rate: Rate = Field(
        200.0,
        description="Equal answers a second to one network over UDP; of those beyond, every second is truncated, "
        "the others are dropped; 0: any number.",
        json_schema_extra={"unit": "responses/s"},
    )
    exempt: Networks = Field(
        default_factory=lambda: ["127.0.0.0/8", "::1"],
        description="Networks to which summon_rate and response_rate do not apply.",
    )
    cookie_secret: CookieSecret = Field(
        "", description="Secret of the DNS cookies, 32 hexadecimal digits, the same in all replicas; empty: a new one."
    )
    lease: Seconds = Field(
        300.0,
        description="How long a replica that reaches neither vmd nor reaper answers for ready VMs.",
        json_schema_extra={"unit": "s"},
    )
    metrics: Listen = Field("", description=METRICS)


class HypervisorSettings(Section):
    """The hypervisor, and vmd that drives it."""

    kind: Literal["mock", "loopback"] = Field(
        "mock", description="mock (the same as loopback): guests on 127.x.y.z, no privileges."
    )
    connect: str = Field("", description="Connection string; the mock hypervisor needs none.")
    metrics: Listen = Field("", description=METRICS)


class SynjitsuSettings(Section):
    """Synjitsu."""

    bridges: Texts = Field(default_factory=list, description="Bridges to listen on.")
    max_kept_per_vm: int = Field(
        1024, ge=1, description="Packets kept for one VM.", json_schema_extra={"unit": "packets"}
    )
    max_kept: int = Field(65536, ge=1, description="Packets kept in all.", json_schema_extra={"unit": "packets"})
    metrics: Listen = Field("", description=METRICS)


class ReaperSettings(Section):
    """The idle reaper."""

    drain_limit: Limit = Field(
        3.0,
        description="Replicas have that long to acknowledge a drain.",
        json_schema_extra={"unit": "s"},
    )
    metrics: Listen = Field("", description=METRICS)


class StoreSettings(Section):
    """The state store."""

    path: str = Field("", description="The Git repository; empty: a new one that is gone when the suite is.")
    metrics: Listen = Field("", description=METRICS)


class DefaultsSettings(Section):
    """What holds for VMs that say nothing else; see the keys of a VM."""

    ttl: Ttl = Field(60, description=KEYS["ttl"].doc, json_schema_extra={"unit": "s"})
    response_delay: Seconds = Field(0.1, description=KEYS["response_delay"].doc, json_schema_extra={"unit": "s"})
    stop_mode: StopMode = Field(StopMode.DESTROY, description=KEYS["stop_mode"].doc)
    idle_timeout: Limit | None = Field(None, description=KEYS["idle_timeout"].doc, json_schema_extra={"unit": "s"})
    max_wait: MaxWait = Field(1.2, description=KEYS["max_wait"].doc, json_schema_extra={"unit": "s"})
    on_timeout: OnTimeout = Field(OnTimeout.ANSWER, description=KEYS["on_timeout"].doc)
    boot_limit: Limit = Field(60.0, description=KEYS["boot_limit"].doc, json_schema_extra={"unit": "s"})

    def as_texts(self) -> dict[str, str]:
        """Return the defaults in the form that `vm.from_config` takes."""
        return {key: as_text(value) for key, value in self if value is not None}


SECTIONS: dict[str, type[Section]] = {
    "dns": DnsSettings,
    "hypervisor": HypervisorSettings,
    "synjitsu": SynjitsuSettings,
    "reaper": ReaperSettings,
    "store": StoreSettings,
    "bus": BusSettings,
    "defaults": DefaultsSettings,
    "log": LogSettings,
}

SECTION_OF = {
    "dns": "dns",
    "vmd": "hypervisor",
    "synjitsu": "synjitsu",
    "reaper": "reaper",
    "store": "store",
}
"""Which section is a service's own."""


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
    """The VMs of jitsu.toml and of the command line."""

    def metrics(self, service: str) -> str:
        """Return the HOST:PORT of a service's metrics, or nothing."""
        return str(getattr(self, SECTION_OF[service]).metrics)


class SettingsFault(Exception):
    """The configuration is wrong; `faults` holds one line for each reason."""

    def __init__(self, faults: Sequence[str]) -> None:
        super().__init__("\n".join(faults))
        self.faults = tuple(faults)


class VmText(BaseModel):
    """A VM as it was written, and where."""

    config: dict[str, list[str]]
    where: str
    """Where the VM as a whole is written."""
    prefix: str = ""
    """What stands before a key when it is named: `vm.www.`"""
    lines: dict[str, str] = Field(default_factory=dict)
    """Of single keys."""

    def at(self, key: str) -> str:
        """Return where a key stands."""
        return f"{self.lines.get(key, self.where)}: {self.prefix}{key}"


def load(
    file: Path | None,
    environ: Mapping[str, str],
    flags: Mapping[str, str],
    vm_texts: Iterable[VmText] = (),
    presets: Mapping[str, str] | None = None,
) -> Settings:
    """Return the settings; raises SettingsFault with every reason.

    `flags` and `presets` map "section.key" to text; presets are what the caller assumes where nobody says anything.
    """
    faults: list[str] = []
    toml = None
    if file is not None:
        try:
            toml = TomlFile.read(file)
        except TomlFault as error:
            raise SettingsFault([str(error)]) from None
        faults += _unknown_sections(toml)
    sections = {
        name: _section(name, model, toml, environ, flags, presets or {}, faults) for name, model in SECTIONS.items()
    }
    faults += [f"{_spelling(key)}: there is no such setting" for key in flags if not _is_setting(key)]
    defaults = sections["defaults"]
    texts = ([] if toml is None else _vm_tables(toml, faults)) + list(vm_texts)
    defaults_text = defaults.as_texts() if isinstance(defaults, DefaultsSettings) else {}
    vms = _vms(texts, defaults_text, faults)
    if not faults and isinstance(bus := sections["bus"], BusSettings):
        faults += _plain_tcp(bus)
    if faults:
        raise SettingsFault(faults)
    return Settings.model_validate({**sections, "vms": vms})


def load_service(service: str, argv: Sequence[str], environ: Mapping[str, str]) -> Settings:
    """Return the settings of a service from its command line; exits for --help, raises SettingsFault."""
    own = SECTION_OF[service]
    parser = argparse.ArgumentParser(prog=f"jitsu-{service}", allow_abbrev=False, argument_default=argparse.SUPPRESS)
    parser.add_argument("--config", metavar="FILE", help="jitsu.toml")
    for name in (own, "bus", "log"):
        for key, field in SECTIONS[name].model_fields.items():
            flag = f"--{key}" if name == own else f"--{name}-{key}"
            parser.add_argument(
                flag.replace("_", "-"),
                dest=f"{name}.{key}",
                metavar="VALUE",
                help=f"{field.description} [{_default(field)}]".replace("%", "%%"),
            )
    flags = dict(vars(parser.parse_args(argv)))
    file = flags.pop("config", environ.get("JITSU_CONFIG"))
    return load(Path(file) if file else None, environ, flags)


def _is_setting(key: str) -> bool:
    section, _, name = key.partition(".")
    return section in SECTIONS and name in SECTIONS[section].model_fields


def _spelling(key: str) -> str:
    return f"flag for {key}"


def _unknown_sections(toml: TomlFile) -> list[str]:
    known = [*SECTIONS, "vm"]
    return [f"{toml.at(name)}: unknown section{nearest(name, known)}" for name in toml.data if name not in known]


def _section(
    name: str,
    model: type[Section],
    toml: TomlFile | None,
    environ: Mapping[str, str],
    flags: Mapping[str, str],
    presets: Mapping[str, str],
    faults: list[str],
) -> Section | None:
    values: dict[str, Any] = {}
    where: dict[str, str] = {}
    table = {} if toml is None else toml.data.get(name, {})
    if toml is not None and not isinstance(table, dict):
        faults.append(f"{toml.at(name)}: must be a section: [{name}]")
        return None
    for key in model.model_fields:
        if f"{name}.{key}" in presets:
            values[key] = presets[f"{name}.{key}"]
    for key, value in table.items():
        if toml is not None:
            values[key], where[key] = value, toml.at(name, key)
    for key in model.model_fields:
        variable = f"JITSU_{name}_{key}".upper()
        if variable in environ:
            values[key], where[key] = environ[variable], f"environment {variable}: {name}.{key}"
        if f"{name}.{key}" in flags:
            values[key] = flags[f"{name}.{key}"]
            where[key] = _spelling(f"{name}.{key}")
    try:
        return model.model_validate(values)
    except ValidationError as error:
        for detail in error.errors():
            key = str(detail["loc"][0])
            unknown = f"unknown key{nearest(key, model.model_fields)}"
            text = unknown if detail["type"] == "extra_forbidden" else reason(detail)
            faults.append(f"{where.get(key, name)}: {text}")
        return None


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
        lines = {key: toml.place("vm", name, key) for key in table}
        texts.append(VmText(config=config, where=toml.place("vm", name), prefix=f"vm.{name}.", lines=lines))
    return texts


def _vms(texts: Sequence[VmText], defaults: dict[str, str], faults: list[str]) -> list[VM]:
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
    return [vm for vm, _ in built]


def _plain_tcp(bus: BusSettings) -> list[str]:
    faults = []
    for owner, socket in _SOCKETS:
        endpoint = bus.endpoint(owner, socket)
        scheme, _, rest = endpoint.partition("://")
        if scheme not in ("ipc", "tcp") or not rest:
            faults.append(f"bus.{owner}_{socket}: {endpoint!r} is neither ipc:// nor tcp://")
        elif scheme == "ipc" and len(rest) > MAX_IPC_PATH_BYTES:
            faults.append(
                f"bus.runtime_dir: {rest!r} is too long for a Unix socket ({MAX_IPC_PATH_BYTES} characters at most)"
            )
        elif scheme == "tcp" and not bus.allow_plain_tcp and not _is_loopback(rest):
            faults.append(
                f"bus.{owner}_{socket}: {endpoint} is not loopback, and its messages can be read "
                "and forged on the way; set bus.allow_plain_tcp = true if that is what you want"
            )
    return faults


def _is_loopback(rest: str) -> bool:
    host = rest.rpartition(":")[0].strip("[]")
    return host in ("localhost", "::1") or host.startswith("127.")


MAX_IPC_PATH_BYTES = 100  # sun_path holds 108 (unix(7)); a lock file beside it ends in .lock

_SOCKETS: tuple[tuple[str, Literal["rpc", "feed"]], ...] = (
    ("store", "rpc"),
    ("store", "feed"),
    ("vmd", "rpc"),
    ("vmd", "feed"),
    ("synjitsu", "rpc"),
    ("reaper", "rpc"),
)


def _default(field: Any) -> str:
    default = field.get_default(call_default_factory=True)
    if isinstance(default, list):
        return ", ".join(map(as_text, default))
    return "" if default is None else as_text(default)


def reference() -> str:
    """Return docs/configuration.md."""
    lines = [
        "# Configuration",
        "",
        "One file, `jitsu.toml`, is read by all processes. A flag counts before an environment variable",
        "(`JITSU_<SECTION>_<KEY>`), that before the file. Durations are in seconds. This page is made from",
        "the settings models by `make docs`.",
    ]
    for name, model in SECTIONS.items():
        lines += ["", f"## [{name}]", "", (model.__doc__ or "").strip(), ""]
        lines += ["| key | type | default | meaning |", "|---|---|---|---|"]
        for key, field in model.model_fields.items():
            extra = field.json_schema_extra
            unit = extra.get("unit", "") if isinstance(extra, dict) else ""
            kind = _type_text(field.annotation, str(unit))
            lines.append(f"| `{key}` | {kind} | {_default(field)} | {field.description} |")
    lines += ["", "## [vm.NAME]", "", "One VM. The same keys stand in `key=value,...` strings.", ""]
    lines += ["| key | type | default | meaning |", "|---|---|---|---|"]
    for key, about in KEYS.items():
        kind = _type_text(about.type, about.unit) + (", repeats" if about.repeats else "")
        lines.append(f"| `{key}` | {kind} | {about.default} | {about.doc} |")
    return "\n".join(lines) + "\n"


def _type_text(annotation: Any, unit: str) -> str:
    text = str(annotation)
    names: list[tuple[str, str]] = [
        ("DnsName", "DNS name"),
        ("dns_name", "DNS name"),
        ("_address", "IP address"),
        ("list", "list"),
        ("bool", "boolean"),
        ("int", "integer"),
        ("float", "number"),
        ("Literal", "text"),
    ]
    kind = next((readable for part, readable in names if part in text), "text")
    return f"{kind} ({unit})" if unit else kind
