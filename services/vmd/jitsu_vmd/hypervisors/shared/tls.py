"""How a connection of TLS is made to a hypervisor: whom we trust, and with which certificate we log in."""

from __future__ import annotations

import re
import ssl
from typing import TYPE_CHECKING

from jitsu_protocol.model.errors import SetupFault
from jitsu_runtime.credentials import file_named, secret_file

if TYPE_CHECKING:
    from jitsu_protocol.model.hypervisors import HypervisorConnection


def client_context(connection: HypervisorConnection) -> ssl.SSLContext:
    """Return what a client needs for TLS; raises SetupFault.

    If a fingerprint is pinned, the context accepts every certificate: the caller must compare the server's with
    `pinned` before it sends anything (aiohttp.Fingerprint does that).
    """
    own = connection.credentials
    try:
        ca_file = file_named(own.ca_file, connection.setting("ca_file")) if own.ca_file else None
        context = ssl.create_default_context(cafile=ca_file)
    except OSError as error:
        raise SetupFault(f"{connection.setting('ca_file')}: {own.ca_file} cannot be used: {error}") from None
    if pinned(connection):
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    if own.certificate_file or own.key_file:
        certificate = file_named(own.certificate_file, connection.setting("certificate_file"))
        key = secret_file(own.key_file, connection.setting("key_file"))
        try:
            context.load_cert_chain(certificate, key, password=_no_passphrase)
        except OSError as error:
            what = f"{own.certificate_file} and {own.key_file} are not a certificate and its key"
            raise SetupFault(f"{connection.setting('certificate_file')}: {what}: {error}") from None
    return context


def pinned(connection: HypervisorConnection) -> bytes:
    """Return the SHA-256 of the only certificate that the server may show, b"" if any valid one will do.

    Raises SetupFault. OpenSSL, LXD and Proxmox write it with colons between the octets, or without.
    """
    text = connection.credentials.fingerprint
    digits = text.replace(":", "")
    if text and not re.fullmatch("[0-9A-Fa-f]{64}", digits):
        raise SetupFault(
            f"{connection.setting('fingerprint')}: {text!r} is not a SHA-256; expected 64 hexadecimal digits",
            hint="`openssl x509 -noout -fingerprint -sha256 -in CERTIFICATE` shows it",
        )
    return bytes.fromhex(digits)


def _no_passphrase() -> str:
    """Keep OpenSSL from asking for one on the terminal (ssl.SSLContext.load_cert_chain)."""
    return ""
