"""What holds for all tests: which tiers ran, and that CI leaves nothing out."""

from __future__ import annotations

import asyncio
import functools
import gc
import inspect
import os
import sys
from typing import TYPE_CHECKING, Any

import pytest
import uvloop
from hypothesis import HealthCheck, settings

from tests.support.examples import examples

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

# pytest rewrites the asserts of every test module. Without a file to keep the result in, each worker spends 5 s on that
# again in every run, so tests do as setup does with the product and write bytecode whatever the environment says.
sys.dont_write_bytecode = False

LOOP_MARGIN_S = 2.0
"""By so much an event loop ends a test before pytest-timeout would."""
TIERS = {
    "unit": "rules, and wires with fakes, on virtual time",
    "wires": "one wire at a time with real sockets, files and programs; all examples of each property",
    "suite": "real processes on loopback",
    "net": "namespaces and bridges, as root",
    "libvirt": "libvirt's drivers and real guests, as root",
    "lxd": "a real LXD and its containers, as root",
    "qemu": "real QEMU processes without libvirt, as root",
    "browser": "the web page in a real Chromium",
    "docker": "a real dockerd and Podman, and their containers, as root",
    "systemd": "what is installed on a machine, as root",
    "compose": "containers, as root",
    "prometheus": "a real Prometheus that scrapes a real suite",
    "newcomer": "README.md's commands in a bare Debian",
    "xen": "a real dom0, which QEMU emulates",
}
# How long one example takes says more about what else the machine does than about the code; pytest-timeout limits each
# test as a whole.
settings.register_profile(
    "jitsu", deadline=None, suppress_health_check=[HealthCheck.too_slow], max_examples=examples(100)
)
settings.load_profile("jitsu")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the tests that ask for more time than others: at the end one of two workers would wait for them."""
    items.sort(key=lambda item: item.get_closest_marker("timeout") is None)
    for item in items:
        if "tests/system/" in item.nodeid and not any(item.get_closest_marker(tier) for tier in TIERS):
            raise pytest.UsageError(f"{item.nodeid} has no marker of a tier, so that no tier would run it")
        if getattr(getattr(item, "obj", None), "is_hypothesis_test", False):
            item.add_marker(pytest.mark.property)
        if isinstance(item, pytest.Function) and inspect.iscoroutinefunction(item.obj):
            marker = item.get_closest_marker("timeout")
            limit_s = float(marker.args[0] if marker is not None else item.config.getini("timeout"))
            item.obj = _within(limit_s - LOOP_MARGIN_S, item.obj)


def _within(limit_s: float, test: Callable[..., Awaitable[None]]) -> Callable[..., Awaitable[None]]:
    """End a test that waits on its event loop for ever: uvloop drops what pytest-timeout's signal handler raises."""

    @functools.wraps(test)
    async def limited(*arguments: Any, **keywords: Any) -> None:
        async with asyncio.timeout(limit_s):
            await test(*arguments, **keywords)

    return limited


# Tests and modules stay until the end. While they are collected, looking for garbage among them finds none, and takes a
# fifth of the time.
gc.disable()


@pytest.hookimpl(trylast=True)
def pytest_collection_finish() -> None:
    """Look for garbage from now on, but not among the tests and modules."""
    gc.freeze()
    gc.enable()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Say which tiers ran, and which tests were left out and why."""
    selected = str(config.getoption("-m"))
    ran = [tier for tier in TIERS if tier in selected.replace("not ", "not-").split()] if selected else list(TIERS)
    ran = ["unit"] if selected.startswith("not") else ran
    terminalreporter.write_line(f"tiers: {', '.join(f'{tier} ({TIERS.get(tier, tier)})' for tier in ran)}")
    for report in terminalreporter.stats.get("skipped", []):
        terminalreporter.write_line(f"left out: {report.nodeid}: {report.longrepr}")


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    """In CI a test that was left out is a failure."""
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if os.environ.get("CI") and isinstance(reporter, pytest.TerminalReporter) and reporter.stats.get("skipped"):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_asyncio_loop_factories() -> dict[str, Callable[[], asyncio.AbstractEventLoop]]:
    """Have tests run on the event loop that all processes use."""
    return {"uvloop": uvloop.new_event_loop}
