"""Where an engine listens, and which version of its API is spoken."""

from __future__ import annotations

import re
from dataclasses import dataclass
from urllib.parse import urlsplit

from jitsu_protocol.model.errors import SetupFault

DEFAULT_URI = "unix:///var/run/docker.sock"
OLDEST, NEWEST = (1, 40), (1, 47)
"""1.40 is of Docker 19.03 (2019). A newer engine than the newest that is known here is asked to speak that one."""
MAC_OF_ENDPOINT = (1, 44)
"""From here on a MAC address belongs to an endpoint, and no longer to the container (Docker 25.0, 2024)."""


@dataclass(frozen=True)
class Endpoint:
    """Where an engine listens."""

    socket: str = ""
    """Path of its Unix socket; empty if it listens on TCP."""
    base: str = "http://docker"
    """What its URLs begin with. The host of a URL means nothing on a Unix socket."""

    @property
    def uses_tls(self) -> bool:
        """Whether it is spoken to over TLS."""
        return self.base.startswith("https:")


def endpoint(uri: str, *, uses_tls: bool = False) -> Endpoint:
    """Parse `unix:///PATH`, `tcp://HOST:PORT` or `https://HOST:PORT`, "" for Docker's own socket; raises SetupFault."""
    uri = uri or DEFAULT_URI
    parts = urlsplit(uri)
    if parts.scheme == "unix" and parts.path.startswith("/") and not parts.netloc:
        return Endpoint(socket=parts.path)
    try:
        is_tcp = parts.scheme in ("tcp", "http", "https") and bool(parts.hostname) and parts.path in ("", "/")
        port = parts.port
    except ValueError:
        is_tcp, port = False, None
    if not is_tcp or parts.username or parts.query:
        raise SetupFault(
            f"hypervisor.connect: {uri!r} is not where an engine listens; "
            "expected something like unix:///var/run/docker.sock or tcp://10.0.0.2:2376"
        )
    secure = uses_tls or parts.scheme == "https"
    host = f"[{parts.hostname}]" if ":" in (parts.hostname or "") else parts.hostname
    return Endpoint(base=f"{'https' if secure else 'http'}://{host}:{port or (2376 if secure else 2375)}")


def api_version(answer: dict[str, object]) -> tuple[int, int]:
    """Return the version of the API that is to be spoken with an engine, by what it answers to /version."""
    newest, oldest = _version(answer.get("ApiVersion")), _version(answer.get("MinAPIVersion"))
    if newest < OLDEST:
        raise SetupFault(f"the engine is too old: it speaks {_text(newest)} of Docker's API; {_text(OLDEST)} is needed")
    if oldest > NEWEST:
        raise SetupFault(f"the engine is too new: it speaks {_text(oldest)} of Docker's API and later")
    return min(newest, NEWEST)


def _version(text: object) -> tuple[int, int]:
    found = re.fullmatch(r"([0-9]{1,4})\.([0-9]{1,4})", str(text))
    return (int(found[1]), int(found[2])) if found else (0, 0)


def _text(version: tuple[int, int]) -> str:
    return ".".join(map(str, version))


def is_podman(answer: dict[str, object]) -> bool:
    """Say whether an engine is Podman, by what it answers to /version."""
    parts = answer.get("Components")
    return isinstance(parts, list) and any(
        isinstance(part, dict) and "podman" in str(part.get("Name")).lower() for part in parts
    )
