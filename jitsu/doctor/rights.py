"""Rights: whether this user may do what the configuration asks of services. A running suite has them."""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from jitsu.doctor.finding import Finding
from jitsu.kinds import kind_of
from jitsu.runtime_directory import refuse_unsafe
from jitsu_protocol.model.errors import SetupFault

if TYPE_CHECKING:
    from jitsu.doctor.finding import Suite
    from jitsu_protocol.model.hypervisors import HypervisorKind

TOPIC = "rights"
CAP_NET_BIND_SERVICE, CAP_NET_ADMIN, CAP_NET_RAW = 10, 12, 13
"""capabilities(7), include/uapi/linux/capability.h."""
LIBVIRT_SOCKET = Path("/run/libvirt/libvirt-sock")
HERE = ("", "qemu:///system", "xen:///system", "xen:///")
"""Connections of libvirt that use this socket."""
FIRST_FREE_PORT = 1024


@dataclass(frozen=True)
class RightFacts:
    """The rights of this user, and what the configuration asks for."""

    is_running: bool = False
    uid: int = 0
    capabilities: int = 0
    first_free_port: int = FIRST_FREE_PORT
    """net.ipv4.ip_unprivileged_port_start (ip(7))."""
    port: int = 53
    kinds: frozenset[HypervisorKind] = frozenset()
    """The kinds of the hypervisors that VMs are on."""
    wants_synjitsu: bool = False
    libvirt_is_closed: bool = False
    libvirt_is_absent: bool = False
    """A VM is on this machine's libvirt, which has no socket."""
    unsafe_directory: str = ""
    """Why the runtime directory is refused."""


def gather(suite: Suite) -> RightFacts:
    """Look at this process and at files."""
    settings = suite.settings
    capabilities, first_free_port = 0, FIRST_FREE_PORT
    with suppress(OSError):
        status = Path("/proc/self/status").read_text()
        capabilities = int(status.partition("CapEff:")[2].split()[0], 16)
    with suppress(OSError, ValueError):
        first_free_port = int(Path("/proc/sys/net/ipv4/ip_unprivileged_port_start").read_text())
    kinds = frozenset({settings.hypervisor.kind, *(kind_of(vm, settings) for vm in suite.vms)})
    unsafe = ""
    if settings.bus.directory.is_dir() and not suite.is_running:
        try:
            refuse_unsafe(settings.bus.directory)
        except SetupFault as fault:
            unsafe = str(fault)
    hypervisor = settings.hypervisor
    wants_libvirt = any(each.kind == "libvirt" and each.uri in HERE for each in hypervisor.all_connections)
    return RightFacts(
        is_running=suite.is_running,
        uid=os.geteuid(),
        capabilities=capabilities,
        first_free_port=first_free_port,
        port=settings.dns.port,
        kinds=kinds,
        wants_synjitsu=any(vm.is_armed for vm in suite.vms),
        libvirt_is_closed=wants_libvirt and LIBVIRT_SOCKET.exists() and not os.access(LIBVIRT_SOCKET, os.W_OK),
        libvirt_is_absent=wants_libvirt and not LIBVIRT_SOCKET.exists(),
        unsafe_directory=unsafe,
    )


def judge(facts: RightFacts) -> list[Finding]:
    """Find what this user may not do."""
    if facts.is_running:
        return []
    found = []
    if 0 < facts.port < facts.first_free_port and not _has(facts, CAP_NET_BIND_SERVICE):
        found.append(
            Finding(
                TOPIC,
                f"this user may not bind port {facts.port}, which is below {facts.first_free_port}",
                "Start the suite as root or by its systemd units, or set dns.port to another one.",
            )
        )
    if facts.wants_synjitsu and not (_has(facts, CAP_NET_RAW) and _has(facts, CAP_NET_ADMIN)):
        found.append(
            Finding(
                TOPIC,
                "VMs use Synjitsu, and this user has no right to its raw sockets (CAP_NET_RAW, CAP_NET_ADMIN)",
                "Start the suite as root or by its systemd units.",
            )
        )
    found += [
        Finding(TOPIC, f"hypervisor.kind = {kind} ({kind.about.needs_root_for}) needs root", "Start the suite as root.")
        for kind in sorted(facts.kinds)
        if facts.uid and kind.about.needs_root_for
    ]
    if facts.libvirt_is_closed:
        found.append(
            Finding(
                TOPIC,
                f"this user may not use libvirt's socket {LIBVIRT_SOCKET}",
                "Add the user to the group libvirt, or start the suite as root.",
            )
        )
    if facts.libvirt_is_absent:
        what = f"libvirt does not run on this machine: there is no {LIBVIRT_SOCKET}"
        found.append(Finding(TOPIC, what, "`systemctl start libvirtd`, or name another one in hypervisor.connect."))
    if facts.unsafe_directory:
        found.append(Finding(TOPIC, facts.unsafe_directory, "`jitsu up` refuses to run there until that is changed."))
    return found


def _has(facts: RightFacts, capability: int) -> bool:
    return bool(facts.capabilities >> capability & 1)
