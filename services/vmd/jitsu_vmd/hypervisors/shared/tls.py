"""How a connection of TLS is made to a hypervisor: whom we trust, and with which certificate we log in."""

from __future__ import annotations

import hashlib
import re
import ssl
from typing import TYPE_CHECKING

from jitsu_protocol.model.errors import SetupFault
from jitsu_runtime.credentials import file_named, secret_file

if TYPE_CHECKING:
    from jitsu_protocol.model.hypervisors import HypervisorConnection


def client_context(connection: HypervisorConnection) -> ssl.SSLContext:
    """Return what a client needs for TLS; raises SetupFault.

    If a fingerprint is pinned, the handshake fails with any other certificate, whoever vouches for that. (What
    aiohttp.Fingerprint does instead ignores the context, and with it the client's own certificate.)
    """
    own = connection.credentials
    try:
        ca_file = file_named(own.ca_file, connection.setting("ca_file")) if own.ca_file else None
        context = ssl.create_default_context(cafile=ca_file)
    except OSError as error:
        raise SetupFault(f"{connection.setting('ca_file')}: {own.ca_file} cannot be used: {error}") from None
    if fingerprint := pinned(connection):
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        context.sslobject_class = _object_class(fingerprint)  # asyncio, uvloop
        context.sslsocket_class = _socket_class(fingerprint)  # http.client
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


def _object_class(fingerprint: bytes) -> type[ssl.SSLObject]:
    class PinnedObject(ssl.SSLObject):
        """A connection over buffers that only one certificate may answer."""

        def do_handshake(self) -> None:
            """Fail with any other certificate, before anything is sent."""
            super().do_handshake()
            _compare(self.getpeercert(binary_form=True), fingerprint)

    return PinnedObject


def _socket_class(fingerprint: bytes) -> type[ssl.SSLSocket]:
    class PinnedSocket(ssl.SSLSocket):
        """A connection over a socket that only one certificate may answer."""

        def do_handshake(self, block: bool = False) -> None:
            """Fail with any other certificate, before anything is sent."""
            super().do_handshake(block)
            _compare(self.getpeercert(binary_form=True), fingerprint)

    return PinnedSocket


def _compare(certificate: bytes | None, fingerprint: bytes) -> None:
    found = hashlib.sha256(certificate or b"").digest()
    if found != fingerprint:
        raise ssl.SSLCertVerificationError(
            f"the server's certificate has the fingerprint {found.hex()}, which is not the one that is pinned"
        )


def _no_passphrase() -> str:
    """Keep OpenSSL from asking for one on the terminal (ssl.SSLContext.load_cert_chain)."""
    return ""
