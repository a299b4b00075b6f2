"""The sections of jitsu.toml: each key's type, default, unit and meaning are declared here and nowhere else."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, JsonValue

from jitsu_protocol.model.hypervisors import KINDS_DOC, Credentials, HypervisorConnection, HypervisorKind, kinds_with
from jitsu_protocol.model.vm import as_text
from jitsu_protocol.model.vm_keys import (
    KEYS,
    DnsName,
    Limit,
    MaxWait,
    OnTimeout,
    Seconds,
    StopMode,
    Ttl,
    default_of_key,
)
from jitsu_runtime.settings.events import EventsSettings
from jitsu_runtime.settings.section import LIVE, METRICS, Section
from jitsu_runtime.settings.values import (
    BridgeNames,
    BusEndpoint,
    Connections,
    CookieSecret,
    Forwarding,
    Glue,
    Hosts,
    Interfaces,
    IpText,
    Labels,
    Lines,
    Listen,
    ListenAddress,
    Names,
    Networks,
    OptionalEndpoint,
    OwnHost,
    Rate,
    Secondaries,
    Servers,
    UserIds,
    UserRange,
    network,
)
from jitsu_runtime.settings.web import WebSettings

if TYPE_CHECKING:
    from collections.abc import Iterator


MACHINE_DIRECTORY = Path("/run/jitsu")


def runtime_directory() -> str:
    """Return where sockets are by default: /run/jitsu for root, else below XDG_RUNTIME_DIR or /tmp."""
    if os.geteuid() == 0:
        return str(MACHINE_DIRECTORY)
    base = os.environ.get("XDG_RUNTIME_DIR")
    if base and os.access(base, os.W_OK):
        return f"{base}/jitsu"
    return f"{tempfile.gettempdir()}/jitsu-{os.geteuid()}"


def _vm_metrics() -> Any:
    """Return the setting that bounds the metrics with a label `vm`."""
    about = "With at most so many VMs there are metrics of each VM, some 25 lines of every scrape; with more, none."
    return Field(100, ge=0, le=10_000, description=about, json_schema_extra={"unit": "VMs", **LIVE})


class BusSettings(Section):
    """How the processes reach each other; the same in all of them."""

    runtime_dir: str = Field("", description="Directory of the ipc sockets; empty: /run/jitsu or the user's own.")
    store_rpc: OptionalEndpoint = Field(None, description="Endpoint of the store's rpc; empty: ipc.")
    store_feed: OptionalEndpoint = Field(None, description="Endpoint of the store's feed; empty: ipc.")
    vmd_rpc: OptionalEndpoint = Field(None, description="Endpoint of vmd's rpc; empty: ipc.")
    vmd_feed: OptionalEndpoint = Field(None, description="Endpoint of vmd's feed; empty: ipc.")
    synjitsu_rpc: OptionalEndpoint = Field(None, description="Endpoint of synjitsu's rpc; empty: ipc.")
    reaper_rpc: OptionalEndpoint = Field(None, description="Endpoint of the reaper's rpc; empty: ipc.")
    hosts: Hosts = Field(
        default_factory=list,
        description="Further hosts with a vmd of their own, each as `NAME RPC-ENDPOINT FEED-ENDPOINT`, "
        "or `NAME` alone for ipc.",
    )
    keys: str = Field("", description="Directory of keys (`jitsu keys init`): every tcp endpoint uses CURVE.")
    allow_plain_tcp: bool = Field(
        False, description="Without keys: let tcp endpoints beyond loopback carry readable messages."
    )

    @property
    def directory(self) -> Path:
        """Directory of the ipc sockets."""
        return Path(self.runtime_dir or runtime_directory())

    @property
    def vmds(self) -> tuple[str, ...]:
        """The hosts on which a vmd runs; "" is the one of vmd_rpc and vmd_feed."""
        return ("", *(host.name for host in self.hosts))

    def endpoint(self, owner: str, socket: Literal["rpc", "feed"], host: str = "") -> BusEndpoint:
        """Return the endpoint of one of an owner's sockets; `host` says which vmd's."""
        if host:
            other = next(each for each in self.hosts if each.name == host)
            given = other.rpc if socket == "rpc" else other.feed
            return given or BusEndpoint(f"{self.directory}/{owner}-{host}.{socket}")
        return self.configured_endpoints.get(f"{owner}_{socket}") or BusEndpoint(f"{self.directory}/{owner}.{socket}")

    @property
    def configured_endpoints(self) -> dict[str, BusEndpoint | None]:
        """The endpoints as they are configured, None where the default applies."""
        return {
            "store_rpc": self.store_rpc,
            "store_feed": self.store_feed,
            "vmd_rpc": self.vmd_rpc,
            "vmd_feed": self.vmd_feed,
            "synjitsu_rpc": self.synjitsu_rpc,
            "reaper_rpc": self.reaper_rpc,
        }

    @property
    def keys_directory(self) -> Path | None:
        """Directory of keys, if there is something that needs them."""
        is_on_tcp = any(not endpoint.path for _, endpoint in self.endpoints())
        return Path(self.keys) if self.keys and is_on_tcp else None

    def endpoints(self) -> Iterator[tuple[str, BusEndpoint]]:
        """Yield the key and the endpoint of every socket."""
        for owner in ("store", "vmd", "synjitsu", "reaper"):
            yield f"{owner}_rpc", self.endpoint(owner, "rpc")
        for owner in ("store", "vmd"):
            yield f"{owner}_feed", self.endpoint(owner, "feed")
        for host in self.hosts:
            yield "hosts", self.endpoint("vmd", "rpc", host.name)
            yield "hosts", self.endpoint("vmd", "feed", host.name)


class LogSettings(Section):
    """What is logged, and how."""

    level: Literal["debug", "info", "warning", "error"] = Field("info", description="Least severity that is logged.")
    format: Literal["auto", "human", "json"] = Field("auto", description="auto: human on a terminal, else json.")
    privacy: Literal["network", "full", "none"] = Field(
        "network",
        description="What `jitsu why` may record of a client: its network (/24, /56), its full address, or nothing.",
    )


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
    workers: int = Field(
        1,
        ge=1,
        le=64,
        description="How many processes one jitsu-dns runs on its port, each a replica: NAME, NAME-1, NAME-2 ...",
    )
    reuse_port: bool = Field(False, description="Share the port with other replicas on this host (SO_REUSEPORT).")
    zones: Names = Field(
        default_factory=list,
        description="Zones that this server is responsible for: a name in them that no VM has is answered NXDOMAIN. "
        "If a VM has a name outside of them, the server is responsible for that name alone.",
    )
    wildcard_exclude: Labels = Field(
        default_factory=lambda: ["wpad", "isatap"],
        description="Labels that a wildcard of a VM does not stand for: clients look such names up by themselves.",
    )
    wildcard_labels: int = Field(
        0, ge=0, le=127, description="How many labels a wildcard of a VM may stand for; 0: any number."
    )
    mname: DnsName | Literal[""] = Field("", description="Primary name server in the SOA; empty: the first one.")
    rname: DnsName | Literal[""] = Field(
        "", description="Mailbox in the SOA, with a dot for the @; empty: hostmaster.ZONE."
    )
    nameservers: Names = Field(default_factory=list, description="Name servers of each zone; empty: ns.ZONE.")
    glue: Glue = Field(
        default_factory=list,
        description="Addresses of name servers, as NAME=ADDRESS; for ns.ZONE otherwise the address that is bound, "
        "or those of this host's interfaces if that is all addresses.",
    )
    records: Lines = Field(
        default_factory=list,
        description="Records beside those of the VMs, as lines of a zone file with full names: "
        "`www.example.org. 300 IN MX 10 mail.example.org.`",
    )
    secondaries: Secondaries = Field(
        default_factory=list,
        description="Servers that may transfer the zones (AXFR over TCP) and are notified of changes: "
        "ADDRESS or ADDRESS@PORT.",
    )
    log_queries: bool = Field(
        False, description="Log each query; SIGUSR2 switches that while the server runs.", json_schema_extra=LIVE
    )
    version: str = Field("jitsu", max_length=255, description="The answer to version.bind; empty: none.")
    max_waiting: int = Field(10_000, ge=1, le=1_000_000, description="Queries that may wait for a VM at once.")
    max_tcp: int = Field(1_000, ge=1, le=100_000, description="TCP connections open at once.")
    tcp_idle: Limit = Field(
        10.0,
        description="A TCP connection without a query is closed after that long.",
        json_schema_extra={"unit": "s"},
    )
    forward: Servers = Field(
        default_factory=lambda: Forwarding(follows_system=True),
        description="The servers that queries for other names are forwarded to: addresses, `system` (those of "
        "resolv.conf, which is followed) or `off`.",
    )
    forward_port: int = Field(53, ge=1, le=65535, description="Port of the addresses in forward.")
    forward_for: Networks = Field(
        default_factory=list, description="Networks whose queries are forwarded; empty: loopback and this host's own."
    )
    forward_special: Names = Field(
        default_factory=list,
        description="Special-use zones that are forwarded all the same, for example `168.192.in-addr.arpa` where the "
        "router knows its clients; all others (RFC 6761, 6762, 7686, 8375, 6303) are answered here.",
    )
    summon_for: Networks = Field(
        default_factory=list,
        description="Networks whose queries may start VMs; empty: all.",
        json_schema_extra=LIVE,
    )
    summon_rate: Rate = Field(
        10.0,
        description="VMs that queries of one network (/24, /56) may start a second; 0: any number.",
        json_schema_extra={"unit": "VMs/s", **LIVE},
    )
    summon_burst: Limit = Field(
        100.0, description="VMs that one network may start at once.", json_schema_extra={"unit": "VMs", **LIVE}
    )
    response_rate: Rate = Field(
        200.0,
        description="Equal answers a second to one network over UDP; of those beyond, every second is truncated, "
        "the others are dropped; 0: any number.",
        json_schema_extra={"unit": "responses/s"},
    )
    exempt: Networks = Field(
        default_factory=lambda: [network("127.0.0.0/8"), network("::1")],
        description="Networks to which summon_rate and response_rate do not apply.",
    )
    cookie_secret: CookieSecret = Field(
        b"", description="Secret of the DNS cookies, 32 hexadecimal digits, the same in all replicas; empty: a new one."
    )
    lease: Seconds = Field(
        300.0,
        description="How long a replica that reaches neither vmd nor reaper answers for ready VMs.",
        json_schema_extra={"unit": "s"},
    )
    metrics: Listen = Field(default_factory=ListenAddress, description=METRICS)


SECRET_FILE = "Only vmd's user may be able to read it; a name without a slash is a credential of systemd."


def _credential(key: str, meaning: str) -> Any:
    return Field("", description=f"{kinds_with(key)}: {meaning}")


class HypervisorSettings(Section):
    """The hypervisor, and vmd that drives it."""

    kind: HypervisorKind = Field(HypervisorKind.MOCK, description=KINDS_DOC)
    bridge: str = Field(
        "jitsu0",
        pattern=r"^[A-Za-z0-9_.-]{1,15}$",
        description="The bridge of VMs without `nic`; the mock kind bridge makes, and removes, it if there is none.",
    )
    bridge_addresses: Interfaces = Field(
        default_factory=list, description="Addresses that the bridge gets when it is made, for example 10.0.0.1/24."
    )
    host: OwnHost = Field(
        "", description="Name of this vmd's host, if it is one of bus.hosts: it runs the VMs whose `host` is that."
    )
    connect: str = Field(
        "",
        description="libvirt's connection URI; empty: qemu:///system. XAPI's address: https://HOST. "
        "lxd, incus: the server's socket or https://HOST:8443, of several members of a cluster with ; between "
        "them, and ?project=NAME behind it; empty: the socket of this host. "
        "docker: unix:///PATH or tcp://HOST:PORT; empty: Docker's usual socket. "
        "Mock kinds and solo5: directory of a host process that others run.",
    )
    save_directory: str = Field(
        "/var/lib/jitsu-vmd/saved", description="libxl, qemu: where suspended domains are kept."
    )
    xenstore: str = Field("", description="xenstored's socket or the xenbus device; empty: the usual one.")
    user: str = _credential("user", "the user that logs in; empty: root.")
    password_file: str = _credential("password_file", f"file with the password. {SECRET_FILE}")
    token_file: str = _credential("token_file", f"file with the token. {SECRET_FILE}")
    certificate_file: str = _credential("certificate_file", "the client's certificate, PEM.")
    key_file: str = _credential("key_file", f"the key of the client's certificate, PEM. {SECRET_FILE}")
    ca_file: str = _credential("ca_file", "certificates that vouch for the server's; empty: the system's.")
    fingerprint: str = _credential(
        "fingerprint", "SHA-256 of the only certificate that the server may show, as hexadecimal digits."
    )
    connections: Connections = Field(
        default_factory=list,
        description="Further hypervisors, for VMs that name them with `hypervisor`, each as `NAME KIND` "
        "or `NAME KIND URI`; as sections: [hypervisor.NAME] with kind, connect, label_zones, and how to log in, "
        "from user to fingerprint, which are its own.",
    )
    label_zones: Names = Field(
        default_factory=list,
        description="Zones below which labels of machines (containers, domains ...) may name VMs; empty: labels count "
        "for nothing. The store needs them too. A connection may have its own: [hypervisor.NAME] with label_zones.",
    )
    label_networks: Networks = Field(
        default_factory=list,
        description="Networks in which a label may give a machine an address of which its hypervisor does not know.",
    )
    accelerate: Literal["auto", "kvm", "tcg"] = Field(
        "auto", description="How QEMU runs domains that are made for VMs; auto: KVM, if it proves to work."
    )
    tender: str = Field("", description="solo5: the tender; empty: solo5-spt or solo5-hvt, as the image was built for.")
    taps: int = Field(8, ge=0, le=4096, description="solo5: taps that are kept ready for guests.")
    uids: UserRange = Field(
        UserIds(1_900_000_000, 1_900_065_535),
        description="solo5, qemu: user ids that tenders and QEMU run as, one for each VM. No user of the host may have "
        "one of these.",
    )
    gateways: Interfaces = Field(
        default_factory=list,
        description="solo5: what {gateway} and {prefix} in a `cmdline` stand for, for example 10.0.0.1/24; for each VM "
        "the one in whose network its address is. Empty: the addresses of the VM's bridge.",
    )
    max_booting: int = Field(
        0, ge=0, description="VMs that may boot at once; others wait. 0: any number.", json_schema_extra=LIVE
    )
    max_running: int = Field(
        0,
        ge=0,
        description="VMs that may run at once; others wait (see evict). 0: any number.",
        json_schema_extra=LIVE,
    )
    max_memory: int = Field(
        0,
        ge=0,
        description="Memory of all VMs that run or are paused; others wait. 0: any.",
        json_schema_extra={"unit": "KiB", **LIVE},
    )
    metrics: Listen = Field(default_factory=ListenAddress, description=METRICS)
    vm_metrics: int = _vm_metrics()

    @property
    def all_connections(self) -> tuple[HypervisorConnection, ...]:
        """Every connection; the first, whose name is empty, is that of VMs that name none."""
        own = Credentials(
            self.user,
            self.password_file,
            self.token_file,
            self.certificate_file,
            self.key_file,
            self.ca_file,
            self.fingerprint,
        )
        used = own.only(self.kind.about.credentials)  # a flag may have changed the kind alone
        return (HypervisorConnection("", self.kind, self.connect, used), *self.connections)

    @property
    def label_zones_of(self) -> dict[str, tuple[str, ...]]:
        """The label zones of each connection, by its name; empty where labels count for nothing."""
        given = ((each.name, each.label_zones) for each in self.all_connections)
        return {name: tuple(self.label_zones) if zones is None else zones for name, zones in given}

    @property
    def all_label_zones(self) -> tuple[str, ...]:
        """The label zones of all connections."""
        given = (self.label_zones, *self.label_zones_of.values())
        return tuple(dict.fromkeys(zone for zones in given for zone in zones))


class SynjitsuSettings(Section):
    """Synjitsu."""

    bridges: BridgeNames = Field(
        default_factory=list,
        description="Bridges to listen on; empty: those at which vmd finds its VMs; none: no bridge.",
    )
    max_kept_per_vm: int = Field(
        1024, ge=1, description="Packets kept for one VM.", json_schema_extra={"unit": "packets"}
    )
    max_kept: int = Field(65536, ge=1, description="Packets kept in all.", json_schema_extra={"unit": "packets"})
    wake_for: Networks = Field(
        default_factory=list,
        description="Networks whose traffic may start VMs (wake_on_traffic, wake_on_lan); empty: all.",
    )
    wake_rate: Rate = Field(
        1.0,
        description="VMs that traffic from one address (IPv6: one /64) may start a second; 0: any number.",
        json_schema_extra={"unit": "VMs/s"},
    )
    wake_burst: Limit = Field(
        5.0, description="VMs that traffic from one address may start at once.", json_schema_extra={"unit": "VMs"}
    )
    wake_rate_of_all: Rate = Field(
        10.0,
        description="VMs that all traffic together may start a second, ten times that at once; 0: any number.",
        json_schema_extra={"unit": "VMs/s"},
    )
    xenstore: str = Field(
        "", description="xenstored's socket or the xenbus device, for handover = xenstore; empty: the usual one."
    )
    watch_activity: bool = Field(
        True,
        description="Report open connections and traffic to the reaper; the bridge is promiscuous while VMs run.",
    )
    metrics: Listen = Field(default_factory=ListenAddress, description=METRICS)


class ReaperSettings(Section):
    """The idle reaper."""

    directory: str = Field(
        "", description="Where it keeps the boots, stops and clients for `jitsu why`; empty: with the ipc sockets."
    )

    drain_limit: Limit = Field(
        3.0,
        description="Replicas have that long to acknowledge a drain.",
        json_schema_extra={"unit": "s", **LIVE},
    )
    metrics: Listen = Field(default_factory=ListenAddress, description=METRICS)
    vm_metrics: int = _vm_metrics()


class StoreSettings(Section):
    """The state store."""

    path: str = Field("", description="The Git repository; empty: a new one that is deleted when the suite stops.")
    statistics_interval: Limit = Field(
        60.0,
        description="How often statistics are committed to the history; a journal keeps them in the meantime.",
        json_schema_extra={"unit": "s"},
    )
    metrics: Listen = Field(default_factory=ListenAddress, description=METRICS)


def _as_of_a_vm(key: str) -> Any:
    """Return the setting that is the default of a VM's key, with the default, the unit and the meaning of that key."""
    unit: dict[str, JsonValue] = {"unit": KEYS[key].unit} if KEYS[key].unit else {}
    return Field(default_of_key(key), description=KEYS[key].doc, json_schema_extra=unit or None)


class DefaultsSettings(Section):
    """Values for VMs that have none of their own; see the keys of a VM."""

    ttl: Ttl = _as_of_a_vm("ttl")
    response_delay: Seconds = _as_of_a_vm("response_delay")
    stop_mode: StopMode = _as_of_a_vm("stop_mode")
    idle_timeout: Limit | None = Field(None, description=KEYS["idle_timeout"].doc, json_schema_extra={"unit": "s"})
    max_idle_connection: Limit = _as_of_a_vm("max_idle_connection")
    max_wait: MaxWait = _as_of_a_vm("max_wait")
    on_timeout: OnTimeout = _as_of_a_vm("on_timeout")
    boot_limit: Limit = _as_of_a_vm("boot_limit")
    evict: bool = _as_of_a_vm("evict")

    def as_texts(self) -> dict[str, str]:
        """Return the defaults in the form that `vm.from_config` takes."""
        return {key: as_text(value) for key, value in self if value is not None}


SECTIONS: dict[str, type[Section]] = {
    "dns": DnsSettings,
    "hypervisor": HypervisorSettings,
    "synjitsu": SynjitsuSettings,
    "reaper": ReaperSettings,
    "store": StoreSettings,
    "web": WebSettings,
    "events": EventsSettings,
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
    "web": "web",
}
"""Which section is a service's own."""
