"""The kinds of hypervisor, and a connection to one.

`HypervisorKind` is the only list of kinds. The choices of the setting `hypervisor.kind`, its description, the checks of
`jitsu doctor` and `jitsu up`, and the folder that vmd loads (`jitsu_vmd/hypervisors/<folder>/`) all follow from it. To
support another kind, add one member here, and that folder.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from enum import StrEnum
from typing import TYPE_CHECKING, Self
from urllib.parse import quote, unquote

from jitsu_protocol.model.vm_keys import dns_name, host_name

if TYPE_CHECKING:
    from collections.abc import Iterable


@dataclass(frozen=True)
class Credentials:
    """How a connection logs in, and whom it trusts. These are names and paths: no secret is ever in a setting.

    A file is a path, or a name without a slash, which is that of a credential of systemd (jitsu_runtime.credentials).
    """

    user: str = ""
    password_file: str = ""
    token_file: str = ""
    certificate_file: str = ""
    key_file: str = ""
    ca_file: str = ""
    fingerprint: str = ""
    """SHA-256 of the only certificate that the server may show; empty: one that ca_file or the system vouches for."""

    @property
    def files(self) -> dict[str, str]:
        """The files that it names, by key."""
        return {key: value for key, value in asdict(self).items() if key.endswith("_file") and value}

    @property
    def secret_files(self) -> dict[str, str]:
        """The files that only vmd may read, by key."""
        return {key: value for key, value in self.files.items() if key in ("password_file", "token_file", "key_file")}

    def only(self, keys: tuple[str, ...]) -> Credentials:
        """Return these keys of it."""
        return Credentials(**{key: value for key, value in asdict(self).items() if key in keys})


CREDENTIAL_KEYS = tuple(each.name for each in fields(Credentials))
"""The keys of [hypervisor] and [hypervisor.NAME] that say how to log in."""


@dataclass(frozen=True)
class KindTraits:
    """What other processes and the operator's tool have to know about a kind. The defaults fit a real hypervisor."""

    doc: str
    """The sentence about it in the description of `hypervisor.kind`."""
    folder: str = ""
    """Its folder below jitsu_vmd/hypervisors/; if it is empty, the folder has the name of the kind."""
    needs_root_for: str = ""
    """What vmd needs root for; empty if it does not have to be root."""
    is_mock: bool = False
    """Its guests are simulated by a process of ours, which answers on a known port."""
    is_on_loopback: bool = False
    """Its guests have loopback addresses of this host, and no network interface."""
    needs_bridges: bool = True
    """The bridges that VMs name must exist on this host before a guest starts."""
    needs_default_bridge: bool = False
    """`hypervisor.bridge` must exist as well, for VMs that name no bridge."""
    ends_with_suite: bool = False
    """Its guests end together with `jitsu up`, unless the connection names a host process that others run."""
    starts_when_opened: bool = False
    """Opening it may start a process that runs guests, so `jitsu-vmd --check` does not open it."""
    can_shut_down: bool = True
    """It can ask a guest to shut down."""
    has_own_vms: bool = False
    """A VM may exist there already, with disks that no key of the VM names."""
    credentials: tuple[str, ...] = ()
    """The keys of `Credentials` that have an effect with it; the others are refused."""


class HypervisorKind(StrEnum):
    """The kinds that `hypervisor.kind` and `hypervisor.connections` may name."""

    about: KindTraits

    def __new__(cls, value: str, about: KindTraits) -> Self:
        """Make a member whose value is the text in jitsu.toml."""
        member = str.__new__(cls, value)
        member._value_ = value
        member.about = about
        return member

    MOCK = (
        "mock",
        KindTraits(
            "mock (the same as loopback): guests on 127.x.y.z, no privileges",
            folder="loopback",
            is_mock=True,
            is_on_loopback=True,
            needs_bridges=False,
            ends_with_suite=True,
            starts_when_opened=True,
        ),
    )
    LOOPBACK = (
        "loopback",
        KindTraits(
            "",
            is_mock=True,
            is_on_loopback=True,
            needs_bridges=False,
            ends_with_suite=True,
            starts_when_opened=True,
        ),
    )
    BRIDGE = (
        "bridge",
        KindTraits(
            "bridge: mock guests in network namespaces on a bridge, needs root",
            needs_root_for="mock guests on a bridge",
            is_mock=True,
            needs_bridges=False,
            ends_with_suite=True,
            starts_when_opened=True,
        ),
    )
    LIBVIRT = ("libvirt", KindTraits("libvirt", has_own_vms=True))
    LIBXL = ("libxl", KindTraits("libxl (on dom0, with xl)", needs_root_for="xl"))
    XAPI = (
        "xapi",
        KindTraits("xapi", needs_bridges=False, has_own_vms=True, credentials=("user", "password_file", "ca_file")),
    )
    LXD = (
        "lxd",
        KindTraits(
            "lxd: instances of LXD, or of a cluster",
            needs_bridges=False,
            has_own_vms=True,
            credentials=("certificate_file", "key_file", "ca_file", "fingerprint"),
        ),
    )
    INCUS = (
        "incus",
        KindTraits(
            "incus: the same of Incus",
            folder="lxd",
            needs_bridges=False,
            has_own_vms=True,
            credentials=("certificate_file", "key_file", "ca_file", "fingerprint"),
        ),
    )
    SOLO5 = (
        "solo5",
        KindTraits(
            "solo5: unikernels as processes, needs root",
            needs_root_for="unikernels as processes",
            needs_default_bridge=True,
            ends_with_suite=True,
            starts_when_opened=True,
            can_shut_down=False,
        ),
    )
    PROXMOX = (
        "proxmox",
        KindTraits(
            "proxmox: machines of Proxmox VE",
            needs_bridges=False,
            has_own_vms=True,
            credentials=("user", "token_file", "ca_file", "fingerprint"),
        ),
    )
    QEMU = (
        "qemu",
        KindTraits(
            "qemu: QEMU processes without libvirt, needs root",
            needs_root_for="QEMU processes with users of their own",
            starts_when_opened=True,
        ),
    )
    COMMAND = (
        "command",
        KindTraits(
            "command: whatever the commands of a section [command.NAME] drive", needs_bridges=False, can_shut_down=False
        ),
    )
    DOCKER = (
        "docker",
        KindTraits(
            "docker: containers of Docker or Podman",
            needs_bridges=False,
            has_own_vms=True,
            credentials=("certificate_file", "key_file", "ca_file", "fingerprint"),
        ),
    )

    @property
    def folder(self) -> str:
        """The folder below jitsu_vmd/hypervisors/ that implements it."""
        return self.about.folder or self.value


KINDS_DOC = "; ".join(kind.about.doc for kind in HypervisorKind if kind.about.doc) + "."
"""The description of `hypervisor.kind`."""


def kinds_with(credential: str) -> str:
    """Return the kinds with which a key of `Credentials` has an effect, for the description of that setting."""
    return ", ".join(kind.value for kind in HypervisorKind if credential in kind.about.credentials) or "no kind yet"


@dataclass(frozen=True)
class HypervisorConnection:
    """A connection of vmd to a hypervisor."""

    name: str
    """The name that VMs give in the key `hypervisor`; empty for the connection of VMs that name none."""
    kind: HypervisorKind
    uri: str = ""
    """Where the hypervisor listens; empty for the usual place of its kind."""
    credentials: Credentials = Credentials()
    label_zones: tuple[str, ...] | None = None
    """Zones below which its labels may name VMs (docs/explanation/labels.md); None: those of [hypervisor]."""

    def __str__(self) -> str:
        """Return `NAME KIND`, with URI and KEY=VALUE behind it if it has them, which `connection` reads."""
        zones = [] if self.label_zones is None else [zones_text(self.label_zones)]
        return " ".join(filter(None, (self.name, self.kind, self.uri, *credential_texts(self.credentials), *zones)))

    def setting(self, key: str) -> str:
        """Return the name of one of its settings, for messages: `hypervisor.connect`, `hypervisor.big.token_file`."""
        return ".".join(filter(None, ("hypervisor", self.name, key)))


ZONES_KEY = "label_zones"
_AS_IT_IS = "/:@!+~$"
"""What a value may hold in the text of a connection; blanks and commas, which end it there, become %20 and %2C."""


def credential_texts(credentials: Credentials) -> list[str]:
    """Return how to log in as it stands in the text of a connection: KEY=VALUE for each key that has a value."""
    return [f"{key}={quote(value, _AS_IT_IS)}" for key, value in asdict(credentials).items() if value]


def zones_text(zones: Iterable[str]) -> str:
    """Return label zones as they stand in the text of a connection."""
    return f"{ZONES_KEY}={quote(','.join(zones), _AS_IT_IS)}"


def connection(text: str) -> HypervisorConnection:
    """Parse `NAME KIND`, `NAME KIND URI`, or either with KEY=VALUE of `Credentials` behind it; raises ValueError.

    `label_zones=ZONE%2CZONE` may stand there too.
    """
    parts = text.split()
    found: dict[str, str] = {}
    while len(parts) > 2 and (pair := parts[-1].partition("="))[0] in (*CREDENTIAL_KEYS, ZONES_KEY):
        found[pair[0]] = unquote(pair[2])
        parts.pop()
    kinds = {kind.value: kind for kind in HypervisorKind}
    if len(parts) not in (2, 3) or parts[1] not in kinds:
        raise ValueError(f"{text!r} is neither NAME KIND nor NAME KIND URI, with one of {', '.join(kinds)}")
    kind = kinds[parts[1]]
    zones = found.pop(ZONES_KEY, None)
    if unused := [key for key in found if key not in kind.about.credentials]:
        raise ValueError(f"{unused[0]} has no effect with the kind {kind}; remove it")
    if bad := [key for key, value in found.items() if not value.isprintable()]:
        raise ValueError(f"{bad[0]}: it has characters that cannot be printed")
    credentials = Credentials(**found)
    return HypervisorConnection(host_name(parts[0]), kind, "".join(parts[2:]), credentials, _zones(zones))


def _zones(text: str | None) -> tuple[str, ...] | None:
    return None if text is None else tuple(dns_name(zone) for zone in text.split(",") if zone)
