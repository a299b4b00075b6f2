"""Every expression that is in deploy/ for Prometheus and Grafana, and a Prometheus to try them with."""

from __future__ import annotations

import json
import re
import subprocess
import urllib.parse
import urllib.request
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.support.suite import free_port, wait_for

if TYPE_CHECKING:
    from collections.abc import Iterator

DEPLOY = Path(__file__).parents[2] / "deploy"
DASHBOARD = DEPLOY / "grafana/jitsu.json"
RULES = DEPLOY / "prometheus/jitsu.rules.yml"
RULE_TESTS = DEPLOY / "prometheus/jitsu.rules.test.yml"
CONFIGURATION = DEPLOY / "prometheus/prometheus.yml"
START_LIMIT_S = 40.0


def panel_expressions() -> list[tuple[str, str]]:
    """Return the expressions of the dashboard, each with its panel."""
    panels = json.loads(DASHBOARD.read_text())["panels"]
    return [(each["title"], target["expr"]) for each in panels for target in each.get("targets", ())]


def alerts() -> dict[str, str]:
    """Return the expression of each alert, by its name."""
    found = {}
    for part in RULES.read_text().split("- alert: ")[1:]:
        name, _, rest = part.partition("\n")
        body = re.split(r"\n        (?:for|labels):", rest.partition("expr:")[2])[0]
        found[name] = " ".join(body.removeprefix(" >-").split())
    return found


class Prometheus:
    """A Prometheus that runs."""

    def __init__(self, url: str) -> None:
        self.url = url

    def get(self, path: str, **parameters: str) -> Any:
        """Return what an endpoint of its API answers."""
        query = urllib.parse.urlencode(parameters)
        with urllib.request.urlopen(f"{self.url}/api/v1/{path}?{query}", timeout=10) as response:
            answer = json.load(response)
        assert answer["status"] == "success", answer
        return answer["data"]

    def query(self, expression: str) -> list[Any]:
        """Return the series that an expression has now."""
        found: list[Any] = self.get("query", query=expression)["result"]
        return found

    def firing(self) -> set[tuple[str, str]]:
        """Return the alerts that fire, each with the VM or the instance that it is about."""
        labels = [each["labels"] for each in self.get("alerts")["alerts"] if each["state"] == "firing"]
        return {(each["alertname"], each.get("vm", each.get("instance", ""))) for each in labels}


@contextmanager
def running_prometheus(program: str, directory: Path, configuration: str) -> Iterator[Prometheus]:
    """Run Prometheus with a configuration, and its rules beside it."""
    (directory / "prometheus.yml").write_text(configuration)
    port = free_port()
    argv = [
        program,
        f"--config.file={directory / 'prometheus.yml'}",
        f"--storage.tsdb.path={directory / 'data'}",
        f"--web.listen-address=127.0.0.1:{port}",
        "--enable-feature=exemplar-storage",
        "--log.level=warn",
    ]
    with (directory / "prometheus.log").open("wb") as log:
        process = subprocess.Popen(argv, stdout=log, stderr=log)
        prometheus = Prometheus(f"http://127.0.0.1:{port}")

        def is_ready() -> bool:
            assert process.poll() is None, (directory / "prometheus.log").read_text()
            try:
                with urllib.request.urlopen(f"{prometheus.url}/-/ready", timeout=5) as response:
                    return bool(response.status == 200)
            except OSError:
                return False

        try:
            wait_for(is_ready, START_LIMIT_S, "Prometheus is ready")
            yield prometheus
        finally:
            process.terminate()
            process.wait(20)
