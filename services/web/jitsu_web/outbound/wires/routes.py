"""The routes of events for others: which targets there are, and the dead letters."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Path
from pydantic import Field

from jitsu_web.outbound.wires.outbox import EventOutbox
from jitsu_web.rules.problems import HttpProblem
from jitsu_web.wires.api import TheCaller
from jitsu_web.wires.shapes import Shape

LetterId = Annotated[str, Path(pattern=r"^[0-9a-f]{1,64}$")]


class TargetShape(Shape):
    """Somebody who gets events."""

    name: str = Field(description="The name of a webhook, `mqtt` or `notify`.")
    waiting: int = Field(description="Events that it does not have yet.")
    sending: int = Field(description="Events that are under way to it now.")


class DeadLetterShape(Shape):
    """An event that some target does not take."""

    id: str
    ts: float
    kind: str
    subject: str
    data: dict[str, Any]
    reasons: dict[str, str] = Field(description="Why each target has not taken it.")


def routes_of(outbox: EventOutbox) -> APIRouter:
    """Return the routes of an outbox."""
    router = APIRouter(prefix="/events", tags=["events"])

    @router.get("/targets")
    async def list_targets(_: TheCaller) -> list[TargetShape]:
        """List who gets events."""
        return [
            TargetShape(name=name, waiting=route.target.waiting(), sending=route.target.sending)
            for name, route in outbox.routes.items()
        ]

    @router.get("/dead")
    async def list_dead_letters(_: TheCaller) -> list[DeadLetterShape]:
        """List the latest thousand events that some target has not taken, the oldest of them first."""
        return [
            DeadLetterShape(
                id=entry.notice.id,
                ts=entry.notice.ts,
                kind=entry.notice.kind,
                subject=entry.notice.subject,
                data=dict(entry.notice.data),
                reasons=entry.dead,
            )
            for entry in outbox.journal.dead()[-1000:]
        ]

    @router.post("/dead/{id}/retry", status_code=204)
    async def retry_dead_letter(_: TheCaller, id: LetterId) -> None:
        """Send a dead letter once more to each target that has not taken it."""
        if not outbox.again(id):
            raise _no_such_letter(id)

    @router.delete("/dead/{id}", status_code=204)
    async def discard_dead_letter(_: TheCaller, id: LetterId) -> None:
        """Forget a dead letter."""
        if not outbox.discard(id):
            raise _no_such_letter(id)

    return router


def _no_such_letter(id: str) -> HttpProblem:
    return HttpProblem(404, f"no dead letter has the id {id}", "GET /api/v1/events/dead lists them")
