"""The kind `command` with real processes: commands that hang, fail, print without end, or outlive vmd."""

from __future__ import annotations

import asyncio
import errno
import os
import time
import uuid
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any

import pytest

from jitsu_protocol.model.errors import BootFailed, Refused, Unavailable
from jitsu_protocol.model.vm_keys import StopMode
from jitsu_runtime.clock import SYSTEM_CLOCK
from jitsu_vmd.hypervisor import Discovers
from jitsu_vmd.hypervisors.command.wires import processes
from jitsu_vmd.hypervisors.command.wires.records import CommandRecords
from jitsu_vmd.hypervisors.shared.process_ids import process_stat
from jitsu_vmd.rules.events import GuestState
from tests.support.hypervisors import Running, running_command, vm_of
from tests.support.machine_command import CommandMachines

if TYPE_CHECKING:
    from pathlib import Path

    from jitsu_vmd.hypervisors.command.rules.reports import Ended

pytestmark = pytest.mark.suite
ENVIRONMENT = {"PATH": os.environ["PATH"]}


async def ran(*argv: str, limit: float = 20.0) -> Ended:
    return await processes.run(argv, ENVIRONMENT, limit, SYSTEM_CLOCK)


def section(tmp_path: Path, *more: str, **settings: Any) -> str:
    return CommandMachines(tmp_path / "machines").toml("machine", *more, **settings)


def machines(made: Running) -> CommandMachines:
    assert made.machines is not None
    return made.machines


# --- one command ---


async def test_a_command_has_the_environment_that_it_is_given_and_no_descriptor_of_vmd() -> None:
    ended = await ran("sh", "-c", "env | sort; ls /proc/self/fd; pwd")
    shown = ended.output.splitlines()
    assert [line for line in shown if line.startswith(("PATH=", "JITSU", "HOME"))] == [f"PATH={os.environ['PATH']}"]
    assert shown[-1] == "/"
    assert shown[-5:-1] == ["0", "1", "2", "3"], "the last is the directory that ls reads"


async def test_a_command_that_hangs_is_ended_with_all_that_it_has_started(tmp_path: Path) -> None:
    began = time.monotonic()
    ended = await ran("sh", "-c", f"sleep 600 & echo $! > {tmp_path}/child; echo why >&2; wait", limit=0.3)
    assert time.monotonic() - began < 5
    assert (ended.killed_after_s, ended.errors) == (0.3, "why\n")
    child = int((tmp_path / "child").read_text())
    for _ in range(100):
        if _letter(child) in "ZX":
            return
        await asyncio.sleep(0.02)
    raise AssertionError("it goes on")


def _letter(pid: int) -> str:
    try:
        return process_stat(pid)[0]
    except OSError:
        return "X"


async def test_a_command_that_heeds_no_signal_is_killed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "GRACE_S", 0.2)
    ended = await ran("sh", "-c", "trap '' TERM; while :; do sleep 0.05; done", limit=0.2)
    assert ended.status == -9


async def test_what_a_command_prints_without_end_does_not_grow_without_end() -> None:
    ended = await ran("sh", "-c", "yes | head -c 200000000; echo over >&2", limit=30)
    assert len(ended.output) == processes.MAX_OUTPUT_BYTES


async def test_a_command_that_cannot_be_waited_for_is_ended(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Else it would go on unnoticed, and be run a second time."""

    def fails(_: int) -> int:
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(os, "pidfd_open", fails)
    with pytest.raises(OSError, match="Too many open files"):
        await processes.run(
            ["sh", "-c", f"sleep 0.3; touch {tmp_path}/done"], ENVIRONMENT, 20.0, SYSTEM_CLOCK, lambda _: None
        )
    await asyncio.sleep(0.6)
    assert not (tmp_path / "done").exists()


async def test_a_daemon_that_is_left_behind_does_not_keep_its_command_from_ending(tmp_path: Path) -> None:
    began = time.monotonic()
    ended = await ran("sh", "-c", f"setsid sleep 600 & echo $! > {tmp_path}/daemon; echo started > /dev/stderr")
    try:
        assert time.monotonic() - began < 10
        assert (ended.status, ended.errors) == (0, "started\n")
    finally:
        os.kill(int((tmp_path / "daemon").read_text()), 9)


async def test_a_program_that_is_not_there_is_named(tmp_path: Path) -> None:
    text = section(tmp_path).replace(f"'{tmp_path}/machines/machine'", "'/nowhere/wake'", 1)
    async with running_command(tmp_path, text) as made:
        with pytest.raises(BootFailed, match=r"\[command.machine\] start: /nowhere/wake cannot be run: No such file"):
            await made.hypervisor.start(made.vm)
        found = await made.hypervisor.examine([made.vm])
        assert "this host has no program /nowhere/wake" in found[made.vm.uuid].mistake


# --- VMs ---


async def test_the_reason_of_a_failed_start_is_the_tail_of_what_was_printed(tmp_path: Path) -> None:
    async with running_command(tmp_path) as made:
        machines(made).on("fail-start")
        with pytest.raises(BootFailed) as failed:
            await made.hypervisor.start(made.vm)
        assert str(failed.value) == ("[command.machine] start: exit status 7: some words Not enough free memory")
        machines(made).off("fail-start")
        await made.hypervisor.start(made.vm)


async def test_a_start_that_hangs_delays_no_other_and_fails_at_its_limit(tmp_path: Path) -> None:
    both = section(tmp_path, limit=1.0) + section(tmp_path, limit=1.0).replace(
        "[command.machine]", "[command.other]"
    ).replace(f"{tmp_path}/machines'", f"{tmp_path}/others'")
    CommandMachines(tmp_path / "others")
    async with running_command(tmp_path, both) as made:
        machines(made).on("hang-start")
        machines(made).on("hang-state")
        other = vm_of("command", command="other", name="other", dns="o.jitsu.test", ip="127.88.0.7")
        hangs = asyncio.ensure_future(made.hypervisor.start(made.vm))
        began = time.monotonic()
        await made.hypervisor.start(other)
        assert time.monotonic() - began < 0.9
        with pytest.raises(BootFailed, match="start: it had not ended after 1 s and was killed: waiting for godot"):
            await hangs
        machines(made).off("hang-state")
        machines(made).off("hang-start")
        await made.hypervisor.stop(other, StopMode.DESTROY)
        CommandMachines(tmp_path / "others").end()


async def test_a_vm_whose_state_was_never_found_out_is_not_started(tmp_path: Path) -> None:
    async with running_command(tmp_path) as made:
        new = vm_of("command", name="new", dns="n.jitsu.test", ip="127.88.0.8")
        machines(made).on("fail-state")
        seen = (await made.hypervisor.guests([new]))[new.uuid]
        assert seen.unseen == "[command.machine] state: exit status 7: some words Not enough free memory"
        with pytest.raises(Unavailable):
            await made.hypervisor.start(new)
        assert machines(made).calls("start") == 0
        guests = await made.hypervisor.guests([made.vm])
        assert guests[made.vm.uuid].state is GuestState.OFF, "the other one was seen"
        machines(made).off("fail-state")


async def test_a_stop_that_changes_nothing_has_failed(tmp_path: Path) -> None:
    text = section(tmp_path, stops_within=0.5)
    text = text.replace(f"stop = ['{tmp_path}/machines/machine'", "stop = ['true'")
    async with running_command(tmp_path, text) as made:
        await made.hypervisor.start(made.vm)
        with pytest.raises(Unavailable, match=r"stop: it has ended, but the state is still running after 0.5 s"):
            await made.hypervisor.stop(made.vm, StopMode.DESTROY)
        os.kill(machines(made).pid(made.vm.name), 9)
        await made.becomes(GuestState.OFF)


async def test_a_guest_that_does_not_shut_down_in_time_is_stopped(tmp_path: Path) -> None:
    async with running_command(tmp_path, shutdown_limit="0.3") as made:
        await made.hypervisor.start(made.vm)
        machines(made).on("fail-shutdown")
        await made.hypervisor.stop(made.vm, StopMode.SHUTDOWN)
        assert await made.state() is GuestState.OFF


async def test_what_happens_behind_our_back_is_noticed(tmp_path: Path) -> None:
    async with running_command(tmp_path) as made:
        await made.hypervisor.start(made.vm)
        await made.becomes(GuestState.RUNNING)
        made.told.clear()
        machines(made).crash(made.vm.name)
        await made.tells(lambda: made.vm.uuid in made.told)
        guest = (await made.hypervisor.guests([made.vm]))[made.vm.uuid]
        assert (guest.state, guest.reason) == (GuestState.OFF, "the guest is gone")
        await _by_hand(made, "start")
        await made.becomes(GuestState.RUNNING)
        await made.hypervisor.start(made.vm)
        assert machines(made).calls("start") == 2, "ours and the one by hand"


async def _by_hand(made: Running, action: str) -> None:
    program = machines(made)
    ended = await ran(str(program.program), str(program.directory), action, made.vm.name)
    assert ended.status == 0


async def test_a_change_that_watch_prints_is_known_at_once(tmp_path: Path) -> None:
    text = section(tmp_path, "watch", interval=600.0)
    async with running_command(tmp_path, text) as made:
        await _by_hand(made, "start")
        made.told.clear()
        machines(made).on("changes", f"{made.vm.name}\n")
        await made.tells(lambda: made.vm.uuid in made.told)
        assert await made.state() is GuestState.RUNNING
        await _by_hand(made, "stop")
        machines(made).on("changes", f"{made.vm.name}\nothers running\n{made.vm.name} off\n")
        await made.becomes(GuestState.OFF)


async def test_two_vms_that_swap_names_are_told_apart_by_watch(tmp_path: Path) -> None:
    uuids = [str(uuid.UUID(int=n, version=4)) for n in (1, 2)]
    text = section(tmp_path, "watch", interval=600.0)
    async with running_command(tmp_path, text) as made:
        for names in (("one", "two"), ("two", "one")):
            vms = [vm_of("command", name=name, uuid=each) for name, each in zip(names, uuids, strict=True)]
            await made.hypervisor.guests(vms)
        made.told.clear()
        machines(made).on("changes", "one running\ntwo running\n")
        await made.tells(lambda: set(uuids) <= set(made.told))
        states = await made.hypervisor.guests(vms)
        assert [guest.state for guest in states.values()] == [GuestState.RUNNING] * 2
        for each in vms:
            await made.hypervisor.forget(each)


async def test_a_vmd_that_returns_starts_nothing_beside_a_start_that_goes_on(tmp_path: Path) -> None:
    async with AsyncExitStack() as stack:
        made = await stack.enter_async_context(running_command(tmp_path))
        slow = machines(made).program
        slow.write_text(slow.read_text().replace("  start)\n", "  start)\n    sleep 1\n"))
        starting = asyncio.ensure_future(made.hypervisor.start(made.vm))
        while not machines(made).calls("start"):
            await asyncio.sleep(0.01)
        starting.cancel()  # as when vmd dies; the command goes on
        async with running_command(tmp_path) as again:
            assert await again.state() is GuestState.RUNNING, "it is believed to start"
            with pytest.raises(Unavailable, match="an earlier command is still under way"):
                await again.hypervisor.start(again.vm)
            await asyncio.sleep(2)
            assert await again.state() is GuestState.RUNNING
            await again.hypervisor.start(again.vm)
            assert machines(made).calls("start") == 1


async def test_a_vmd_that_returns_believes_a_start_that_has_not_shown_yet(tmp_path: Path) -> None:
    async with running_command(tmp_path) as made:
        directory = tmp_path / "commands"
        directory.mkdir(mode=0o700, exist_ok=True)
        (directory / made.vm.uuid).write_text(f"0 0 start {time.monotonic()!r}")
        async with running_command(tmp_path) as again:
            assert await again.state() is GuestState.RUNNING, "it appears"
            await again.hypervisor.start(again.vm)
            assert machines(made).calls("start") == 0


def test_a_record_that_others_may_have_written_is_not_believed(tmp_path: Path) -> None:
    directory = tmp_path / "commands"
    records = CommandRecords(directory)
    records.began("v", os.getpid(), "start", 1.0)
    record = records.read("v")
    assert record is not None
    assert record.runs()
    directory.chmod(0o770)
    assert records.read("v") is None
    records.succeeded("v", "start", 2.0)
    assert (directory / "v").read_text().endswith("start 1.0"), "nor is anything written there"
    directory.chmod(0o700)
    directory.rename(tmp_path / "elsewhere")
    directory.symlink_to(tmp_path / "elsewhere")
    assert records.read("v") is None
    assert CommandRecords(tmp_path / "none").read("v") is None


async def test_twenty_start_at_once(tmp_path: Path) -> None:
    async with running_command(tmp_path) as made:
        vms = [
            vm_of("command", name=f"m{n}", dns=f"m{n}.jitsu.test", ip=f"127.88.1.{n}", uuid=f"{n:032x}")
            for n in range(1, 21)
        ]
        await made.hypervisor.guests(vms)
        await asyncio.gather(*map(made.hypervisor.start, vms))
        guests = await made.hypervisor.guests(vms)
        assert {guest.state for guest in guests.values()} == {GuestState.RUNNING}
        await asyncio.gather(*(made.hypervisor.stop(vm, StopMode.DESTROY) for vm in vms))
        assert machines(made).calls("start") == 20
        assert {guest.state for guest in (await made.hypervisor.guests(vms)).values()} == {GuestState.OFF}


async def test_one_command_tells_the_states_of_all(tmp_path: Path) -> None:
    text = section(tmp_path, "states", interval=0.3)
    text = "\n".join(line for line in text.splitlines() if not line.startswith("state = ")) + "\n"
    async with running_command(tmp_path, text) as made:
        vms = [vm_of("command", name=f"m{n}", dns=f"m{n}.jitsu.test", ip=f"127.88.2.{n}") for n in range(1, 5)]
        assert {each.state for each in (await made.hypervisor.guests(vms)).values()} == {GuestState.OFF}
        assert machines(made).calls("states") <= 2
        await made.hypervisor.start(vms[0])
        await made.hypervisor.start(made.vm)
        await made.becomes(GuestState.RUNNING)
        assert isinstance(made.hypervisor, Discovers)
        found = {each.name: (each.is_running, each.keys) for each in await made.hypervisor.discover()}
        assert found == {name: (True, {"command": "machine"}) for name in ("m1", made.vm.name)}
        await made.hypervisor.stop(vms[0], StopMode.DESTROY)


async def test_a_vm_without_its_section_is_refused_and_counts_as_off(tmp_path: Path) -> None:
    async with running_command(tmp_path) as made:
        lost = vm_of("command", command="lost")
        with pytest.raises(Refused, match=r"there is no section \[command.lost\]"):
            made.hypervisor.check(lost)
        assert await made.hypervisor.guests([lost]) == {}
        with pytest.raises(BootFailed, match="lost"):
            await made.hypervisor.start(lost)
        await made.hypervisor.forget(lost)
