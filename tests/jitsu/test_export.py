"""`jitsu export`, then `jitsu apply` of what it printed, changes nothing: for every key, however it was set."""

from __future__ import annotations

import tempfile
from contextlib import suppress
from enum import StrEnum
from pathlib import Path
from typing import Literal, get_args, get_origin

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jitsu.toml_text import toml
from jitsu_protocol.changes import changes_for
from jitsu_protocol.model.effect import effect
from jitsu_protocol.model.export import vms_in
from jitsu_protocol.model.vm import VM, VM_ROOT, InvalidVm, from_config, from_tree, key_of_leaf, to_tree
from jitsu_protocol.model.vm_keys import KEYS
from jitsu_runtime.settings.load import load
from tests.support.examples import examples
from tests.support.vms import make_vm

WORDS = st.text(min_size=1, max_size=20)
TEXTS = WORDS | st.sampled_from(['"', "\\", "a\x7fb", "\u2028", "'''", "#", "é", "0x10", "1.50", "007", "1e3", "true"])
SECONDS = st.floats(0.001, 1e6).map(str) | st.integers(1, 10**6).map(str)
NAMES = st.lists(
    st.sampled_from(["a.test", "b.test", "*.c.test", "d-e.f.test", "_x.test"]), min_size=1, max_size=4, unique=True
)
VALUES: dict[str, st.SearchStrategy[str]] = {
    "name": st.sampled_from(["www", "a.b", "x+y", "0", "true"]),
    "uuid": st.uuids().map(str),
    "ip": st.ip_addresses().map(str),
    "alias": st.sampled_from(["alias.test", "other.test"]),
    "hypervisor": st.sampled_from(["one", "two"]),
    "host": st.sampled_from(["london"]),
    "ttl": st.integers(0, 2**31 - 1).map(str),
    "name_ttl": st.sampled_from(["a.test 5", "b.test 2147483647", "d-e.f.test 0"]),
    "priority": st.integers(-1000, 1000).map(str),
    "max_wait": st.floats(0.001, 4).map(str),
    "mac": st.just("02:00:5e:00:53:01"),
    "boot_mac": st.just("02:00:5e:00:53:02"),
    "disk": st.sampled_from(["/img@xvda", "/img,two@xvdb"]),
    "nic": st.sampled_from(["br0", "br1"]),
    "wait_for_key": st.sampled_from(["data/status", "a/b-c"]),
}
ENUMERATED = {
    key: [str(value) for value in (get_args(about.type) if get_origin(about.type) is Literal else about.type)]
    for key, about in KEYS.items()
    if get_origin(about.type) is Literal or (isinstance(about.type, type) and issubclass(about.type, StrEnum))
}
BOOLEANS = st.sampled_from(["true", "false"])


def values_of(key: str) -> st.SearchStrategy[str]:
    about = KEYS[key]
    if key in ENUMERATED:
        return st.sampled_from(ENUMERATED[key])
    if key in VALUES:
        return VALUES[key]
    return BOOLEANS if about.type is bool else SECONDS if about.unit == "s" else st.integers(1, 60_000).map(str) | TEXTS


@st.composite
def leaves_of_a_vm(draw: st.DrawFn) -> dict[str, str]:
    """Return the leaves of a VM that was applied with some keys, some of which were then set live."""
    config = {"dns": draw(NAMES), "ip": [draw(VALUES["ip"])]}
    for key in draw(st.lists(st.sampled_from(sorted(KEYS)), max_size=8)):
        if key not in ("dns", "ip"):
            size = draw(st.integers(1, 3)) if KEYS[key].repeats else 1
            tried = config | {key: [draw(values_of(key)) for _ in range(size)]}
            with suppress(InvalidVm):
                from_config(tried, {})
                config = tried
    leaves = {"ip": ""}
    with suppress(InvalidVm):
        leaves = to_tree(from_config(config, {}))
    start = next(iter(leaves)).rpartition("/dns/")[0]
    for path in draw(st.lists(st.sampled_from(sorted(leaves)), max_size=3)):
        key = key_of_leaf(path.removeprefix(start + "/"))
        if key:
            leaves |= {path: draw(values_of(key))}
    for key in draw(st.lists(st.sampled_from(sorted(key for key in KEYS if key_of_leaf(key) == key)), max_size=3)):
        leaves |= {f"{start}/{key}": draw(values_of(key))}
    return leaves


@given(leaves=leaves_of_a_vm())
@settings(max_examples=examples(400), deadline=None)
def test_applying_what_was_exported_changes_nothing(leaves: dict[str, str]) -> None:
    vms, faults = vms_in(leaves)
    if faults or not vms:
        return  # the store accepts no such change
    assert unchanged(leaves, vms) == []


def unchanged(leaves: dict[str, str], vms: list[VM]) -> list[object]:
    with tempfile.TemporaryDirectory() as directory:
        file = Path(directory, "exported.toml")
        file.write_text(toml(vms), encoding="utf-8")
        again = load_on_hosts(file)
    assert [effect(vm) for vm in again] == [effect(vm) for vm in vms]
    return list(changes_for(again, leaves, exact=True))


def load_on_hosts(file: Path) -> tuple[VM, ...]:
    return load(file, {"JITSU_BUS_HOSTS": "london"}, {}).vms


@pytest.mark.parametrize("key", sorted(KEYS))
def test_each_key_survives_by_itself(key: str) -> None:
    config = {"dns": ["a.test", "b.test"], "ip": ["10.0.0.7"], "name": ["www"]}
    if key not in config:
        config[key] = [example(key)]
    vm = from_config(config, {})
    assert unchanged(to_tree(vm), [from_tree(vm.uuid, below(vm))]) == []


def example(key: str) -> str:
    if key in ENUMERATED:
        return ENUMERATED[key][-1]
    fixed = {"uuid": "4d47be4e-9cd2-5d84-a20e-7b966138fbe2", "alias": "c.test", "hypervisor": "two", "host": "london"}
    fixed |= {"ttl": "7", "name_ttl": "b.test 9", "mac": "02:00:5e:00:53:01", "boot_mac": "02:00:5e:00:53:02"}
    fixed |= {"disk": "/img@xvda", "nic": "br1", "wait_for_key": "data/x", "max_wait": "0.75", "idle_timeout": "500.5"}
    fixed |= {"awake": "Mon-Fri 08:00-18:00", "asleep": "0 3 * * 7 for 2h", "time_zone": "Europe/Berlin"}
    fixed |= {"holidays": "DE-BE"}
    return fixed.get(key, "true" if KEYS[key].type is bool else "77")


def below(vm: VM) -> dict[str, str]:
    start = f"{VM_ROOT}/{vm.uuid}/"
    return {path.removeprefix(start): value for path, value in to_tree(vm).items()}


def test_what_was_set_live_is_exported() -> None:
    vm = from_config({"dns": ["a.test", "b.test"], "ip": ["10.0.0.7"], "name": ["www"]}, {})
    start = f"{VM_ROOT}/{vm.uuid}"
    leaves = to_tree(vm) | {
        f"{start}/dns/b.test/ttl": "9",
        f"{start}/dns/c.test/ttl": "60",
        f"{start}/ip": "10.0.0.8 fd00::8",
        f"{start}/idle_timeout": "500",
        f"{start}/stop_mode": "suspend",
        f"{start}/response_delay": "0.30",
        f"{start}/use_synjitsu": "true",
    }
    vms, _ = vms_in(leaves)
    assert toml(vms) == (
        '[vm.www]\ndns = ["a.test", "b.test", "c.test"]\nip = ["10.0.0.8", "fd00::8"]\nname_ttl = "b.test 9"\n'
        'stop_mode = "suspend"\nresponse_delay = 0.3\nuse_synjitsu = true\nidle_timeout = 500\n'
    )
    assert unchanged(leaves, vms) == []


def test_a_vm_that_cannot_be_used_is_named_and_does_not_end_the_command() -> None:
    good, bad = make_vm("good", "10.0.0.1"), make_vm("bad", "10.0.0.2")
    leaves = to_tree(good) | to_tree(bad) | {f"{VM_ROOT}/{bad.uuid}/stop_mode": "explode"}
    vms, faults = vms_in(leaves)
    assert [vm.name for vm in vms] == ["good"]
    assert "stop_mode" in faults[bad.uuid]
