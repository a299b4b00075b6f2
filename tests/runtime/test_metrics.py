"""The HTTP server for /metrics and /healthz."""

from __future__ import annotations

import re
import socket
import urllib.error
import urllib.request
from contextlib import suppress
from typing import TYPE_CHECKING

import pytest

from jitsu_protocol.model.errors import SetupFault
from jitsu_runtime import metrics as module
from jitsu_runtime.metrics import Metrics
from jitsu_runtime.settings.values import listen_address
from tests.support.clock import VirtualClock
from tests.support.suite import free_port

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.wires

CLOCK = VirtualClock()


@pytest.fixture
def served() -> Iterator[tuple[Metrics, str]]:
    metrics = Metrics("x", CLOCK)
    port = free_port()
    stop = metrics.serve(listen_address(f"127.0.0.1:{port}"))
    yield metrics, f"http://127.0.0.1:{port}"
    stop()


def get(url: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(url, timeout=5) as response:
            return response.status, response.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def test_metrics_and_health_are_served(served: tuple[Metrics, str]) -> None:
    metrics, url = served
    metrics.dropped("malformed")
    status, text = get(url + "/metrics")
    assert status == 200
    assert 'jitsu_x_dropped_messages_total{reason="malformed"} 1.0' in text
    assert get(url + "/healthz") == (200, "ok\n")
    assert get(url + "/else")[0] == 404
    CLOCK.advance(module.STUCK_S + 0.1)
    assert get(url + "/healthz") == (503, "stuck\n")
    metrics.beat()
    assert get(url + "/healthz") == (200, "ok\n")


def test_a_scraper_that_asks_for_openmetrics_gets_it_with_exemplars(served: tuple[Metrics, str]) -> None:
    metrics, url = served
    metrics.histogram("summon_seconds", "From the summon to ready.").observe(0.02, {"summon": "0123456789ab"})
    wanted = "application/openmetrics-text; version=1.0.0"
    with urllib.request.urlopen(urllib.request.Request(url + "/metrics", headers={"Accept": wanted})) as response:
        assert response.headers["Content-Type"].startswith(wanted)
        assert '_bucket{le="0.025"} 1.0 # {summon="0123456789ab"} 0.02' in response.read().decode()
    assert "0123456789ab" not in get(url + "/metrics")[1]


def test_every_process_describes_itself_and_its_build(served: tuple[Metrics, str]) -> None:
    _, url = served
    _, text = get(url + "/metrics")
    assert re.search(r'^jitsu_build_info{python="3\..*",service="x",version=".*"} 1\.0$', text, re.MULTILINE)
    assert re.search(r"^process_resident_memory_bytes \d", text, re.MULTILINE)


def test_a_port_in_use_is_reported_as_a_setup_fault(served: tuple[Metrics, str]) -> None:
    with pytest.raises(SetupFault, match="cannot serve metrics"):
        Metrics("y").serve(listen_address(served[1].removeprefix("http://")))


def test_g9_slow_clients_keep_nobody_from_the_health_check(
    served: tuple[Metrics, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    _, url = served
    host, _, port = url.removeprefix("http://").partition(":")
    slow = [socket.create_connection((host, int(port)), timeout=10) for _ in range(2 * module.MAX_CONNECTIONS)]
    for each in slow:
        each.sendall(b"G")
    assert get(url + "/healthz") == (200, "ok\n")
    monkeypatch.setattr(module, "REQUEST_LIMIT_S", 0.0)
    for each in slow:  # each is cut when its time is over, although it has just sent something
        with suppress(ConnectionError):
            assert each.recv(1) == b""
        each.close()
    monkeypatch.setattr(module, "REQUEST_LIMIT_S", 5.0)
    assert get(url + "/healthz") == (200, "ok\n")
