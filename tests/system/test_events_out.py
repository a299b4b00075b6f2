"""A real suite and a real jitsu-web that sends events to a webhook, through kill -9 of it and of the receiver."""

from __future__ import annotations

import json
import socket
import threading
from contextlib import contextmanager
from http.client import HTTPConnection
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

import pytest

from jitsu_web.outbound.rules.journal import Journal
from jitsu_web.outbound.wires.queue_file import NAME
from tests.support.suite import RunningSuite, beside, free_port, vm_toml, wait_for

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.suite

LIMIT_S = 60.0
VMS = ("a", "b", "c")


class Hook:
    """A webhook's receiver; it refuses events of some VMs for good."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.got: list[dict[str, Any]] = []
        self.refuses: set[str] = set()

    def states_of(self, vm: str) -> list[str]:
        """Return the events of a VM as they came, each once."""
        own = {each["id"]: each["type"] for each in self.got if each["subject"] == vm}
        return list(own.values())

    @contextmanager
    def running(self) -> Iterator[None]:
        hook = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                event = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                is_refused = event["subject"] in hook.refuses
                if not is_refused:
                    hook.got.append(event)
                self.send_response(410 if is_refused else 204)
                self.end_headers()

            def log_message(self, format: str, *args: object) -> None:
                pass

        server = ThreadingHTTPServer(("127.0.0.1", self.port), Handler)
        thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
        thread.start()
        try:
            yield
        finally:
            server.shutdown()
            server.server_close()
            thread.join()


class LocalConnection(HTTPConnection):
    """HTTP over a UNIX socket, whose other end trusts this user."""

    def __init__(self, path: Path) -> None:
        super().__init__("localhost")
        self._path = str(path)

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.connect(self._path)


def ask(path: Path, method: str, url: str) -> Any:
    connection = LocalConnection(path)
    connection.request(method, url)
    answer = connection.getresponse()
    text = answer.read()
    assert answer.status < 300, text
    connection.close()
    return json.loads(text) if text else None


def recorded(directory: Path) -> list[str]:
    """Return the ids of the events that the queue's file has and that are not delivered."""
    journal = Journal(1 << 30)
    if (directory / NAME).exists():
        journal.load((directory / NAME).read_bytes(), ["hook"])
    return [id for id, entry in journal.entries.items() if entry.pending]


@pytest.mark.timeout(180)
def test_kill_9_of_jitsu_web_and_of_the_receiver_loses_no_event_that_was_recorded(tmp_path: Path) -> None:
    secret, http, own = tmp_path / "hook.secret", tmp_path / "http", tmp_path / "own"
    secret.write_text("a secret of more than 24 bytes")
    secret.chmod(0o600)
    hook = Hook(free_port())
    settings = {
        "JITSU_WEB_LISTEN": f"unix:{http}",
        "JITSU_WEB_DIRECTORY": str(own),
        "JITSU_EVENTS_WEBHOOKS": f"hook http://127.0.0.1:{hook.port}/ {secret}",
    }
    toml = "".join(vm_toml(name, f"127.4.9.{n + 1}", ttl=600) for n, name in enumerate(VMS))
    with RunningSuite(tmp_path, toml=toml) as suite:
        with beside(suite, "web", **settings) as web:
            for name in VMS:
                suite.jitsu("start", name)
                suite.jitsu("stop", name)
            wait_for(lambda: len(recorded(own)) >= 4 * len(VMS), LIMIT_S, "the events are recorded")
            web.kill()
            web.wait(10)
        left = recorded(own)
        assert (own / NAME).stat().st_mode & 0o777 == 0o600
        with beside(suite, "web", **settings) as web, hook.running():
            wait_for(lambda: hook.got, LIMIT_S, "an event")
            web.kill()  # while it delivers
            web.wait(10)
        with beside(suite, "web", **settings):
            with hook.running():
                wait_for(lambda: set(left) <= {each["id"] for each in hook.got}, LIMIT_S, "all are delivered")
                for name in VMS:
                    states = hook.states_of(name)
                    assert states.index("jitsu.vm.ready") < states.index("jitsu.vm.off")
                hook.refuses.add("a")
                suite.jitsu("start", "a")
                dead = wait_for(lambda: ask(http, "GET", "/api/v1/events/dead"), LIMIT_S, "a dead letter")
                assert dead[0]["subject"] == "a"
                assert dead[0]["reasons"] == {"hook": "HTTP 410"}
                assert "web: events could not be delivered" in suite.jitsu("doctor", check=False)
                hook.refuses.clear()
                ask(http, "POST", f"/api/v1/events/dead/{dead[0]['id']}/retry")
                wait_for(lambda: dead[0]["id"] in {each["id"] for each in hook.got}, LIMIT_S, "it is sent again")
            (target,) = ask(http, "GET", "/api/v1/events/targets")
            assert target["name"] == "hook"
