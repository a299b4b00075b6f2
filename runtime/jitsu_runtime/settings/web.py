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
        "empty: below bus.runtime_dir.",
    )
    request_rate: Rate = Field(
        50.0,
        description="Requests a second of one client address; 0: any number.",
        json_schema_extra={"unit": "requests/s"},
    )
    request_burst: Limit = Field(
        200.0, description="Requests of one client address at once.", json_schema_extra={"unit": "requests"}
    )
    max_streams: int = Field(100, ge=1, le=10_000, description="Open pages and other readers of events at once.")
    metrics: Listen = Field(default_factory=ListenAddress, description=METRICS)
