"""Everything that can go wrong between two processes: one class per thing the caller can do.

Each class has a `code`, which is what travels in an envelope; `to_wire` and `from_wire` are the only
place where the two meet. A message says what happened, a hint what to do about it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping


class JitsuError(Exception):
    """The base of all errors here; never raised itself."""

    code: ClassVar[str] = "error"

    def __init__(
        self,
        message: str,
        *,
        hint: str = "",
        retry_after: float | None = None,
        details: Iterable[Mapping[str, str | None]] = (),
    ) -> None:
        """`hint` tells the operator what to do; `retry_after` is in seconds; `details` are for programs."""
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.retry_after = retry_after
        self.details = [dict(each) for each in details]

    def __str__(self) -> str:
        """Return the message, with the hint behind it."""
        return f"{self.message} ({self.hint})" if self.hint else self.message


class BadRequest(JitsuError):
    """The request can never be carried out; sending it again will not help."""

    code = "bad-request"


class MalformedMessage(BadRequest):
    """The bytes are not an envelope, are cut short, or have a value of the wrong type."""

    code = "malformed"


class WrongVersion(BadRequest):
    """The envelope is of a protocol version that this process does not speak."""

    code = "wrong-version"


class UnknownKind(BadRequest):
    """The envelope is sound, but nobody here answers messages of that kind."""

    code = "unknown-kind"


class NotFound(BadRequest):
    """The VM or path that was named does not exist."""

    code = "not-found"


class Invalid(BadRequest):
    """A configuration change was refused as a whole; the message lists every reason."""

    code = "invalid"


class Conflict(JitsuError):
    """What the request was based on has changed; look again, then decide."""

    code = "conflict"


class Refused(JitsuError):
    """A rule forbids it: the VM is not idle, is backing off, or must not be started."""

    code = "refused"


class Forbidden(Refused):
    """The caller's key does not allow that."""

    code = "forbidden"


class BootFailed(JitsuError):
    """The hypervisor could not start the VM, or the VM never came up."""

    code = "boot-failed"


class BackingOff(BootFailed):
    """Earlier boots failed and the next try is not due yet; `retry_after` says when."""

    code = "backing-off"


class Unavailable(JitsuError):
    """The other side cannot answer now; the same request may succeed later."""

    code = "unavailable"


class TimedOut(Unavailable):
    """No answer came before the deadline."""

    code = "timed-out"


class Bug(JitsuError):
    """The other side met an error that its code did not foresee."""

    code = "bug"


class SetupFault(JitsuError):
    """A process cannot run as it is configured, or on what it finds; it exits with `status` and this message."""

    code = "setup"
    status = 2


class LostEndpoint(SetupFault):
    """A process that runs has lost an endpoint of the bus for good; another one in its place may get it."""

    status = 1


class DamagedStore(SetupFault):
    """The state store's repository cannot be read whole."""

    status = 3


class UnwritableStore(SetupFault):
    """The state store's repository cannot be written to: full, read-only, or not ours."""

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
"""Of an error on the wire; what is beyond is cut. That is some hundred reasons, a line each."""
MAX_HINT_CHARACTERS = 1000
MAX_DETAIL_CHARACTERS = 2000
"""Of each value in `details`."""
MAX_DETAILS_CHARACTERS = 200_000
"""Of all; rows beyond are left out."""


def to_wire(error: JitsuError) -> dict[str, Any]:
    """Return the error as the body of an envelope, whose size is bounded whatever the error says."""
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
    """Return a text that is no longer than that; what does not fit is replaced by an ellipsis."""
    encodable = text.encode("utf-8", "replace").decode()  # half a surrogate pair cannot be sent
    return encodable if len(encodable) <= limit else encodable[: limit - 4] + " ..."


def from_wire(
    code: str,
    message: str,
    hint: str = "",
    retry_after: float | None = None,
    details: Iterable[Mapping[str, str | None]] = (),
) -> JitsuError:
    """Return the error that an envelope carries; an unknown code becomes `Bug`, and says so."""
    if code not in _BY_CODE:
        return Bug(f"{message} [unknown error code {code!r}]", hint=hint, retry_after=retry_after, details=details)
    return _BY_CODE[code](message, hint=hint, retry_after=retry_after, details=details)
