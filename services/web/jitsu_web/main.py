"""jitsu-web: settings -> wires -> run."""

from __future__ import annotations

import jitsu_runtime.lean  # noqa: F401  before all that loads structlog

# isort: split

import asyncio
import secrets
from typing import TYPE_CHECKING

from jitsu_protocol.model.errors import SetupFault
from jitsu_runtime.service import run
from jitsu_web.outbound.wires.compose import make_outbox
from jitsu_web.outbound.wires.routes import routes_of
from jitsu_web.rules.places import StreamPlaces
from jitsu_web.rules.sessions import PageSessions
from jitsu_web.wires.api import Api
from jitsu_web.wires.app import make_app
from jitsu_web.wires.asking import Asker
from jitsu_web.wires.commits import CommitWatch
from jitsu_web.wires.credentials import FollowedTokens
from jitsu_web.wires.files import OwnFiles
from jitsu_web.wires.health import SuiteHealth
from jitsu_web.wires.live import Live
from jitsu_web.wires.serving import context_of, listening_socket, serve

if TYPE_CHECKING:
    from jitsu_runtime.world import World


async def start(world: World) -> None:
    """Bind the address, begin to follow the others, then serve."""
    settings = world.settings.web
    if not settings.listen:
        raise SetupFault(
            "web.listen is empty, so jitsu-web has nothing to do",
            hint='set listen = "127.0.0.1:8080" in [web] of jitsu.toml',
        )
    context = context_of(settings)
    bound = listening_socket(settings.listen)
    files = OwnFiles.of(world.settings)
    live = Live(world, epoch=secrets.token_hex(4))
    outbox = make_outbox(world, live, files.directory)
    tokens = FollowedTokens(world, live.store)
    asker = Asker(world, live)
    health = SuiteHealth(world, live.hub, live.store, live.vmds, asker.reaper)
    sessions = PageSessions(files.session_key())
    defaults = world.settings.defaults.as_texts()
    places = StreamPlaces(settings.max_streams)
    api = Api(live, tokens.table, sessions, world.clock, settings, asker, health, defaults, places)
    app = make_app(world, api, [routes_of(outbox)])
    stop = asyncio.Event()
    stopped = asyncio.Event()

    async def serving() -> None:
        await serve(app, bound, context, stop)
        stopped.set()

    async def stopping() -> None:
        live.hub.close()
        stop.set()
        await stopped.wait()

    outbox.start(live.hub)
    live.start()
    tokens.start()
    health.start()
    CommitWatch(world, live.store, live.hub).start()
    world.serve({})  # `jitsu status` and `jitsu doctor` ask what there is to say
    world.on_stop = stopping
    world.notes = lambda: live.notes() + outbox.notes()
    world.spawn(serving(), "http")
    bound.listen()  # whoever connects as soon as this process is ready waits for uvicorn, and is not refused
    world.ready()


def main() -> None:
    """Run jitsu-web."""
    run("web", start)


if __name__ == "__main__":
    main()
