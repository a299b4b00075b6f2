"""A fuzz of the settings of services: what a setting accepts works when a service starts with it, or the service says
what is wrong with it (a SetupFault); nothing else may be raised.

Each value goes through the service's own start-up code, as far as that touches nothing outside of a temporary
directory. What dns makes of its settings, and [defaults], are in test_values.py.
"""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import structlog

from jitsu.kinds import kind_of
from jitsu_protocol.messages import VmStatus
from jitsu_protocol.model.errors import JitsuError, Refused, SetupFault
from jitsu_protocol.model.inventory import VmChanged
from jitsu_protocol.model.states import VmState
from jitsu_reaper.rules.usage import Usage
from jitsu_runtime.logs import configure_logging
from jitsu_runtime.service import RealWorld
from jitsu_runtime.settings.load import SettingsFault, load
from jitsu_runtime.settings.schema import SECTIONS
from jitsu_store.wires.disk import DirectoryFiles, prepare
from jitsu_store.wires.journal import JournalFile, StatisticsKeeper
from jitsu_synjitsu.wires.follow import Follower
from jitsu_synjitsu.wires.kernel import KERNEL_LAN
from jitsu_synjitsu.wires.server import SynjitsuServer
from jitsu_synjitsu.wires.status import SynjitsuStatus
from jitsu_vmd.hypervisors.solo5.rules import command_line
from jitsu_vmd.main import hypervisors_for
from jitsu_vmd.rules.admission import Admission
from jitsu_vmd.wires.hypervisors import Hypervisors
from tests.support.hypervisors import refusal_of
from tests.support.reaper import HearingPolicy
from tests.support.tasks import task_group
from tests.support.vms import make_vm
from tests.test_values import EDGES

if TYPE_CHECKING:
    from collections.abc import Callable

    from jitsu_runtime.settings.load import Settings

pytestmark = pytest.mark.wires

WORDS = (
    "one",
    "one mock",
    "one libxl",
    "xen xapi https://x",
    "one two three four",
    "a\tmock",
    "tcp://",
    "ipc://",
    "://x",
)
ENDPOINTS = (
    *("tcp://127.0.0.1:1", "tcp://127.0.0.1:99999", "tcp://127.0.0.1", "tcp://127.0.0.1:x", "ipc://a", "ipc://a\0b"),
    *("tcp://[::1]:1", "inproc://x", "tcp://localhost:1", "ipc://" + "a" * 120, "h tcp://127.0.0.1:1 ipc://x"),
)
TEXTS = (
    *EDGES,
    *WORDS,
    *ENDPOINTS,
    "1-2",
    "1900000000-1900000000",
    "5-1",
    "0-1",
    "10.0.0.1/24",
    "10.0.0.1/99",
    "debug",
    "json",
    "network",
)
KEYS = [
    f"{section}.{key}"
    for section, model in SECTIONS.items()
    if section in ("bus", "log", "hypervisor", "store", "synjitsu", "reaper")
    for key in model.model_fields
]
VM = make_vm("www", "10.0.0.1", hypervisor="one")


async def start(service: str, settings: Settings, work: Callable[[RealWorld], None]) -> None:
    """Make a service's process and have it begin its work; raises what that raises."""
    async with task_group() as group:
        process = RealWorld(service, settings, group)
        try:
            work(process)
        finally:
            process.close()


def connects(process: RealWorld) -> None:
    """Make a socket of each kind to each endpoint, which libzmq has to accept."""
    bus = process.settings.bus
    for host in bus.vmds:
        assert str(bus.endpoint("vmd", "feed", host))
    for _, endpoint in bus.endpoints():
        process.connect(str(endpoint), "store")


def logs(process: RealWorld) -> None:
    try:
        configure_logging(process.settings.log, process.service)
        structlog.get_logger("x").info("a line")
    finally:
        structlog.reset_defaults()


def runs_vms(process: RealWorld) -> None:
    """Make the hypervisors and what limits them, and ask them for a VM."""
    settings = process.settings.hypervisor
    assert kind_of(VM, process.settings)
    hypervisors = Hypervisors(hypervisors_for(process), process.spawn)
    for vm in (VM, make_vm("other", "10.0.0.2", kernel="/k", disk="/d@vda")):
        assert isinstance(refusal_of(hypervisors, vm), str)
    hypervisors.notes()
    room = Admission(settings.max_booting, settings.max_running, settings.max_memory)
    with suppress(Refused):
        room.check(VM)
    assert settings.uids.ids
    assert command_line.arguments(VM, settings.gateways) == []


def keeps(process: RealWorld) -> None:
    """Open the repository; only below the directory that the test has."""
    path = Path(process.settings.store.path or "store")
    if path.is_absolute() or ".." in path.parts:
        return
    os.close(prepare(path, durable=False))
    interval = process.settings.store.statistics_interval
    StatisticsKeeper(JournalFile(DirectoryFiles(path)), None, None, None, interval)  # type: ignore[arg-type]


def masks(process: RealWorld) -> None:
    """Make what holds addresses, and look at the bridges."""
    server = SynjitsuServer(process, KERNEL_LAN)
    Follower(process, server.bridges, server.watcher)
    server.bridges.look()
    assert SynjitsuStatus(server, KERNEL_LAN).notes()


def judges(process: RealWorld) -> None:
    policy = HearingPolicy(Usage(floor=0.0), process.settings.reaper.drain_limit)
    policy.configure([VmChanged(None, VM)])
    policy.all_states([VmStatus(uuid=VM.uuid, name=VM.name, state=VmState.READY)], 0.0)
    for now in (1.0, 1e9):
        policy.tick(now)


def measures(process: RealWorld) -> None:
    process.metrics.serve(process.settings.metrics(process.service))()


STARTS: dict[str, tuple[str, Callable[[RealWorld], None]]] = {
    "bus": ("store", connects),
    "log": ("store", logs),
    "hypervisor": ("vmd", runs_vms),
    "store": ("store", keeps),
    "synjitsu": ("synjitsu", masks),
    "reaper": ("reaper", judges),
}


@pytest.mark.parametrize("key", KEYS)
async def test_what_a_setting_accepts_works_at_the_start_or_is_refused_with_a_reason(
    key: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    service, work = STARTS[key.partition(".")[0]]
    if key.endswith(".metrics"):
        work = measures
    accepted = 0
    for text in TEXTS:
        try:
            hosts = {"bus.hosts": "one"} if key == "hypervisor.host" else {}
            settings = load(None, {}, {"bus.runtime_dir": str(tmp_path), **hosts, key: text})
        except SettingsFault as refused:
            reasons = refused.faults
        else:
            reasons = ()
        assert all(key.rpartition(".")[2] in reason and len(reason) > 20 for reason in reasons), reasons
        if reasons:
            continue
        accepted += 1
        if key.endswith(".metrics") and not settings.metrics(service):
            continue
        try:
            await start(service, settings, work)
        except* SetupFault as faults:
            for fault in faults.exceptions:
                assert len(str(fault)) > 15, fault
        except* JitsuError as errors:
            raise AssertionError(f"{key} = {text!r}: {errors.exceptions}") from errors
        except* BaseException as errors:
            raise AssertionError(f"{key} = {text!r}: {errors.exceptions!r}") from errors
    assert accepted, "nothing was accepted, so nothing was tried"
