"""Everything that can go wrong between two processes: one class for each thing that the caller can do about it.

Each class has a `code`, which stands for it in an envelope; only `to_wire` and `from_wire` translate between the two.
The message of an error says what is wrong, and its hint says what to do about it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping


class JitsuError(Exception):
    """The base class of all errors; only its subclasses are raised."""

    code: ClassVar[str] = "error"

    def __init__(
        self,
        message: str,
        *,
        hint: str = "",
        retry_after: float | None = None,
        details: Iterable[Mapping[str, str | None]] = (),
    ) -> None:
        """`hint` is advice for the operator, `retry_after` a time in seconds, and `details` are for programs."""
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.retry_after = retry_after
        self.details = [dict(each) for each in details]

    def __str__(self) -> str:
        """Return the message, with the hint behind it."""
        return f"{self.message} ({self.hint})" if self.hint else self.message


class BadRequest(JitsuError):
    """The request cannot be carried out as it is; sending it again will not help."""

    code = "bad-request"


class MalformedMessage(BadRequest):
    """The bytes are not an envelope, or are cut short, or a value has the wrong type."""

    code = "malformed"


class WrongVersion(BadRequest):
    """The envelope has a protocol version that this process does not understand."""

    code = "wrong-version"


class UnknownKind(BadRequest):
    """The envelope is well formed, but this process does not answer messages of its kind."""

    code = "unknown-kind"


class NotFound(BadRequest):
    """The VM or the path in the request does not exist."""

    code = "not-found"


class Invalid(BadRequest):
    """A configuration change was refused as a whole; the message lists every reason."""

    code = "invalid"


class Conflict(JitsuError):
    """The state that the request was based on has changed; read it again before deciding."""

    code = "conflict"


class Refused(JitsuError):
    """A rule forbids the request now: the VM is in use, for example, or backs off."""

    code = "refused"


class Forbidden(Refused):
    """The role of the caller's key may not send this request."""

    code = "forbidden"


class BootFailed(JitsuError):
    """The hypervisor could not start the VM, or the VM never came up."""

    code = "boot-failed"


class BackingOff(BootFailed):
    """Earlier boots have failed, and the next try is due in `retry_after` seconds."""

    code = "backing-off"


class Unavailable(JitsuError):
    """The other process cannot answer now; the same request may succeed later."""

    code = "unavailable"


class TimedOut(Unavailable):
    """No reply came before the deadline."""

    code = "timed-out"


class Bug(JitsuError):
    """The other process met an error that its code did not foresee."""

    code = "bug"


class SetupFault(JitsuError):
    """A process cannot run with its configuration, or on this machine; it prints this and exits with `status`."""

    code = "setup"
    status = 2


class LostEndpoint(SetupFault):
    """A running process has lost an endpoint of the bus for good; after a restart it may get it back."""

    status = 1


class DamagedStore(SetupFault):
    """The store's repository is damaged: a part of it cannot be read."""

    status = 3


class UnwritableStore(SetupFault):
    """The store's repository cannot be written to: the disk is full or read-only, or belongs to another user."""

    status = 4


_BY_CODE: dict[str, type[JitsuError]] = {
    each.code: each
    for each in (
        BadRequest,
        MalformedMessage,
        WrongVersion,
        UnknownKind,
        NotFound,
        Invalid,
        Conflict,
        Refused,
        Forbidden,
        BootFailed,
        BackingOff,
        Unavailable,
        TimedOut,
        Bug,
    )
}


MAX_MESSAGE_CHARACTERS = 20_000
"""Longer messages are cut on the wire. This is enough for a hundred reasons of one line each."""
MAX_HINT_CHARACTERS = 1000
MAX_DETAIL_CHARACTERS = 2000
"""The limit for each value in `details`."""
MAX_DETAILS_CHARACTERS = 200_000
"""The limit for all rows of `details` together; further rows are left out."""


def to_wire(error: JitsuError) -> dict[str, Any]:
    """Return the error as the body of an envelope, whose size is bounded."""
    details: list[dict[str, str | None]] = []
    left = MAX_DETAILS_CHARACTERS
    for row in error.details:
        cut = {key: None if value is None else _cut(value, MAX_DETAIL_CHARACTERS) for key, value in row.items()}
        left -= sum(len(key) + len(value or "") for key, value in cut.items())
        if left < 0:
            break
        details.append(cut)
    return {
        "code": error.code,
        "message": _cut(error.message, MAX_MESSAGE_CHARACTERS),
        "hint": _cut(error.hint, MAX_HINT_CHARACTERS),
        "retry_after": error.retry_after,
        "details": details,
    }


def _cut(text: str, limit: int) -> str:
    """Return the text, cut to `limit` characters and ending with an ellipsis if it was longer."""
    encodable = text.encode("utf-8", "replace").decode()  # half a surrogate pair cannot be sent
    return encodable if len(encodable) <= limit else encodable[: limit - 4] + " ..."


def from_wire(
    code: str,
    message: str,
    hint: str = "",
    retry_after: float | None = None,
    details: Iterable[Mapping[str, str | None]] = (),
) -> JitsuError:
    """Return the error in an envelope; one with an unknown code becomes a `Bug` that names the code."""
    if code not in _BY_CODE:
        return Bug(f"{message} [unknown error code {code!r}]", hint=hint, retry_after=retry_after, details=details)
    return _BY_CODE[code](message, hint=hint, retry_after=retry_after, details=details)
