"""Where Proxmox VE listens, and the token with which vmd logs in."""

from __future__ import annotations

import re

from jitsu_protocol.model.errors import SetupFault
from jitsu_vmd.hypervisors.shared.rules.urls import https_url

PORT = 8006
"""pveproxy(8)."""
PREFIX = "PVEAPIToken="


def urls_of(connect: str, setting: str) -> tuple[str, ...]:
    """Return https://HOST:PORT of each node that may be asked; raises SetupFault.

    `connect` is https://HOST or https://HOST:PORT; several nodes of one cluster are separated by semicolons.
    """
    urls = tuple(_url(text, setting) for text in connect.split(";") if text)
    return urls or (_url("", setting),)


def _url(text: str, setting: str) -> str:
    try:
        return https_url(text, PORT)
    except ValueError:
        wrong = f"{setting}: {text[:100]!r} is not an address of Proxmox VE"
        raise SetupFault(wrong, hint=f"use https://HOST:{PORT}") from None


def authorization(user: str, secret: str, setting: str) -> str:
    """Return the value of the header; raises SetupFault, without the secret.

    The file has the whole token, USER@REALM!ID=UUID, or the UUID alone; then `user` is USER@REALM!ID.
    """
    token = secret.strip().removeprefix(PREFIX)
    if "=" not in token:
        token = f"{user}={token}"
    if not re.fullmatch(
        r"[^\s:/@!=]{1,60}@[A-Za-z][\w.-]{1,31}![A-Za-z][\w.-]{1,127}=[0-9A-Fa-f-]{36}", token, re.ASCII
    ):
        raise SetupFault(
            f"{setting}: the file does not hold a token of Proxmox VE",
            hint="expected USER@REALM!ID=UUID on one line, or the UUID alone and USER@REALM!ID in `user`",
        )
    return PREFIX + token
