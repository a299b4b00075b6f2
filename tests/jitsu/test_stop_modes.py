"""How a VM with a disk is stopped if nobody says so."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import pytest

from jitsu.stop_modes import stop_modes_at_up, with_stop_modes
from jitsu.toml_text import toml
from jitsu_protocol.model.vm import VM, to_tree
from jitsu_protocol.model.vm_keys import StopMode
from jitsu_runtime.settings.load import VmText, load
from tests.support.vms import make_vm

if TYPE_CHECKING:
    from pathlib import Path

    from jitsu.link import Link

DISK = "/img@vda"


def modes(
    *vms: VM, tree: dict[str, str] | None = None, told: dict[str, bool] | None = None, **flags: str
) -> tuple[list[str], list[str]]:
    settings = load(None, {}, {key.replace("__", "."): value for key, value in flags.items()})
    found, notes = with_stop_modes(vms, settings, tree or {}, told or {})
    return [vm.stop_mode.value for vm in found], notes


def test_a_new_vm_with_a_disk_is_shut_down_and_the_operator_is_told() -> None:
    found, (note,) = modes(make_vm("www", disk=DISK), make_vm("api", "127.0.1.2"))
    assert found == ["shutdown", "destroy"]
    assert note == (
        "note: www has a disk that it writes to and no stop_mode; "
        'stop_mode = "shutdown" is written, so that no data is lost'
    )


@pytest.mark.parametrize("mode", list(StopMode))
def test_what_the_vm_or_the_defaults_say_counts(mode: StopMode) -> None:
    assert modes(make_vm(disk=DISK, stop_mode=mode)) == ([mode], [])
    assert modes(make_vm(disk=DISK, mode=mode)) == ([mode], []), "the original's name of the key"
    by_default, notes = modes(make_vm(disk=DISK), defaults__stop_mode=mode)
    assert (by_default, notes) == (["destroy"], []), "from_config has written the default into the VM already"


OLD = make_vm(disk=DISK)
CONFIGURED = make_vm(disk=DISK, stop_mode="suspend")
BARE = make_vm()


@pytest.mark.parametrize(
    ("tree", "vm", "told", "mode"),
    [
        (OLD, OLD, {}, "destroy"),
        (OLD, OLD, {OLD.uuid: True}, "destroy"),
        (BARE, OLD, {}, "shutdown"),
        (BARE, BARE, {OLD.uuid: True}, "destroy"),
        (CONFIGURED, OLD, {}, "shutdown"),
        (OLD.model_copy(update={"stop_mode": StopMode.SHUTDOWN}), OLD, {}, "shutdown"),
        (OLD.model_copy(update={"stop_mode": StopMode.SHUTDOWN}), BARE, {OLD.uuid: False}, "destroy"),
        (OLD.model_copy(update={"stop_mode": StopMode.SHUTDOWN}), BARE, {}, "shutdown"),
        (None, BARE, {OLD.uuid: True}, "shutdown"),
        (None, BARE, {}, "destroy"),
        (None, OLD, {OLD.uuid: False}, "destroy"),
    ],
)
def test_a_tree_keeps_its_stop_mode_until_a_disk_comes(
    tree: VM | None, vm: VM, told: dict[str, bool], mode: str
) -> None:
    assert modes(vm, tree=to_tree(tree) if tree else {}, told=told)[0] == [mode]


def test_a_hypervisor_that_cannot_shut_down_is_not_asked_to() -> None:
    assert modes(make_vm(disk=DISK), hypervisor__kind="solo5")[0] == ["destroy"]
    named = make_vm(disk=DISK, hypervisor="tenders")
    assert modes(named, hypervisor__connections="tenders solo5")[0] == ["destroy"]
    assert modes(named, hypervisor__kind="solo5", hypervisor__connections="tenders libvirt")[0] == ["shutdown"]


def test_what_is_exported_says_how_a_vm_with_a_disk_is_stopped(tmp_path: Path) -> None:
    assert 'stop_mode = "destroy"' in toml([OLD])
    assert "stop_mode" not in toml([BARE])
    file = tmp_path / "exported.toml"
    file.write_text(toml([OLD]))
    settings = load(file, {}, {})
    assert with_stop_modes(settings.vms, settings, {}, {})[0] == list(settings.vms)


@pytest.mark.parametrize(("mode", "of_file"), [(None, "shutdown"), ("destroy", "destroy")])
async def test_jitsu_up_destroys_the_vms_of_strings_as_the_original_did(
    tmp_path: Path, mode: str | None, of_file: str
) -> None:
    file = tmp_path / "jitsu.toml"
    file.write_text('[vm.db]\ndns = "db.jitsu.test"\nip = "127.0.1.1"\ndisk = "/img@vda"\n')
    string = VmText({"dns": ["www.jitsu.test"], "ip": ["127.0.1.2"], "disk": ["/img@vda"]}, "VM string 1")
    settings = load(file, {}, {"defaults.stop_mode": mode} if mode else {}, [string])
    vms, notes = await stop_modes_at_up(cast("Link", None), settings, 1, {})
    assert {vm.name: vm.stop_mode.value for vm in vms} == {"db": of_file, "www.jitsu.test": "destroy"}
    assert len(notes) == (of_file == "shutdown")
