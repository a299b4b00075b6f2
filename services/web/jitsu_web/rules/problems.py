"""Errors as problem documents (RFC 9457), with our hint as a member of its own."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from jitsu_protocol.model import errors

MEDIA_TYPE = "application/problem+json"
TYPES = "urn:jitsu:error:"


class HttpProblem(Exception):
    """A request that is answered with a problem document."""

    def __init__(self, status: int, detail: str, hint: str = "", **more: Any) -> None:
        """`more` are further members of the document."""
        super().__init__(detail)
        self.status, self.detail, self.hint, self.more = status, detail, hint, more
        self.headers: dict[str, str] = {}

    def with_headers(self, **headers: str) -> HttpProblem:
        """Return this, which then has these headers too; an underscore in a name is a hyphen."""
        self.headers |= {name.replace("_", "-"): value for name, value in headers.items()}
        return self


@dataclass(frozen=True)
class _Title:
    status: int
    title: str


_BY_ERROR: tuple[tuple[type[errors.JitsuError], _Title], ...] = (
    (errors.NotFound, _Title(404, "There is no such thing")),
    (errors.Invalid, _Title(422, "The configuration could not run")),
    (errors.UnknownKind, _Title(501, "The service is too old for this")),
    (errors.BadRequest, _Title(400, "The request makes no sense")),
    (errors.Conflict, _Title(409, "Something else has changed in the meantime")),
    (errors.Forbidden, _Title(403, "jitsu-web may not do this")),
    (errors.Refused, _Title(409, "A rule forbids this now")),
    (errors.BackingOff, _Title(503, "The VM waits before it is tried again")),
    (errors.BootFailed, _Title(502, "The VM could not be started")),
    (errors.TimedOut, _Title(503, "A service does not answer")),
    (errors.Unavailable, _Title(503, "A service does not answer")),
)
"""A class stands before its base class."""

_TITLES = {
    400: "The request makes no sense",
    401: "Credentials are needed",
    403: "This role may not do this",
    404: "There is no such thing",
    405: "There is no such method here",
    406: "This cannot be sent in the form that was asked for",
    409: "Something else has changed in the meantime",
    411: "The length of the body is needed",
    412: "Something else has changed in the meantime",
    413: "The body is too long",
    415: "The body has an unknown form",
    421: "This server is not called so",
    422: "The body makes no sense",
    428: "A precondition is needed",
    429: "Too many requests",
    500: "jitsu-web failed",
    501: "The service is too old for this",
    503: "A service does not answer",
}


def of_error(error: errors.JitsuError) -> HttpProblem:
    """Return the problem that an error of one of our services is."""
    found = next((title for kind, title in _BY_ERROR if isinstance(error, kind)), _Title(502, "A service failed"))
    hint = error.hint
    if found.status == 503 and not hint:
        hint = "try again; GET /api/v1/services says which service does not answer"
    more: dict[str, Any] = {"code": error.code}
    if error.details:
        more["details"] = error.details
    problem = HttpProblem(found.status, error.message, hint, title=found.title, **more)
    if error.retry_after is not None:
        problem.with_headers(Retry_After=str(max(1, round(error.retry_after))))
    elif found.status == 503:
        problem.with_headers(Retry_After="1")
    return problem


def document(problem: HttpProblem) -> dict[str, Any]:
    """Return the problem as the members of its JSON object."""
    more = dict(problem.more)
    title = more.pop("title", _TITLES.get(problem.status, "The request failed"))
    return {
        "type": TYPES + str(more.get("code", problem.status)),
        "title": title,
        "status": problem.status,
        "detail": problem.detail,
        "hint": problem.hint,
        **more,
    }
