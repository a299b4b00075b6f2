"""How the store authenticates to other repositories: with the keys that its user's ssh(1) would offer."""

from __future__ import annotations

import getpass
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pygit2
from pygit2.enums import CredentialType

if TYPE_CHECKING:
    from collections.abc import Iterator


class SshCredentials(pygit2.RemoteCallbacks):
    """Which keys this process offers to another repository, and which hosts it trusts."""

    def __init__(self) -> None:
        super().__init__()
        self._untried: Iterator[Any] | None = None

    def certificate_check(self, certificate: None, valid: bool, host: bytes) -> bool:
        """Trust only hosts that known_hosts or the certificate authorities vouch for."""
        if not valid:  # pygit2 by itself trusts every ssh host
            name, known = host.decode("utf-8", "replace"), _directory() / "known_hosts"
            raise pygit2.GitError(f"the key of {name} is not known (ssh to it once, or add it to {known})")
        return True

    def credentials(self, url: str, username_from_url: str | None, allowed_types: CredentialType) -> Any:
        """Return the next key; libgit2 asks until one is accepted."""
        if allowed_types & CredentialType.USERNAME:
            return pygit2.Username(username_from_url or getpass.getuser())
        if self._untried is None:
            self._untried = _keys(username_from_url or getpass.getuser())
        key = next(self._untried, None) if allowed_types & CredentialType.SSH_KEY else None
        if key is None:
            raise pygit2.GitError(f"no key of the ssh agent (ssh-add -l lists them) or in {_directory()} was accepted")
        return key


def _directory() -> Path:
    return Path.home() / ".ssh"


def _keys(user: str) -> Iterator[Any]:
    """Yield what ssh(1) would offer by itself. A key with a passphrase can only be used by the agent."""
    if "SSH_AUTH_SOCK" in os.environ:
        yield pygit2.KeypairFromAgent(user)
    for name in ("id_rsa", "id_ecdsa", "id_ed25519"):
        key = _directory() / name
        if os.access(key, os.R_OK):
            yield pygit2.Keypair(user, f"{key}.pub", str(key), "")
