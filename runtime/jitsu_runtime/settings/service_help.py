"""What --help and the manual page of each jitsu-SERVICE program have besides its settings."""

from __future__ import annotations

from dataclasses import dataclass

EXIT_STATUS = {
    "0": "A signal or the end of `jitsu up` stopped it.",
    "1": "It failed while it ran. A restart may help.",
    "2": "It cannot run as it is configured, or its command line is wrong; the message says why.",
    "3": "The store's repository is damaged (jitsu-store).",
    "4": "The store's repository cannot be written to (jitsu-store).",
}


@dataclass(frozen=True)
class ServiceHelp:
    """About one service."""

    what: str
    """What it does, to follow its name."""
    examples: tuple[tuple[str, str], ...]
    page: str
    check: str = ""
    """What --check of it does, if it has that."""


SERVICES = {
    "store": ServiceHelp(
        "keeps the state of Jitsu: what VMs there are, in a Git repository",
        (
            ("jitsu-store --path /var/lib/jitsu/store.git", "Keep the state in this repository, which is made if new."),
            ("jitsu-store --config /etc/jitsu/jitsu.toml", "Do as [store] of that file says."),
        ),
        "docs/explanation/store.md",
    ),
    "vmd": ServiceHelp(
        "starts, watches and stops virtual machines",
        (
            ("jitsu-vmd --kind libvirt --connect qemu:///system", "Drive the libvirt of this machine."),
            ("jitsu-vmd --kind mock", "Drive the mock hypervisor, which needs no privileges."),
        ),
        "docs/how-to/operate.md",
        "Have the hypervisors look at the VMs of that file, print as JSON what is wrong with them, and exit.",
    ),
    "dns": ServiceHelp(
        "answers DNS queries, and has the VM of a name started",
        (
            ("jitsu-dns --bind 192.0.2.1 --port 53", "Answer on one address of this machine."),
            ("jitsu-dns --replica london --zones example.org", "Be the replica london, and answer for a whole zone."),
        ),
        "docs/explanation/dns.md",
        "Print as JSON what is wrong with [dns] of that file, and exit.",
    ),
    "synjitsu": ServiceHelp(
        "keeps the first packets to VMs that boot, and gives them to the VM when it is up",
        (
            ("jitsu-synjitsu --bridges virbr0", "Listen on this bridge only."),
            ("jitsu-synjitsu --config /etc/jitsu/jitsu.toml", "Do as [synjitsu] of that file says."),
        ),
        "docs/explanation/synjitsu.md",
    ),
    "reaper": ServiceHelp(
        "stops VMs that nobody uses",
        (
            ("jitsu-reaper --drain-limit 5", "Give dns replicas 5 seconds to agree that a VM is stopped."),
            ("jitsu-reaper --metrics 127.0.0.1:9105", "Serve metrics for Prometheus there."),
        ),
        "docs/how-to/operate.md",
    ),
    "web": ServiceHelp(
        "serves the HTTP API and the web page",
        (
            ("jitsu-web --listen 127.0.0.1:8080", "Serve programs and browsers of this machine."),
            ("jitsu-web --listen unix:/run/jitsu/web.http", "Serve local users, who need no token."),
        ),
        "docs/how-to/web.md",
    ),
}
