"""Which keys another repository is offered, and in which order."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pygit2
import pytest
from pygit2.enums import CredentialType

from jitsu_store.wires.credentials import SshCredentials

if TYPE_CHECKING:
    from pathlib import Path

URL = "ssh://backup.example.org/srv/jitsu.git"


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("LOGNAME", "jitsu-store")
    monkeypatch.delenv("SSH_AUTH_SOCK", raising=False)
    (tmp_path / ".ssh").mkdir()
    return tmp_path


def test_only_hosts_that_are_known_are_spoken_to(home: Path) -> None:
    assert SshCredentials().certificate_check(None, True, b"example.org")
    with pytest.raises(pygit2.GitError, match=f"the key of example.org is not known .*{home}/.ssh/known_hosts"):
        SshCredentials().certificate_check(None, False, b"example.org")


def test_the_agents_keys_then_those_of_the_directory_each_once(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSH_AUTH_SOCK", "/run/agent")
    for name in ("id_ed25519", "id_rsa", "id_other"):
        (home / ".ssh" / name).touch()
    credentials = SshCredentials()
    agent, rsa, ed25519 = (credentials.credentials(URL, "git", CredentialType.SSH_KEY) for _ in range(3))
    assert agent.credential_tuple == ("git", None, None, None)
    assert rsa.credential_tuple[2] == f"{home}/.ssh/id_rsa"
    assert ed25519.credential_tuple == ("git", f"{home}/.ssh/id_ed25519.pub", f"{home}/.ssh/id_ed25519", "")
    with pytest.raises(pygit2.GitError, match="no key of the ssh agent"):
        credentials.credentials(URL, "git", CredentialType.SSH_KEY)


def test_nobody_is_asked_for_a_password(home: Path) -> None:
    (home / ".ssh" / "id_rsa").touch()
    with pytest.raises(pygit2.GitError, match="no key of the ssh agent"):
        SshCredentials().credentials(URL, "git", CredentialType.USERPASS_PLAINTEXT)


@pytest.mark.usefixtures("home")
def test_the_services_own_user_unless_another_is_named() -> None:
    assert SshCredentials().credentials(URL, None, CredentialType.USERNAME).credential_tuple == ("jitsu-store",)
    assert SshCredentials().credentials(URL, "git", CredentialType.USERNAME).credential_tuple == ("git",)
