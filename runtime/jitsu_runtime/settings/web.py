"""The section [web] of jitsu.toml."""

from __future__ import annotations

from pydantic import Field

from jitsu_protocol.model.vm_keys import Limit
from jitsu_runtime.settings.section import METRICS, Section
from jitsu_runtime.settings.values import HostHeaders, Listen, ListenAddress, Rate, WebAddress, WebListen

SECRET_FILE = "Only jitsu-web's user may be able to read it; a name without a slash is a credential of systemd."


class WebSettings(Section):
    """The HTTP API and the web page; jitsu-web runs only if `listen` is set."""

    listen: WebListen = Field(
        default_factory=WebAddress,
        description="Where the API and the page are: HOST:PORT, or unix:/PATH for a socket that trusts its peer's "
        "user; empty: nowhere, and jitsu-web is not run.",
    )
    certificate: str = Field("", description="File with the certificate and its chain, PEM; empty: plain HTTP.")
    key: str = Field("", description=f"File with the certificate's key, PEM. {SECRET_FILE}")
    insecure: bool = Field(
        False, description="Without a certificate: listen beyond loopback all the same, where tokens can be read."
    )
    hosts: HostHeaders = Field(
        default_factory=list,
        description="Further names by which browsers may call this server (the Host header); those of loopback and "
        "the address in `listen` are always allowed.",
    )
    directory: str = Field(
        "",
        description="Where jitsu-web keeps files of its own: the key of its sessions, events that are to be sent; "
        "empty: that of the unit, or one below bus.runtime_dir.",
    )
    request_rate: Rate = Field(
        50.0,
        description="Requests a second of one user, or of one client address without credentials; 0: any number.",
        json_schema_extra={"unit": "requests/s"},
    )
    request_burst: Limit = Field(
        200.0,
        description="Requests of one user, or of one client address without credentials, at once.",
        json_schema_extra={"unit": "requests"},
    )
    max_streams: int = Field(
        100,
        ge=1,
        le=10_000,
        description="Open pages and other readers of events at once; one user has at most half of them.",
    )
    metrics: Listen = Field(default_factory=ListenAddress, description=METRICS)


def web_faults(web: WebSettings) -> list[tuple[str, str, str]]:
    """Return why jitsu-web would not start with its settings: for each fault the key, the reason and what to do."""
    if not web.listen:
        return []
    if bool(web.certificate) != bool(web.key):
        missing, there = ("key", "certificate") if web.certificate else ("certificate", "key")
        return [(missing, f"is missing, though web.{there} is given", "TLS needs both")]
    if not web.certificate and not web.listen.is_loopback and not web.insecure:
        why = f"{web.listen} is not loopback, and without TLS tokens can be read on the way"
        what = "give web.certificate and web.key, or set web.insecure = true if plain HTTP is what you want"
        return [("listen", why, what)]
    return []
