"""Puts the application together: the routes, the page, and what errors become."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import structlog
from fastapi import APIRouter, FastAPI
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException
from starlette.staticfiles import StaticFiles

from jitsu_protocol import __version__
from jitsu_protocol.model.errors import JitsuError
from jitsu_web.rules.problems import MEDIA_TYPE, HttpProblem, document, of_error
from jitsu_web.wires.gate import Gate
from jitsu_web.wires.routes import by_hand, config, events, session, suite, vms
from jitsu_web.wires.shapes import ProblemShape

if TYPE_CHECKING:
    from collections.abc import Sequence

    from starlette.requests import Request
    from starlette.responses import Response

    from jitsu_runtime.world import World
    from jitsu_web.wires.api import Api

PAGE = Path(__file__).parents[1] / "page"
"""The files of the page, as browsers get them."""
MAX_MISTAKES = 20

log = structlog.get_logger("web")

_PROBLEM: dict[str, Any] = {
    "description": "What is wrong, and what to do about it",
    "content": {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/ProblemShape"}}},
    "model": ProblemShape,
}


def make_app(world: World, api: Api, more: Sequence[APIRouter] = ()) -> Gate:
    """Return the application that uvicorn serves; `more` are routes of parts that it does not know."""
    app = FastAPI(
        title="Jitsu",
        version=__version__,
        docs_url=None,
        redoc_url=None,
        openapi_url="/api/v1/openapi.json",
        exception_handlers={
            HttpProblem: _of_problem,
            JitsuError: _of_jitsu_error,
            RequestValidationError: _of_mistakes,
            HTTPException: _of_http,
            Exception: _of_bug,
        },
    )
    app.state.api = api
    routes = APIRouter(prefix="/api/v1", responses={"default": _PROBLEM, 422: _PROBLEM})
    for each in (session, vms, by_hand, config, suite, events):
        routes.include_router(each.router)
    for further in more:
        routes.include_router(further)
    app.include_router(routes)
    app.mount("/", StaticFiles(directory=PAGE, html=True), name="page")
    return Gate(app, world, api)


def _answer(problem: HttpProblem) -> Response:
    return JSONResponse(document(problem), problem.status, problem.headers, MEDIA_TYPE)


async def _of_problem(_: Request, problem: Exception) -> Response:
    assert isinstance(problem, HttpProblem)
    return _answer(problem)


async def _of_jitsu_error(_: Request, error: Exception) -> Response:
    assert isinstance(error, JitsuError)
    return _answer(of_error(error))


async def _of_mistakes(_: Request, error: Exception) -> Response:
    """Return what is wrong with a request, without repeating what was sent: it may have been a secret."""
    assert isinstance(error, RequestValidationError)
    mistakes = [
        {"at": "/".join(map(str, each["loc"])), "reason": str(each["msg"])} for each in error.errors()[:MAX_MISTAKES]
    ]
    detail = "; ".join(f"{each['at']}: {each['reason']}" for each in mistakes)
    hint = "GET /api/v1/openapi.json describes every request"
    return _answer(HttpProblem(422, detail, hint, details=mistakes))


async def _of_http(_: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return _answer(HttpProblem(error.status_code, str(error.detail)).with_headers(**dict(error.headers or {})))


async def _of_bug(request: Request, error: Exception) -> Response:
    log.error("request failed unexpectedly", method=request.method, path=request.url.path, exc_info=error)
    return _answer(HttpProblem(500, "jitsu-web met an error that was not foreseen", "see the log of jitsu-web"))
