from __future__ import annotations

from typing import Annotated, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter

from jitsu_protocol.model import vm as vm_module
from jitsu_protocol.model.holdings import Holdings
from jitsu_protocol.model.vm import VM, InvalidVm, from_config, from_tree, to_tree
from jitsu_protocol.model.vm_keys import KEYS, default_of_key, dns_name
from tests.support.vms import make_vm

labels = st.from_regex(r"[a-z0-9]([a-z0-9-]{0,10}[a-z0-9])?", fullmatch=True)
names = st.lists(labels, min_size=1, max_size=4).map(".".join)
seconds = st.floats(0, 1000).map(lambda value: f"{value:.3f}")


def leaves(vm: VM) -> dict[str, str]:
    return {path.split("/", 3)[3]: value for path, value in to_tree(vm).items()}


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("WWW.Jitsu.Test.", "www.jitsu.test"),
        ("a", "a"),
        ("_dns.x-y.z0", "_dns.x-y.z0"),
        ("a" * 63 + ".b", "a" * 63 + ".b"),
    ],
)
def test_names_are_lower_case_and_without_final_dot(text: str, name: str) -> None:
    assert dns_name(text) == name


@pytest.mark.parametrize(
    "text", ["", ".", "a..b", ".a", "-a.b", "a-.b", "a b", "a/b", "ä.b", "a" * 64, ".".join(["abcdefg"] * 33), "*.b"]
)
def test_what_is_no_name_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"name|ASCII"):
        dns_name(text)


@given(st.text())
def test_any_text_is_a_name_or_a_value_error(text: str) -> None:
    try:
        name = dns_name(text)
    except ValueError:
        return
    assert dns_name(name) == name


def test_defaults_are_the_originals() -> None:
    vm = make_vm()
    assert (vm.ttl, vm.response_delay, vm.stop_mode, vm.idle_timeout) == (60, 0.1, "destroy", 120.0)


def test_the_uuid_follows_from_the_name() -> None:
    assert make_vm("a").uuid == make_vm("a", "127.0.1.9").uuid != make_vm("b").uuid


def test_the_defaults_section_counts_where_the_vm_is_silent() -> None:
    config = {"dns": ["a.b"], "ip": ["127.0.1.1"], "mode": ["suspend"]}
    vm = from_config(config, {"ttl": "5", "stop_mode": "shutdown"})
    assert (vm.ttl, vm.stop_mode, vm.idle_timeout) == (5, "suspend", 10.0)


@pytest.mark.parametrize(
    ("config", "key"),
    [
        ({"dns": ["a.b"], "ip": ["1.2.3"]}, "ip"),
        ({"dns": ["a.b"], "ip": ["0.0.0.0"]}, "ip"),
        ({"dns": ["a.b"], "ip": ["127.0.0.1"], "ttl": ["-1"]}, "ttl"),
        ({"dns": ["a.b"], "ip": ["127.0.0.1"], "ttl": ["1", "2"]}, "ttl"),
        ({"dns": ["a.b"], "ip": ["127.0.0.1"], "response_delay": ["nan"]}, "response_delay"),
        ({"dns": ["a.b"], "ip": ["127.0.0.1"], "max_wait": ["4.1"]}, "max_wait"),
        ({"dns": ["a.b"], "ip": ["127.0.0.1"], "stop_mode": ["explode"]}, "stop_mode"),
        ({"dns": ["a.b"], "ip": ["127.0.0.1"], "uuid": ["1"]}, "uuid"),
        ({"dns": ["a.b"], "ip": ["127.0.0.1"], "wait_for_port": ["0"]}, "wait_for_port"),
        ({"dns": ["a.b"], "ip": ["127.0.0.1"], "name": ["-x"]}, "name"),
        ({"dns": ["a.b"], "ip": ["127.0.0.1"], "tll": ["1"]}, "tll"),
        ({"ip": ["127.0.0.1"]}, "dns"),
    ],
)
def test_a_fault_names_its_key(config: dict[str, list[str]], key: str) -> None:
    with pytest.raises(InvalidVm) as caught:
        from_config(config, {})
    assert [fault.key for fault in caught.value.faults] == [key]


@pytest.mark.parametrize(
    ("key", "value", "reason"),
    [
        ("ip", "fe80::1%eth0", "has a scope"),
        ("ip", "::ffff:10.0.0.1", "write 10.0.0.1"),
        ("ip", "255.255.255.255", "cannot be the address"),
        ("ip", "0.1.2.3", "cannot be the address"),
        ("dns", "*." + ".".join(["a" * 63] * 3 + ["b" * 61]), "255 characters long, 253 are allowed"),
        ("ttl", "2147483648", "is too long: at most 2147483647s"),
        ("memory", "1.0", "must be written with digits only"),
        ("name", "Domain-0", "means something else"),
        ("mac", "00:00:00:00:00:00", "not the MAC address"),
        ("nic", "../br0/x", "not the name of a bridge"),
        ("kernel", "a\0b", "control character"),
        ("wait_for_key", "/domain/0", "is not a relative Xenstore path"),
    ],
)
def test_what_would_break_a_service_is_refused_where_it_is_configured_and_where_it_is_read(
    key: str, value: str, reason: str
) -> None:
    with pytest.raises(InvalidVm, match=reason):
        from_config({"dns": ["a.b"], "ip": ["127.0.0.1"]} | {key: [value]}, {})
    written = {"dns/a.b/ttl": "60", "ip": "127.0.0.1", "config/dns/0": "a.b"}
    below = {"ip": "ip", "dns": f"dns/{value}/ttl", "ttl": "dns/a.b/ttl"}.get(key, f"config/{key}/0")
    with pytest.raises(InvalidVm, match=reason):
        from_tree(make_vm("a").uuid, written | {below: "60" if key == "dns" else value})


def test_an_address_that_is_given_twice_is_one_and_there_is_a_limit() -> None:
    config = {"dns": ["a.b"], "ip": ["::1", "0::1", "127.0.0.1", "::1"], "alias": ["c.b", "C.b"]}
    vm = from_config(config, {})
    assert [str(address) for address in vm.addresses] == ["::1", "127.0.0.1"]
    assert vm.aliases == ("c.b",)
    with pytest.raises(InvalidVm, match="at most 64"):
        from_config(config | {"ip": [f"10.0.0.{n}" for n in range(65)]}, {})


def test_a_vm_is_called_by_its_uuid_in_one_form_only() -> None:
    vm = make_vm()
    with pytest.raises(InvalidVm, match=f"must be written {vm.uuid}"):
        from_tree(vm.uuid.upper(), leaves(vm))


def test_g3_an_idle_timeout_below_the_ttl_is_refused() -> None:
    with pytest.raises(InvalidVm, match="less than the TTL"):
        make_vm(ttl="10", idle_timeout="9")


@given(
    st.lists(names, min_size=1, max_size=3, unique=True),
    st.integers(0, 100000),
    seconds,
    st.sampled_from(["destroy", "suspend", "shutdown"]),
    st.booleans(),
)
def test_a_vm_is_the_same_after_a_trip_through_the_tree(
    dns: list[str], ttl: int, delay: str, mode: str, synjitsu: bool
) -> None:
    config = {
        "dns": dns,
        "ip": ["127.0.1.1", "::1"],
        "ttl": [str(ttl)],
        "response_delay": [delay],
        "stop_mode": [mode],
        "use_synjitsu": [str(synjitsu)],
        "nic": ["br0", "br1"],
    }
    vm = from_config(config, {})
    assert from_tree(vm.uuid, leaves(vm)) == vm


def test_the_tree_has_the_originals_paths() -> None:
    vm = make_vm(response_delay="0.9", wait_for_key="data/status")
    assert leaves(vm) == {
        "config/dns/0": "www.jitsu.test",
        "config/ip/0": "127.0.1.1",
        "config/name/0": "www",
        "config/response_delay/0": "0.9",
        "config/wait_for_key/0": "data/status",
        "dns/www.jitsu.test/ttl": "60",
        "ip": "127.0.1.1",
        "response_delay": "0.9",
        "stop_mode": "destroy",
        "use_synjitsu": "false",
        "wait_for_key": "data/status",
    }


def test_an_originals_tree_opens() -> None:
    tree = {
        "config/disk/0": "/dev/loop5@xvda",
        "config/dns/0": "www.rump.jitsu.v0.no",
        "config/ip/0": "89.16.190.215",
        "config/kernel/0": "nginx.bin",
        "config/memory/0": "64000",
        "config/name/0": "rump-xl",
        "config/nic/0": "br0",
        "dns/www.rump.jitsu.v0.no/ttl": "60",
        "ip": "89.16.190.215",
        "response_delay": "0.1",
        "stop_mode": "destroy",
        "use_synjitsu": "false",
        "wait_for_key": "",
    }
    vm = from_tree("1ca00000-0000-0000-0000-000000000b60", tree)
    assert (vm.name, vm.wait_for_key, vm.ttl) == ("rump-xl", "", 60)


def test_what_checks_a_key_is_made_once_and_not_for_each_vm(monkeypatch: pytest.MonkeyPatch) -> None:
    made = 0

    def counted(type: Any) -> TypeAdapter[Any]:
        nonlocal made
        made += 1
        return TypeAdapter(type)

    monkeypatch.setattr(vm_module, "TypeAdapter", counted)
    for number in range(2 * len(KEYS)):
        make_vm(f"vm{number}")
    assert made <= len(KEYS)


def test_a_leaf_of_its_own_counts_before_what_was_configured() -> None:
    vm = make_vm(response_delay="0.9")
    assert from_tree(vm.uuid, leaves(vm) | {"response_delay": "0.2"}).response_delay == 0.2


def test_the_idle_timeout_follows_a_ttl_that_is_changed_in_the_tree() -> None:
    vm = make_vm(ttl="10")
    changed = from_tree(vm.uuid, leaves(vm) | {"dns/www.jitsu.test/ttl": "30"})
    assert (changed.ttl, changed.idle_timeout) == (30, 60.0)


@given(st.dictionaries(st.text(max_size=30), st.text(max_size=30), max_size=5))
def test_g9_any_leaves_are_a_vm_or_invalid(tree: dict[str, str]) -> None:
    with pytest.raises(InvalidVm):
        from_tree("not a uuid", tree | {"dns/a.b/ttl": "1"})


def test_nothing_may_be_held_twice() -> None:
    one, two = make_vm("one", "127.0.1.1"), make_vm("two", "127.0.1.1")
    three = from_config({"name": ["one"], "dns": ["two.jitsu.test"], "ip": ["127.0.1.3"]}, {})
    holdings = Holdings()
    holdings.add(one)
    assert holdings.clashes(one) == []
    assert [fault.key for fault in holdings.clashes(two)] == ["ip"]
    holdings.add(two)
    assert [fault.key for fault in holdings.clashes(three)] == ["dns", "name", "uuid"]
    holdings.remove(two)
    assert [fault.key for fault in holdings.clashes(three)] == ["name", "uuid"]
    holdings.remove(one)
    assert holdings.clashes(three) == []


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("ip", "fd00::5/64", "'fd00::5/64' is a network; write the address without its prefix: fd00::5"),
        ("ip", "10.0.0.5/24", "'10.0.0.5/24' is a network; write the address without its prefix: 10.0.0.5"),
        ("memory", "4X", "'4X' is not a size; use KiB or a unit, for example 65536 or \"64MiB\""),
        (
            "memory",
            "512MB",
            '\'512MB\' is not a size; use KiB or a unit, for example 65536 or "64MiB"; did you mean "512MiB"?',
        ),
        ("memory", "1.5K", "'1.5K' is not a whole number of KiB; use KiB or a unit, for example 65536 or \"64MiB\""),
        ("memory", "17T", "'17T' is too large: at most 16TiB is allowed"),
        ("memory", "0M", "'0M' is too small: it must be at least 1KiB"),
        ("idle_timeout", "10x", "'10x' is not a duration; use seconds or a unit, for example 60 or \"1m\""),
        ("idle_timeout", "0", "0 is too short: it must be more than 0s"),
        ("boot_limit", "4000d", "'4000d' is too long: at most 3650d is allowed"),
        ("max_wait", "10s", "'10s' is too long: at most 4s is allowed"),
        ("ttl", "-5", '-5 is not a duration; use seconds or a unit, for example 60 or "1m"'),
        (
            "ttl",
            "250ms",
            "'250ms' is not a whole number of seconds; use seconds or a unit, for example 60 or \"1m\"",
        ),
    ],
)
def test_a_refused_value_says_which_unit_it_has_and_how_it_is_written(key: str, value: str, said: str) -> None:
    with pytest.raises(InvalidVm) as refused:
        from_config({"dns": ["a.test"], "ip": ["10.0.0.5"], key: [value]}, {})
    assert [(fault.key, fault.message) for fault in refused.value.faults] == [(key, said)]


def test_durations_and_sizes_with_units_are_held_as_plain_numbers() -> None:
    written = {
        "ttl": "1m",
        "name_ttl": "b.test 2m",
        "idle_timeout": "1.5h",
        "response_delay": "250ms",
        "memory": "512MiB",
        "shutdown_limit": "2 min",
    }
    vm = from_config({"dns": ["a.test", "b.test"], "ip": ["10.0.0.5"], **{k: [v] for k, v in written.items()}}, {})
    assert (vm.names, vm.idle_timeout, vm.response_delay) == ({"a.test": 60, "b.test": 120}, 5400.0, 0.25)
    assert (vm.key("memory"), vm.key("shutdown_limit")) == ("524288", "120")
    start = f"jitsu/vm/{vm.uuid}/"
    leaves = {path.removeprefix(start): text for path, text in to_tree(vm).items()}
    assert {path: leaves[path] for path in leaves if path.removeprefix("config/").removesuffix("/0") in written} == {
        "config/ttl/0": "60",
        "config/name_ttl/0": "b.test 120",
        "config/idle_timeout/0": "5400",
        "config/response_delay/0": "0.25",
        "config/memory/0": "524288",
        "config/shutdown_limit/0": "120",
        "idle_timeout": "5400",
        "response_delay": "0.25",
    }
    assert from_tree(vm.uuid, leaves) == vm


@pytest.mark.parametrize(
    ("leaf", "value", "said"),
    [
        ("dns/a.test/ttl", "1m", "'1m' is not a duration; the state tree holds seconds as a plain number"),
        ("idle_timeout", "10m", "'10m' is not a duration; the state tree holds seconds as a plain number"),
        ("config/memory/0", "512M", "'512M' is not a size; the state tree holds KiB as a plain number"),
    ],
)
def test_the_state_tree_has_no_units_because_older_releases_read_it(leaf: str, value: str, said: str) -> None:
    vm = from_config({"dns": ["a.test"], "ip": ["10.0.0.5"]}, {})
    leaves = {path.removeprefix(f"jitsu/vm/{vm.uuid}/"): text for path, text in to_tree(vm).items()}
    with pytest.raises(InvalidVm) as refused:
        from_tree(vm.uuid, leaves | {leaf: value})
    assert [fault.message for fault in refused.value.faults] == [said]


@pytest.mark.parametrize("seconds", ["100000000.01", "0.1", "86400.000123", "1e-05"])
def test_a_duration_of_many_digits_is_the_same_after_a_way_through_the_tree(seconds: str) -> None:
    vm = from_config({"dns": ["a.test"], "ip": ["10.0.0.5"], "max_idle_connection": [seconds]}, {})
    leaves = {path.removeprefix(f"jitsu/vm/{vm.uuid}/"): text for path, text in to_tree(vm).items()}
    assert vm.max_idle_connection == float(seconds)
    assert from_tree(vm.uuid, leaves) == vm


def test_a_wrong_address_is_one_fault() -> None:
    leaves = to_tree(make_vm()) | {}
    own = {path.split("/", 3)[3]: value for path, value in leaves.items()} | {"ip": "fd00::1/64"}
    with pytest.raises(InvalidVm) as caught:
        from_tree(make_vm().uuid, own)
    assert [fault.key for fault in caught.value.faults] == ["ip"]


def shape(annotation: Any) -> object:
    """Return what a type accepts, without the None that stands for silence."""
    schema = TypeAdapter(annotation).json_schema()
    kinds = schema.pop("$defs", {})
    first = next(iter(schema.get("anyOf", [schema])))
    return kinds[first["$ref"].rpartition("/")[2]] if "$ref" in first else first


def test_each_field_of_a_vm_has_the_type_and_the_default_of_its_key() -> None:
    """KEYS is where a key is declared; that the model repeats its type is for the type checker only."""
    for key, field in VM.model_fields.items():
        if key in KEYS and key not in ("name", "uuid", "host"):
            assert shape(Annotated[field.annotation, None, *field.metadata]) == shape(KEYS[key].type), key
            if KEYS[key].default and key != "idle_timeout":
                assert field.default == default_of_key(key), key
