"""What is recorded for `jitsu why`: its bounds, privacy, and the file."""

from __future__ import annotations

import asyncio
import os
import stat
from typing import TYPE_CHECKING

import pytest

from jitsu_protocol.askers import MAX_CAUSES, MAX_SAMPLES, Askers, asked
from jitsu_protocol.messages import Connected, NotedClient, Report, VmStatus
from jitsu_protocol.model.privacy import Privacy
from jitsu_protocol.model.states import VmState
from jitsu_reaper.rules import recorded as bounds
from jitsu_reaper.rules.recorded import ClientKey, Noticed, Occurrence, Recorded
from jitsu_reaper.wires.record_file import NAME, RecordFile
from tests.support.why import TOKEN, WALL, Situation, boot, stop

if TYPE_CHECKING:
    from pathlib import Path

V4, V6 = bytes([192, 0, 2, 77]), bytes.fromhex("20010db8000112345678000000000001")


@pytest.mark.parametrize(
    ("privacy", "v4", "v6"),
    [
        (Privacy.NETWORK, "192.0.2.0/24", "2001:db8:1:1200::/56"),
        (Privacy.FULL, "192.0.2.77", "2001:db8:1:1234:5678::1"),
        (Privacy.NONE, "", ""),
    ],
)
def test_only_so_much_of_an_address_leaves_the_process(privacy: Privacy, v4: str, v6: str) -> None:
    askers = Askers("dns-0", "i", privacy)
    askers.caused("v", "query", "www A", V4, 1.0)
    askers.noticed("v", "query", "www A", V6, 1.0)
    assert [each.client for each in asked(askers.take(), 2.0)] == [v4, v6]
    assert privacy.recorded(bytes(10) + b"\xff\xff" + V4) == v4, "an IPv4 client of an IPv6 socket"
    assert privacy.recorded(b"no address") == ""


def test_a_flood_of_clients_at_a_reporter_is_bounded_and_each_summon_has_a_token_of_its_own() -> None:
    askers = Askers("dns-0", "instance", Privacy.NETWORK)
    tokens = {askers.caused(f"v{n}", "query", "a" * 1000, V4, 1.0) for n in range(2 * MAX_CAUSES)}
    for n in range(2 * MAX_SAMPLES):
        if askers.samples():
            askers.noticed(f"v{n}", "query", "www A", V4, 1.0)
    taken = asked(askers.take(), 1.0)
    assert (len(tokens), len(taken)) == (2 * MAX_CAUSES, MAX_CAUSES + MAX_SAMPLES)
    Report(replica="dns-0", instance="i", batch=1, lease_s=1.0, asked=taken)
    assert askers.take() == []


def test_g9_a_flood_of_vms_and_clients_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, most in (("MAX_ALL_EVENTS", 50), ("MAX_ALL_CLIENTS", 40), ("MAX_TOKENS", 10), ("MAX_CONNECTED", 5)):
        monkeypatch.setattr(bounds, name, most)
    made = Recorded()
    for n in range(500):
        flood = [NotedClient(f"v{n}", f"t{n}-{m}", "query", f"{m} A", f"10.0.{m}.0/24", 0.0) for m in range(20)]
        connected = [Connected(f"v{n}", 1, False, [])]
        report = Report(replica="dns-0", instance="i", batch=n, lease_s=1.0, asked=flood, connected=connected)
        made.report(report, WALL, {f"v{n}"})
        made.refused(f"v{n}", "x" * 10_000, WALL)
        for m in range(30):
            began = boot(0.0, begun_mono=float(m + 1), by="")
            made.status(VmStatus(uuid=f"v{n}", name="v", state=VmState.READY, boot=began), WALL + m)
    assert sum(len(each.events) for each in made.vms.values()) <= 50
    assert sum(len(each.clients) for each in made.vms.values()) <= 40
    assert max(len(each.events) for each in made.vms.values()) <= bounds.MAX_EVENTS
    assert "v499" in made.vms
    found = [n for n in range(500) if made.connections_of(f"v{n}", WALL)]
    assert len(found) <= 5
    assert found[-1] == 499
    assert len(made.refusals["v499"][0].reason) == bounds.MAX_NOTE_CHARACTERS


def test_g9_a_reporter_that_makes_up_vms_and_ages_displaces_nothing() -> None:
    made = Situation()
    made.ready(30.0)
    made_up = [NotedClient(f"x{n}", "", "query", "x A", "", 1e300) for n in range(1000)]
    made.report(asked=made_up, connected=[Connected("x", 1, False, [])])
    made.asked(1e300)
    assert list(made.recorded.vms) == [made.vm.uuid]
    assert made.recorded.connections_of("x", WALL + made.now) is None
    (client,) = made.why().clients
    assert client.ts == WALL + made.now - bounds.KEPT_S


def test_what_is_older_than_thirty_days_is_forgotten() -> None:
    made = Situation()
    made.asked(0.0)
    made.ready(30.0)
    now = WALL + made.now
    assert not made.recorded.expire(now + bounds.KEPT_S - 60.0)
    assert made.recorded.expire(now + bounds.KEPT_S + 1.0)
    assert made.recorded.vms == {}


def test_who_is_connected_is_forgotten_if_synjitsu_does_not_repeat_it() -> None:
    made = Situation()
    made.connected(Connected(made.vm.uuid, 1, False, []))
    assert made.recorded.connections_of(made.vm.uuid, WALL + made.now + 89.0) is not None
    assert made.recorded.connections_of(made.vm.uuid, WALL + made.now + 91.0) is None


def test_the_same_boot_is_recorded_once_however_often_vmd_tells_of_it() -> None:
    made = Situation()
    made.state(VmState.BOOTING, 0.1, boot=boot(0.1, took_s=None))
    made.asked(0.1, token=TOKEN)
    made.now += 1.0
    for _ in range(3):
        made.ready(0.9, boot=boot(1.1))
    (event,) = made.recorded.vms[made.vm.uuid].events
    assert (event.cause, event.client, event.took_s, event.outcome) == ("query", "192.0.2.0/24", 0.25, "ready")


# --- the file ---


def recorded() -> Recorded:
    made = Situation()
    made.asked(30.25, token=TOKEN)
    made.ready(30.0)
    made.state(VmState.OFF, 2.0, boot=boot(30.0), stop=stop("operator", 2.0, by="operator:bob"))
    return made.recorded


def read(directory: Path) -> Recorded:
    found = Recorded()
    RecordFile(directory, found).load()
    return found


async def test_a_reaper_that_was_killed_finds_every_boot_stop_and_client_again(tmp_path: Path) -> None:
    made = recorded()
    file = RecordFile(tmp_path, made)
    assert file.append(), "there is no file yet"
    await file.rewrite()
    path = tmp_path / NAME
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    vm = next(iter(made.vms))
    made.status(VmStatus(uuid=vm, name="www", state=VmState.READY, boot=boot(0.0, begun_mono=99.0)), WALL + 2000.0)
    assert not file.append(clients=10)
    assert read(tmp_path).vms == made.vms
    with path.open("a") as cut:
        cut.write('["event","x",{"wh')
    assert read(tmp_path).vms == made.vms, "a line that was cut short does not count"
    made.forget(vm)
    file.append()
    assert read(tmp_path).vms == {}


@pytest.mark.parametrize(
    "content",
    [
        "not ours\n",
        '["jitsu-record", 1]\n["event","x",{"what":"boot"}]\n',
        '["jitsu-record", 1]\n["event","x",{"what":"boot","ts":1e999}]\n',
        '["jitsu-record", 1]\n["event","x",{"what":"boot","ts":1e300}]\n',
        '["jitsu-record", 1]\n["clients","x",[[1,2]]]\n',
        '["jitsu-record", 1]\n["clients","x",["abcdef"]]\n',
        '["jitsu-record", 1]\n' + "[" * 30_000 + "\n",
        '["jitsu-record", 1]\n' + '"' + "x" * 40_000 + '"\n',
        "\0\0\0\0",
        b"\xff\xfe\xff\n",
    ],
)
async def test_a_damaged_or_foreign_file_is_set_aside(
    tmp_path: Path, content: str | bytes, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / NAME).write_bytes(content if isinstance(content, bytes) else content.encode())
    assert read(tmp_path).vms == {}
    assert "set aside" in capfd.readouterr().out
    assert not (tmp_path / NAME).exists()
    assert (tmp_path / NAME).with_suffix(".set-aside").exists()


def test_a_link_or_a_pipe_in_the_place_of_the_file_is_not_followed(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "other").write_text("precious")
    (tmp_path / NAME).symlink_to(tmp_path / "other")
    assert read(tmp_path).vms == {}
    os.mkfifo(tmp_path / NAME)
    assert read(tmp_path).vms == {}
    assert capfd.readouterr().out.count("set aside") == 2
    assert (tmp_path / "other").read_text() == "precious"


def test_a_directory_that_cannot_be_written_costs_one_line_in_the_log(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    file = RecordFile(tmp_path / "nowhere", recorded())
    for _ in range(3):
        assert file.append()
        asyncio.run(file.rewrite())
    file.save_all()
    assert capfd.readouterr().out.count("cannot save the record") == 1


async def test_what_is_appended_while_the_file_is_rewritten_is_in_the_new_one(tmp_path: Path) -> None:
    made = Recorded()
    for n in range(500):
        made.restore_event(f"v{n}", Occurrence("boot", float(n), "query", "dns-0"))
    file = RecordFile(tmp_path, made)
    rewriting = asyncio.ensure_future(file.rewrite())
    await asyncio.sleep(0)
    made.forget("v0")
    file.append()
    await rewriting
    assert read(tmp_path).vms == made.vms
    assert len(made.vms) == 499


async def test_forgetting_leaves_nothing_in_any_file_even_during_a_rewrite(tmp_path: Path) -> None:
    made = Recorded()
    for n in range(500):
        made.restore_clients(f"v{n}", [(ClientKey("query", "www A", "192.0.2.0/24", "dns-0"), Noticed(1.0, 1))])
    file = RecordFile(tmp_path, made)
    await file.rewrite()
    (tmp_path / NAME).with_suffix(".set-aside").write_text("192.0.2.0/24")
    rewriting = asyncio.ensure_future(file.rewrite())
    await asyncio.sleep(0)
    made.clear()
    file.erase()
    await rewriting
    await file.rewrite()
    assert "192.0.2" not in "".join(path.read_text() for path in tmp_path.iterdir())
    assert made.vms == {}


async def test_a_file_that_has_grown_is_rewritten(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("jitsu_reaper.wires.record_file.MIN_GROWTH_BYTES", 0)
    made = recorded()
    file = RecordFile(tmp_path, made)
    await file.rewrite()
    vm, grown = next(iter(made.vms)), False
    for n in range(100):
        status = VmStatus(uuid=vm, name="www", state=VmState.READY, boot=boot(0.0, begun_mono=100.0 + n))
        made.status(status, WALL + 2000.0 + n)
        grown |= file.append()
    before = (tmp_path / NAME).stat().st_size
    await file.rewrite()
    assert grown
    assert (tmp_path / NAME).stat().st_size < before
    assert read(tmp_path).vms == made.vms
