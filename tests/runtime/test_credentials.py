"""Files with secrets: which file a setting means, and which files are refused."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from jitsu_protocol.model.errors import SetupFault
from jitsu_runtime.credentials import MAX_SECRET_BYTES, file_named, read_secret, secret_file

if TYPE_CHECKING:
    from pathlib import Path

SECRET = "d0a3e6f2-0000-4000-8000-00c0ffee0000"
SETTING = "hypervisor.pve.token_file"


def written(path: Path, content: bytes = SECRET.encode() + b"\n", mode: int = 0o600) -> str:
    path.touch(mode=0o600)
    path.write_bytes(content)
    path.chmod(mode)
    return str(path)


def test_a_secret_is_what_its_file_says_now(tmp_path: Path) -> None:
    named = written(tmp_path / "token")
    assert read_secret(named, SETTING, {}) == SECRET
    written(tmp_path / "token", b"another")
    assert read_secret(named, SETTING, {}) == "another"
    assert str(secret_file(named, SETTING, {})) == named


def test_a_name_without_a_slash_is_a_credential_of_systemd(tmp_path: Path) -> None:
    written(tmp_path / "pve", mode=0o440)  # as systemd does for a unit with User=: an ACL
    environ = {"CREDENTIALS_DIRECTORY": str(tmp_path)}
    assert read_secret("pve", SETTING, environ) == SECRET
    assert file_named("pve", SETTING, environ) == tmp_path / "pve"
    with pytest.raises(SetupFault, match=r"^hypervisor.pve.token_file: 'pve' is a credential of systemd, and this .*"):
        read_secret("pve", SETTING, {})
    for name in ("", ".", ".."):
        with pytest.raises(SetupFault, match="is not the name of a credential"):
            read_secret(name, SETTING, environ)


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o602, 0o644])
def test_a_secret_that_others_may_read_or_replace_is_refused(tmp_path: Path, mode: int) -> None:
    named = written(tmp_path / "token", mode=mode)
    for read in (read_secret, secret_file):
        with pytest.raises(SetupFault, match="others may read") as caught:
            read(named, SETTING, {})
        assert (caught.value.hint, SECRET in str(caught.value)) == (f"chmod 600 {named}", False)


def test_a_file_that_cannot_be_a_secret_is_refused_without_its_content(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo", 0o600)
    for path, content, reason in (
        (tmp_path / "none", None, "there is no file"),
        (tmp_path, None, "is not a file"),
        (tmp_path / "fifo", None, "is not a file"),
        (tmp_path / "empty", b"\n", "is empty"),
        (tmp_path / "binary", b"\xff" + SECRET.encode(), "is not text"),
        (tmp_path / "large", SECRET.encode() + b"x" * MAX_SECRET_BYTES, "has more than 65536 bytes"),
    ):
        if content is not None:
            written(path, content)
        with pytest.raises(SetupFault, match=reason) as caught:
            read_secret(str(path), SETTING, {})
        assert str(caught.value).startswith(f"{SETTING}: ")
        assert SECRET not in str(caught.value)
        assert caught.value.__cause__ is None
