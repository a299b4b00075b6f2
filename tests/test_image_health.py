"""The health check of images, deploy/image/healthy: what it finds out, and what it costs."""

from __future__ import annotations

import os
import resource
import subprocess
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.wires

CHECK = Path(__file__).parents[1] / "deploy" / "image" / "healthy"
LIMIT_MS, TIMES = 5.0, 10


@contextmanager
def service(status: int) -> Iterator[str]:
    """Serve /healthz with this status, and give where."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status if self.path == "/healthz" else 404)
            self.end_headers()

        def log_message(self, format: str, *arguments: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield f"127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


def check(name: str, **environment: str) -> int:
    own = {"PATH": os.environ["PATH"], "JITSU_SERVICE": name, "JITSU_CONFIG": os.devnull, **environment}
    return subprocess.run(["bash", CHECK], env=own, capture_output=True, timeout=20, check=False).returncode


@pytest.mark.parametrize(("status", "healthy"), [(200, True), (503, False)])
def test_it_says_what_healthz_says(status: int, healthy: bool) -> None:
    with service(status) as listen:
        assert (check("dns", JITSU_DNS_METRICS=listen) == 0) is healthy


def test_a_service_that_does_not_listen_is_not_healthy() -> None:
    with service(200) as listen:
        pass
    assert check("dns", JITSU_DNS_METRICS=listen) == 1


def test_the_address_is_found_in_the_configuration(tmp_path: Path) -> None:
    with service(200) as listen:
        port = listen.rpartition(":")[2]
        toml = tmp_path / "jitsu.toml"
        toml.write_text(f'[dns]\nmetrics = "127.0.0.1:1"\n\n[hypervisor]\nkind = "mock"\nmetrics = "0.0.0.0:{port}"\n')
        assert check("vmd", JITSU_CONFIG=str(toml)) == 0, "its section is hypervisor; 0.0.0.0 is this host"
        assert check("dns", JITSU_CONFIG=str(toml)) == 1


def test_it_costs_less_than_five_milliseconds() -> None:
    with service(200) as listen:
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        for _ in range(TIMES):
            assert check("dns", JITSU_DNS_METRICS=listen) == 0
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
    spent_s = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    assert spent_s / TIMES * 1000 < LIMIT_MS
