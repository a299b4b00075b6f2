"""Where a server listens: the setting `hypervisor.connect` of kinds lxd and incus.

""                       the usual socket of this host
/run/incus/unix.socket   that socket (unix:///run/incus/unix.socket is the same)
https://HOST[:PORT]      a server elsewhere; several members of one cluster are separated by semicolons
...?project=NAME         instances of that project
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from urllib.parse import parse_qs

from jitsu_protocol.model.errors import SetupFault
from jitsu_vmd.hypervisors.shared.rules.urls import https_url

PORT = 8443
"""LXD's and Incus' own (core.https_address)."""
USUAL_SOCKETS = {
    "lxd": ("/var/snap/lxd/common/lxd/unix.socket", "/var/lib/lxd/unix.socket"),
    "incus": ("/run/incus/unix.socket", "/var/lib/incus/unix.socket"),
}
DIRECTORIES = {"lxd": "LXD_DIR", "incus": "INCUS_DIR"}
"""The variable that names the directory of a server's socket."""


@dataclass(frozen=True)
class Address:
    """Where a server listens."""

    socket: str = ""
    """Its unix socket; empty for https."""
    urls: tuple[str, ...] = ()
    """https://HOST:PORT of each member that may be asked."""
    project: str = ""

    def __str__(self) -> str:
        """Return it as an operator knows it."""
        project = f"?project={self.project}" if self.project else ""
        return (self.socket or ";".join(self.urls)) + project


def address_of(connect: str, usual: str) -> Address:
    """Read the setting; `usual` is the socket of this host. Raises SetupFault."""
    text, _, query = connect.partition("?")
    project = parse_qs(query).get("project", [""])[-1]
    if project and not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,62}", project):
        raise SetupFault(f"hypervisor.connect: {project[:100]!r} is not the name of a project")
    if not text or text.startswith(("/", "unix://")):
        return Address(socket=text.removeprefix("unix://") or usual, project=project)
    return Address(urls=tuple(url_of(each) for each in text.split(";") if each), project=project)


def url_of(text: str) -> str:
    """Return the URL of a member, with its port; raises SetupFault."""
    try:
        return https_url(text, PORT)
    except ValueError:
        raise SetupFault(
            f"hypervisor.connect: {text[:100]!r} is not an address of LXD",
            hint="use the path of its socket, or https://HOST:8443",
        ) from None
