"""Keys of the bus on tcp: whether they are there, belong together, and are closed to others."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from jitsu.doctor.finding import Finding, note
from jitsu.keys import BEFORE
from jitsu_protocol.wire.permissions import ROLES
from jitsu_runtime.bus import libzmq

if TYPE_CHECKING:
    from pathlib import Path

    from jitsu.doctor.finding import Suite

TOPIC = "keys"


@dataclass(frozen=True)
class Secret:
    """A secret key of this machine."""

    role: str
    mode: int
    is_known: bool | None
    """Whether its public half is in public/; None if it cannot be read."""


@dataclass(frozen=True)
class KeyFacts:
    """KeyFacts about this machine; `directory` is "" if no endpoint is on tcp."""

    directory: str = ""
    is_there: bool = False
    plain_endpoints: tuple[str, ...] = ()
    """Endpoints on tcp without keys, beyond loopback: allow_plain_tcp is set."""
    secrets: tuple[Secret, ...] = ()
    public: tuple[str, ...] = ()


def gather(suite: Suite) -> KeyFacts:
    """Read the directory."""
    bus = suite.settings.bus
    plain = () if bus.keys else tuple(f"bus.{key}" for key, each in bus.endpoints() if not each.is_loopback)
    directory = bus.keys_directory
    if directory is None:
        return KeyFacts(plain_endpoints=plain)
    public = {}
    for path in sorted((directory / "public").glob("*.key")):
        public[path.name.removesuffix(".key")] = _load(path)
    secrets = []
    for role in ROLES:
        path = directory / f"{role}.key_secret"
        try:
            mode = path.stat().st_mode & 0o777
        except OSError:
            continue
        own = _load(path)
        secrets.append(Secret(role, mode, None if own is None else own in public.values()))
    return KeyFacts(str(directory), directory.is_dir(), plain, tuple(secrets), tuple(public))


def _load(path: Path) -> bytes | None:
    try:
        return libzmq.public_key_of(path)
    except (OSError, ValueError):
        return None


def judge(facts: KeyFacts) -> list[Finding]:
    """Find keys that do not work, or do not protect."""
    found = []
    if facts.plain_endpoints:
        what = f"{', '.join(dict.fromkeys(facts.plain_endpoints))}: what is sent can be read and forged on the way"
        found.append(note(TOPIC, what, "`jitsu keys init DIRECTORY`, and set bus.keys to that directory everywhere."))
    if not facts.directory:
        return found
    if not facts.is_there:
        return [*found, Finding(TOPIC, f"there is no directory {facts.directory}", _init(facts))]
    by_role = {each.role: each for each in facts.secrets}
    if "operator" not in by_role:
        what = f"{facts.directory} has no key for operators, so no command reaches the suite from here"
        found.append(Finding(TOPIC, what, f"Copy operator.key_secret there, or {_init(facts)}"))
    for secret in facts.secrets:
        path = f"{facts.directory}/{secret.role}.key_secret"
        if secret.mode & 0o077:
            found.append(Finding(TOPIC, f"others may read {path} (mode {secret.mode:04o})", f"`chmod 600 {path}`"))
        if secret.is_known is False:
            what = f"the public half of {path} is not in {facts.directory}/public, so others refuse it"
            found.append(
                Finding(TOPIC, what, f"`jitsu keys rotate {facts.directory} {secret.role}`, and copy public/.")
            )
    for name in facts.public:
        if name.endswith(f".{BEFORE}"):
            what = f"the key {name}, which was rotated, is still accepted"
            found.append(
                note(TOPIC, what, f"`jitsu keys drop {facts.directory} {name}` when all machines have the new one.")
            )
    return found


def _init(facts: KeyFacts) -> str:
    return f"`jitsu keys init {facts.directory}` makes one."
