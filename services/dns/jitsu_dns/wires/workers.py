"""`workers = N`: one jitsu-dns that runs as N processes on its port, each of them a replica like any other.

The kernel spreads clients over them (SO_REUSEPORT, socket(7)). This process only keeps them running, with
runtime/supervise.py.
"""

from __future__ import annotations

import asyncio
import sys
from typing import TYPE_CHECKING

import structlog

from jitsu_dns.wires.activation import is_activated
from jitsu_protocol.model.errors import SetupFault
from jitsu_runtime.first_signals import on_hangup
from jitsu_runtime.service_manager import notify, on_stop_signals
from jitsu_runtime.supervise import Child, Children

if TYPE_CHECKING:
    from pydantic import JsonValue

    from jitsu_runtime.settings.load import Settings

STOP_LIMIT_S = 0.7
"""Less than `jitsu up` allows this process."""

log = structlog.get_logger("dns")


async def run_workers(settings: Settings) -> int:
    """Run the workers until a signal; returns the exit status."""
    dns = settings.dns
    fault = None
    if dns.port == 0:
        fault = SetupFault("dns.workers share one port, and 0 is any", hint="set dns.port (-l), or workers = 1")
    elif is_activated():
        fault = SetupFault(
            "dns.workers cannot share a socket of the service manager",
            hint="set workers = 1 and enable more of jitsu-dns@NAME.socket and .service, which share the port",
        )
    if fault is not None:
        print(f"jitsu-dns: {fault}", file=sys.stderr)
        return fault.status
    workers = Children(
        [_worker(settings, number) for number in range(dns.workers)], lambda line: log.info(line.strip())
    )
    on_stop_signals(workers.stop.set)
    on_hangup(asyncio.get_running_loop().add_signal_handler, _warn_that_workers_wait)
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(workers.keep(child)) for child in workers.children]
        tasks.append(group.create_task(_notify_when_ready(workers)))
        await workers.stop.wait()
        notify("STOPPING=1")
        await workers.terminate(workers.children, STOP_LIMIT_S)
        for task in tasks:
            task.cancel()
    await workers.let_go(STOP_LIMIT_S)
    return workers.status


def _warn_that_workers_wait() -> None:
    log.warning("workers read their configuration only when they start; restart this replica")


async def _notify_when_ready(workers: Children) -> None:
    for child in workers.children:
        await child.ready.wait()
    notify("READY=1\nSTATUS=")


def _worker(settings: Settings, number: int) -> Child:
    dns = settings.dns
    name = f"{dns.replica}-{number}" if number else dns.replica
    own: dict[str, JsonValue] = {
        "dns.workers": 1,
        "dns.replica": name,
        "dns.reuse_port": True,
        "dns.metrics": str(dns.metrics.numbered(number)),
    }
    return Child(name, "dns", settings.as_values() | own)
