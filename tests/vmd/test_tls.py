"""What a client of a hypervisor needs for TLS."""

from __future__ import annotations

import ssl
from typing import TYPE_CHECKING

import pytest

from jitsu_protocol.model.errors import SetupFault
from jitsu_protocol.model.hypervisors import Credentials, HypervisorConnection, HypervisorKind
from jitsu_vmd.hypervisors.shared.tls import client_context, pinned

if TYPE_CHECKING:
    from pathlib import Path


def connection(**credentials: str) -> HypervisorConnection:
    return HypervisorConnection("far", HypervisorKind.XAPI, "https://192.0.2.1", Credentials(**credentials))


def test_a_fingerprint_may_have_colons_and_takes_the_place_of_the_authorities() -> None:
    text = "AB:" * 31 + "ab"
    assert pinned(connection(fingerprint=text)) == pinned(connection(fingerprint="ab" * 32)) == b"\xab" * 32
    assert client_context(connection(fingerprint=text)).verify_mode == ssl.CERT_NONE
    plain = client_context(connection())
    assert (pinned(connection()), plain.verify_mode, plain.check_hostname) == (b"", ssl.CERT_REQUIRED, True)


@pytest.mark.parametrize("text", ["ab" * 20, "x" * 64, "ab" * 33, ":", " "])
def test_what_is_not_a_fingerprint_is_refused_and_never_counts_as_none(text: str) -> None:
    for check in (pinned, client_context):
        with pytest.raises(SetupFault, match=r"hypervisor\.far.fingerprint: .* is not a SHA-256"):
            check(connection(fingerprint=text))


def test_files_that_cannot_be_used_are_named_with_their_setting(tmp_path: Path) -> None:
    empty, key = tmp_path / "empty.pem", tmp_path / "key.pem"
    empty.touch()
    key.touch(mode=0o600)
    for credentials, reason in (
        ({"ca_file": str(tmp_path / "none")}, "hypervisor.far.ca_file: .*none cannot be used"),
        ({"ca_file": str(empty)}, "hypervisor.far.ca_file: .*empty.pem cannot be used"),
        ({"certificate_file": str(empty), "key_file": str(key)}, "are not a certificate and its key"),
        ({"certificate_file": str(empty), "key_file": str(empty)}, "hypervisor.far.key_file: others may read"),
    ):
        with pytest.raises(SetupFault, match=reason):
            client_context(connection(**credentials))
