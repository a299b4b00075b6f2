"""A real Prometheus with the rules of deploy/, which scrapes a real suite; every expression is asked there."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import time
from typing import TYPE_CHECKING

import pytest

from jitsu_runtime.settings.schema import SECTION_OF
from tests.support.debian import program
from tests.support.dns import ask
from tests.support.prometheus import CONFIGURATION, RULE_TESTS, RULES, alerts, panel_expressions, running_prometheus
from tests.support.suite import RunningSuite, free_port, vm_toml, wait_for

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.prometheus import Prometheus

pytestmark = [pytest.mark.prometheus, pytest.mark.timeout(230)]

LIMIT_S = 60.0
VARIABLES = {"$job": "jitsu", "$vm": ".*", "$__rate_interval": "20s", "$__range": "60s"}
MAY_BE_EMPTY = {
    "Frames": "no bridge, so Synjitsu sends nothing",
    "Bus messages dropped": "nobody has sent a wrong message",
    "Changes of the configuration": "no change was refused",
    "Events sent": "jitsu-web is an extra, which does not run",
    "Events in the queue": "nor has it a queue",
}


def promtool(*arguments: str) -> None:
    done = subprocess.run(
        [program("promtool", "prometheus", "/usr/bin"), *arguments], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr


def test_promtool_accepts_the_rules_and_the_configuration() -> None:
    promtool("check", "rules", str(RULES))
    promtool("check", "config", str(CONFIGURATION))


def test_every_alert_fires_when_it_should_and_not_while_all_is_well() -> None:
    promtool("test", "rules", str(RULE_TESTS))


@pytest.fixture(scope="module")
def ports() -> dict[str, int]:
    """Where each service has its metrics."""
    return {service: free_port() for service in SECTION_OF if service != "web"}  # which is an extra


@pytest.fixture(scope="module")
def suite(tmp_path_factory: pytest.TempPathFactory, ports: dict[str, int]) -> Iterator[RunningSuite]:
    toml = "".join(f'[{SECTION_OF[each]}]\nmetrics = "127.0.0.1:{port}"\n' for each, port in ports.items())
    toml += vm_toml("www", "127.4.8.1", ttl=60, boot_time=0.2) + vm_toml("bad", "127.4.8.2", boot_failure="start")
    with RunningSuite(tmp_path_factory.mktemp("suite"), toml=toml) as running:
        yield running


@pytest.fixture(scope="module")
def prometheus(
    tmp_path_factory: pytest.TempPathFactory, suite: RunningSuite, ports: dict[str, int]
) -> Iterator[Prometheus]:
    """A Prometheus with the configuration of deploy/, but other ports, a scrape each second, and no patience."""
    binary, directory = program("prometheus", "prometheus", "/usr/bin"), tmp_path_factory.mktemp("prometheus")
    targets = "".join(f"\n          - 127.0.0.1:{port}" for port in ports.values())
    configuration = re.sub(r"(- targets:)(\n +- \S+(?: +#.*)?)+", rf"\1{targets}", CONFIGURATION.read_text())
    configuration = configuration.replace(": 15s", ": 1s").replace("evaluation", "scrape_timeout: 1s\n  evaluation")
    (directory / RULES.name).write_text(re.sub(r"\n +for: .*", "", RULES.read_text()))
    assert shutil.which("promtool")
    with running_prometheus(binary, directory, configuration) as running:
        wait_for(lambda: len(running.query('up{job="jitsu"} == 1')) == len(ports), LIMIT_S, "every service is scraped")
        yield running


async def test_every_panel_has_data_of_a_real_suite_and_every_alert_is_understood(
    suite: RunningSuite, prometheus: Prometheus
) -> None:
    for name in ("www", "bad", "www", "nothing"):
        await ask(f"{name}.jitsu.test", suite.port)
    wait_for(lambda: prometheus.query('jitsu_vm_state{vm="www",state="ready"} == 1'), LIMIT_S, "www is ready")
    await ask("www.jitsu.test", suite.port)
    missing: set[str] = set()

    def all_have_data() -> bool:
        missing.clear()
        for title, expression in panel_expressions():
            for variable, value in VARIABLES.items():
                expression = expression.replace(variable, value)
            if not prometheus.query(expression) and title not in MAY_BE_EMPTY:
                missing.add(f"{title}: {expression}")
        return not missing

    try:
        wait_for(all_have_data, LIMIT_S, "every panel has data")
    except AssertionError:
        raise AssertionError("no data of\n" + "\n".join(sorted(missing))) from None
    for expression in alerts().values():
        prometheus.query(expression)


async def test_exemplars_lead_from_a_slow_boot_to_its_trace(suite: RunningSuite, prometheus: Prometheus) -> None:
    await ask("www.jitsu.test", suite.port)
    summons = {each["summon"] for each in json.loads(suite.jitsu("trace", "www", "--json"))}

    def exemplars() -> set[str]:
        now = time.time()
        found = prometheus.get(
            "query_exemplars", query="jitsu_vm_boot_seconds_bucket", start=str(now - 300), end=str(now + 10)
        )
        return {each["labels"]["summon"] for series in found for each in series["exemplars"]}

    assert wait_for(exemplars, LIMIT_S, "Prometheus has an exemplar") <= summons


async def test_alerts_fire_for_a_vm_that_does_not_boot_and_a_service_that_hangs(
    suite: RunningSuite, prometheus: Prometheus, ports: dict[str, int]
) -> None:
    await ask("bad.jitsu.test", suite.port)
    wait_for(lambda: ("JitsuVmFailed", "bad") in prometheus.firing(), LIMIT_S, "the alert of the VM")
    reaper, instance = suite.pid("reaper"), f"127.0.0.1:{ports['reaper']}"
    assert reaper is not None
    assert ("JitsuServiceDown", instance) not in prometheus.firing()
    os.kill(reaper, signal.SIGSTOP)
    try:
        wait_for(lambda: ("JitsuServiceDown", instance) in prometheus.firing(), LIMIT_S, "the alert of the service")
    finally:
        os.kill(reaper, signal.SIGCONT)
    wait_for(lambda: ("JitsuServiceDown", instance) not in prometheus.firing(), LIMIT_S, "the alert ends")
