"""jitsu-web in a real suite: over HTTP and TLS, under schemathesis, and when one of the services is killed."""

from __future__ import annotations

import json
import os
import signal
import ssl
import subprocess
import threading
import urllib.error
import urllib.request
from contextlib import contextmanager
from time import monotonic
from typing import TYPE_CHECKING, Any

import pytest
import schemathesis
from hypothesis import HealthCheck, settings
from schemathesis.checks import not_a_server_error
from schemathesis.core.result import Ok

from jitsu.keys import init
from tests.support.suite import RunningSuite, free_port, vm_toml, wait_for
from tests.system.test_keys import bus_toml

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.suite

EXAMPLES = int(os.environ.get("JITSU_WEB_EXAMPLES", "200"))
"""For all operations together; the tiers try a few, and JITSU_WEB_EXAMPLES=10000 tries as many."""
SOON_S = 10.0


class WebClient:
    """Asks one jitsu-web, as a script would."""

    def __init__(self, base: str, token: str = "", context: ssl.SSLContext | None = None) -> None:
        self.base, self.token, self._context = base, token, context

    def ask(self, method: str, path: str, body: Any = None, timeout: float = 10.0) -> tuple[int, Any]:
        """Return the status and the JSON of the answer."""
        headers = {"Content-Type": "application/json"}
        if self.token:
            headers["Authorization"] = f"Bearer {self.token}"
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(f"{self.base}/api/v1{path}", data, headers, method=method)
        try:
            with urllib.request.urlopen(request, timeout=timeout, context=self._context) as answer:
                text = answer.read()
                return answer.status, json.loads(text) if text else None
        except urllib.error.HTTPError as error:
            with error:
                return error.code, json.loads(error.read())


@contextmanager
def suite_with_web(directory: Path, more: str = "", **web: str) -> Iterator[tuple[RunningSuite, WebClient]]:
    """Run a suite with two VMs and jitsu-web, and yield it with a client that is an operator."""
    port = free_port()
    lines = "".join(f'{key} = "{value}"\n' for key, value in {"listen": f"127.0.0.1:{port}", **web}.items())
    vms = vm_toml("www", "127.0.0.1", ttl=60) + vm_toml("db", "127.0.0.2", ttl=60)
    with RunningSuite(directory, toml=f"[web]\nrequest_rate = 0\n{lines}{more}{vms}") as suite:
        token = suite.jitsu("token", "create", "olga", "--role", "operator").strip()
        scheme, context = "http", None
        if "certificate" in web:
            scheme, context = "https", ssl.create_default_context(cafile=web["certificate"])
        client = WebClient(f"{scheme}://127.0.0.1:{port}", token, context)
        wait_for(lambda: client.ask("GET", "/session")[0] == 200, SOON_S, "the token counts")
        yield suite, client


def states(client: WebClient) -> dict[str, str]:
    status, page = client.ask("GET", "/vms")
    assert status == 200, page
    return {vm["name"]: vm["state"] for vm in page["items"]}


def test_a_day_with_the_api_as_an_operator_has_it(tmp_path: Path) -> None:
    with suite_with_web(tmp_path) as (suite, client):
        assert states(client) == {"db": "off", "www": "off"}
        status, started = client.ask("POST", "/vms/www/start?wait_s=10")
        assert (status, started["state"]) == (200, "ready")
        [summon] = wait_for(lambda: client.ask("GET", "/vms/www/summons")[1]["items"], SOON_S, "the summon")
        assert (summon["by"], summon["outcome"]) == ("operator:olga via web", "ready")
        etag_status, one = client.ask("GET", "/vms/www")
        assert (etag_status, one["configuration"]["dns"]) == (200, ["www.jitsu.test"])
        status, applied = client.ask("PATCH", "/vms/www", {"keys": {"ttl": "30s"}})
        assert status == 200, applied
        assert "operator:olga via web" in suite.jitsu("log", "www")
        status, history = client.ask("GET", "/vms/www/history")
        assert [len(each["changes"]) > 0 for each in history["items"]] == [True, True], history
        status, _ = client.ask("POST", "/vms/www/revert", {"to": history["items"][1]["id"]})
        assert suite.jitsu("get", "www.ttl").strip() == "60"
        client.ask("POST", "/config/branches", {"name": "plan"})
        path = f"/config/branches/plan/tree/jitsu/vm/{one['uuid']}/dns/www.jitsu.test/ttl"
        status, answer = client.ask("PUT", path, {"value": "20"})
        assert status == 200, answer
        status, diff = client.ask("GET", "/config/diff?from=master&to=plan")
        assert [(each["old"], each["value"]) for each in diff["changes"]] == [("60", "20")]
        assert client.ask("POST", "/config/merge", {"branch": "plan"})[0] == 200
        assert suite.jitsu("get", "www.ttl").strip() == "20"
        assert client.ask("POST", "/vms/www/stop?wait_s=10")[1]["state"] == "off"
        status, why = client.ask("GET", "/vms/www/why")
        assert status == 200, why
        body = {"name": "new", "keys": {"dns": "new.jitsu.test", "ip": "127.0.0.3"}}
        assert client.ask("POST", "/vms", body)[0] == 201
        wait_for(lambda: "new" in states(client), SOON_S, "the new VM")
        assert client.ask("DELETE", "/vms/new")[0] == 200
        names = {each["name"] for each in client.ask("GET", "/services")[1]["items"]}
        assert {"store", "vmd", "synjitsu", "reaper", "web"} <= names
        assert client.ask("GET", "/discovered")[0] == 200


def test_a_token_that_is_revoked_is_refused_within_a_second(tmp_path: Path) -> None:
    with suite_with_web(tmp_path) as (suite, client):
        viewer = WebClient(client.base, suite.jitsu("token", "create", "vera", "--expires", "1h").strip())
        wait_for(lambda: viewer.ask("GET", "/session")[0] == 200, 1.0, "the new token counts")
        assert viewer.ask("POST", "/vms/www/start")[0] == 403
        suite.jitsu("token", "revoke", "vera")
        begun = monotonic()
        wait_for(lambda: viewer.ask("GET", "/session")[0] == 401, 1.0, "it is refused")
        assert monotonic() - begun < 1.0
        assert "vera" not in suite.jitsu("token", "list")
        for kept in (tmp_path / "run").rglob("*"):
            assert not kept.is_file() or viewer.token.encode() not in kept.read_bytes(), kept
        assert not any(viewer.token in line or client.token in line for line in suite.output)


def test_nothing_else_notices_that_jitsu_web_is_killed_and_its_sessions_go_on(tmp_path: Path) -> None:
    with suite_with_web(tmp_path) as (suite, client):
        before = {name: suite.pid(name) for name in ("store", "vmd", "synjitsu", "reaper", "dns")}
        client.ask("POST", "/vms/www/start?wait_s=10")
        suite.kill("web")

        def is_back() -> bool:
            try:
                return client.ask("GET", "/session", timeout=1.0)[0] == 200
            except OSError:
                return False

        wait_for(is_back, 20.0, "jitsu-web is back")
        wait_for(lambda: states(client) == {"db": "off", "www": "ready"}, SOON_S, "it knows what runs")
        assert before == {name: suite.pid(name) for name in before}


@pytest.mark.parametrize(
    ("service", "method", "path", "body"),
    [
        ("store", "PATCH", "/vms/www", {"keys": {"ttl": 5}}),
        ("vmd", "POST", "/vms/www/start?wait_s=100", None),
        ("reaper", "GET", "/vms/www/why", None),
    ],
)
def test_a_service_that_hangs_is_a_problem_with_a_hint_and_is_not_waited_for(
    tmp_path: Path, service: str, method: str, path: str, body: Any
) -> None:
    with suite_with_web(tmp_path) as (suite, client):
        stopped = suite.pid(service)
        assert stopped is not None
        os.kill(stopped, signal.SIGSTOP)
        try:

            def is_a_problem() -> bool:
                begun = monotonic()
                status, problem = client.ask(method, path, body, timeout=35.0)
                took = monotonic() - begun
                return status == 503 and bool(problem["hint"]) and took < 6.0

            wait_for(is_a_problem, 60.0, "a problem")
            assert states(client) == {"db": "off", "www": "off"}, "what is known is still shown"
        finally:
            os.kill(stopped, signal.SIGCONT)
        wait_for(lambda: client.ask(method, path, body)[0] < 500, 30.0, "it is back")


def test_events_are_streamed_and_a_reader_goes_on_where_it_was(tmp_path: Path) -> None:
    with suite_with_web(tmp_path) as (_, client):
        seen: list[tuple[str, str, Any]] = []

        def read(last: str, until: str) -> None:
            headers = {"Authorization": f"Bearer {client.token}", "Last-Event-ID": last}
            request = urllib.request.Request(f"{client.base}/api/v1/events", headers=headers)
            with urllib.request.urlopen(request, timeout=20) as stream:
                fields: dict[str, str] = {}
                for line in stream:
                    name, _, value = line.decode().rstrip("\n").partition(": ")
                    if name:
                        fields[name] = value
                    elif "event" in fields:
                        seen.append((fields["id"], fields["event"], json.loads(fields["data"])))
                        fields = {}
                        if seen[-1][1] == "vm" and (seen[-1][2]["name"], seen[-1][2]["state"]) == ("www", until):
                            return

        reader = threading.Thread(target=read, args=("", "ready"))
        reader.start()
        client.ask("PATCH", "/vms/www", {"keys": {"ttl": 61}})
        client.ask("POST", "/vms/www/start?wait_s=10")
        reader.join(20)
        assert not reader.is_alive()
        commits = [data for _, kind, data in seen if kind == "commit"]
        assert [(each["branch"], each["author"]) for each in commits] == [("master", "operator:olga via web")]
        last = seen[-1][0]
        client.ask("POST", "/vms/www/stop?wait_s=10")
        seen.clear()
        read(last, "off")
        assert [each[2]["state"] for each in seen if each[1] == "vm" and each[2]["name"] == "www"][-1] == "off"
        assert "reset" not in {kind for _, kind, _ in seen}
        seen.clear()
        with pytest.raises(TimeoutError):
            read_reset(client, "nonsense-1", seen)
        assert seen[0][1] == "reset"


def read_reset(client: WebClient, last: str, seen: list[tuple[str, str, Any]]) -> None:
    headers = {"Authorization": f"Bearer {client.token}", "Last-Event-ID": last}
    request = urllib.request.Request(f"{client.base}/api/v1/events", headers=headers)
    with urllib.request.urlopen(request, timeout=2) as stream:
        for line in stream:
            name, _, value = line.decode().rstrip("\n").partition(": ")
            if name == "event":
                seen.append(("", value, None))


def test_over_tls_a_viewer_may_look_and_nothing_else(tmp_path: Path) -> None:
    certificate, key = tmp_path / "web.pem", tmp_path / "web.key"
    words = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 1 -subj /CN=127.0.0.1"
    made = ["-addext", "subjectAltName=IP:127.0.0.1", "-keyout", str(key), "-out", str(certificate)]
    subprocess.run([*words.split(), *made], check=True, capture_output=True)
    key.chmod(0o600)
    with suite_with_web(tmp_path, certificate=str(certificate), key=str(key)) as (suite, client):
        assert client.base.startswith("https")
        viewer_token = suite.jitsu("token", "create", "vera").strip()
        context = ssl.create_default_context(cafile=str(certificate))
        viewer = WebClient(client.base, viewer_token, context)
        wait_for(lambda: viewer.ask("GET", "/session")[0] == 200, 2.0, "the new token counts")
        described = viewer.ask("GET", "/openapi.json")[1]
        for path, methods in described["paths"].items():
            filled = (
                path.removeprefix("/api/v1").replace("{name}", "www").replace("{branch}", "b").replace("{path}", "x")
            )
            for method in (each.upper() for each in methods):
                if method != "GET" and (method, filled) not in (("POST", "/session"), ("DELETE", "/session")):
                    assert viewer.ask(method, filled, {})[0] == 403, (method, filled)
        assert states(viewer) == {"db": "off", "www": "off"}


def test_with_keys_jitsu_web_does_what_its_users_ask_for_and_nobody_else_passes_for_one(tmp_path: Path) -> None:
    keys = tmp_path / "keys"
    init(keys)
    with suite_with_web(tmp_path, bus_toml(keys)) as (suite, client):
        assert client.ask("POST", "/vms/www/start?wait_s=10")[1]["state"] == "ready"
        assert client.ask("PATCH", "/vms/www", {"keys": {"ttl": 30}})[0] == 200
        assert client.ask("GET", "/vms/www/why")[0] == 200
        assert client.ask("GET", "/tokens")[0] == 200
        assert client.ask("GET", "/discovered")[0] == 200
        refused = suite.jitsu("--as", "operator:olga via web", "set", "www.ttl", "5", check=False)
        assert "may not send requests in the name of users of jitsu-web" in refused
        assert suite.jitsu("get", "www.ttl").strip() == "30"
        assert "web" in suite.jitsu("status")


def test_beyond_loopback_without_tls_it_refuses_to_start(tmp_path: Path) -> None:
    toml = f'[web]\nlisten = "0.0.0.0:{free_port()}"\n' + vm_toml("www", "127.0.0.1")
    with pytest.raises(AssertionError, match=r"web\.insecure"), RunningSuite(tmp_path, toml=toml):
        pass


def test_nothing_that_schemathesis_makes_up_is_a_server_error(tmp_path: Path) -> None:
    with suite_with_web(tmp_path) as (_, client):
        schema = schemathesis.openapi.from_url(f"{client.base}/api/v1/openapi.json")
        headers = {"Authorization": f"Bearer {client.token}"}
        operations = [each.ok() for each in schema.get_all_operations() if isinstance(each, Ok)]
        tried = 0
        for operation in operations:
            if operation.path.endswith("/events"):
                continue  # it never ends

            @settings(
                max_examples=max(1, EXAMPLES // len(operations)),
                deadline=None,
                database=None,
                derandomize=True,
                suppress_health_check=list(HealthCheck),
            )
            def check(case: Any) -> None:
                nonlocal tried
                tried += 1
                response = case.call(headers=headers, timeout=30)
                case.validate_response(response, checks=[not_a_server_error])

            schemathesis_test(operation, check)
        assert tried >= min(EXAMPLES, len(operations)) - 1
        assert client.ask("GET", "/session")[0] == 200, "the token still counts, so it was not refused all the time"


def schemathesis_test(operation: Any, check: Any) -> None:
    """Run a check on cases of one operation."""
    from hypothesis import given

    given(case=operation.as_strategy())(check)()
