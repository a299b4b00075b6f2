"""Which VMs labels describe: what is accepted of them, what is refused and why, whatever a machine says."""

from __future__ import annotations

from ipaddress import ip_network
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jitsu_protocol.messages import DiscoveredMachine
from jitsu_protocol.model.errors import TimedOut
from jitsu_protocol.model.labels import LABEL_KEYS, MAX_LABELLED
from jitsu_protocol.model.vm import VM, from_config, from_tree, uuid_for
from jitsu_protocol.model.vm_keys import KEYS
from jitsu_vmd.rules.labels import LabelReading, LabelRules, read

RULES = LabelRules({"": ("lab.test",), "lxd": ("lxd.test", "lab.test"), "off": ()}, stop_modes={"": "shutdown"})


def machine(name: str = "web", hypervisor: str = "", **more: Any) -> DiscoveredMachine:
    labels = more.pop("labels", {"dns": f"{name}.lab.test"})
    return DiscoveredMachine(
        name=name, hypervisor=hypervisor, keys=labels, **{"addresses": ["192.0.2.1"], "is_running": False, **more}
    )


def reading(*machines: DiscoveredMachine, known: tuple[VM, ...] = (), rules: LabelRules = RULES) -> LabelReading:
    return read_all(*machines, known=known, rules=rules)[0]


def read_all(
    *machines: DiscoveredMachine, known: tuple[VM, ...] = (), rules: LabelRules = RULES
) -> tuple[LabelReading, dict[str, Any]]:
    answers: dict[str, Any] = {name: [] for name in rules.zones}
    for each in machines:
        answers[each.hypervisor].append(each)
    return read(answers, rules, {vm.uuid: vm for vm in known})


def refusal(*machines: DiscoveredMachine, known: tuple[VM, ...] = (), rules: LabelRules = RULES) -> str:
    """Return why the labels of the last machine's VM are refused; its VM is left alone."""
    found, faults = read_all(*machines, known=known, rules=rules)
    vm = uuid_for(machines[-1].name)
    assert vm not in found.vms
    assert vm in found.kept
    return str(faults[vm].reason)


def only(found: LabelReading) -> VM:
    [(uuid, leaves)] = found.vms.items()
    return from_tree(uuid, leaves)


def configured(name: str = "web", ip: str = "192.0.2.1", **keys: str) -> VM:
    config = {"name": name, "dns": f"{name}.lab.test", "ip": ip} | keys
    return from_config({key: [value] for key, value in config.items()}, {})


def test_a_machine_with_a_name_below_the_zones_is_a_vm() -> None:
    labels = {"dns": "web.lab.test, www.lab.test", "ttl": "1m", "wait_for_port": "80", "use_synjitsu": "true"}
    vm = only(reading(machine(labels=labels, hypervisor="lxd")))
    assert (vm.name, vm.uuid, list(vm.names.values())) == ("web", uuid_for("web"), [60, 60])
    assert (vm.key("hypervisor"), vm.wait_for_port, vm.use_synjitsu) == ("lxd", 80, True)
    assert list(map(str, vm.addresses)) == ["192.0.2.1"]


def test_how_it_is_stopped_is_its_label_else_what_its_hypervisor_can_do() -> None:
    assert only(reading(machine())).stop_mode == "shutdown"
    assert only(reading(machine(hypervisor="lxd"))).stop_mode == "destroy"
    assert only(reading(machine(labels={"dns": "a.lab.test", "stop_mode": "pause"}))).stop_mode == "pause"


def test_more_unusable_machines_than_a_message_can_name_leave_all_vms_as_they_are(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("jitsu_vmd.rules.labels.MAX_KEPT", 2)
    found = reading(machine("good"), *(machine(f"bad{n}", "lxd", labels={"kernel": "x"}) for n in range(3)))
    assert only(found).name == "good"
    assert (found.kept, found.silent) == ((), ("", "lxd"))


def test_a_machine_without_labels_is_nobodys_business() -> None:
    assert not reading(machine(labels={}), machine("b", labels={}, is_running=True))


def test_labels_of_a_connection_without_zones_do_not_count() -> None:
    assert not reading(machine(hypervisor="off"))


def test_a_silent_connection_is_reported_as_such_and_the_others_go_on() -> None:
    found, _ = read({"": [machine()], "lxd": TimedOut("timed out")}, RULES, {})
    assert (list(found.vms), found.silent) == ([uuid_for("web")], ("lxd",))


@pytest.mark.parametrize(
    ("labels", "reason"),
    [
        ({"dns": "web.example.org"}, "dns: web.example.org is not below lab.test"),
        ({"dns": "lab.test"}, "dns: lab.test is not below lab.test"),
        ({"dns": "*.lab.test"}, "dns: *.lab.test is not below lab.test"),
        ({"dns": "a.lxd.test"}, "dns: a.lxd.test is not below lab.test"),
        ({"dns": "web.lab.test", "alias": "bank.test"}, "alias: bank.test is not below lab.test"),
        ({"dns": ""}, "dns: the label is missing"),
        ({"ttl": "5"}, "dns: the label is missing"),
        ({"dns": "web.lab.test", "disk": "/dev/sda"}, "disk: only an operator may set it"),
        ({"dns": "web.lab.test", "summon": "one"}, "summon: only an operator may set it"),
        ({"dns": "web.lab.test", "hypervisor": "xen"}, "hypervisor: only an operator may set it"),
        ({"dns": "web.lab.test", "tll": "5"}, 'tll: there is no such key; did you mean "ttl"?'),
        ({"dns": "web.lab.test", "ttl": "soon"}, "ttl: 'soon' is not a duration"),
        ({"dns": "web.lab.test", "ttl": "1" * 5000}, "ttl: the label has more than 4096 characters"),
        ({"dns": ",".join(["a.lab.test"] * 200)}, "dns: the label has more than 100 values"),
        ({"dns": "web.lab.test\x00"}, "dns: "),
        ({"dns": "web.lab.test"} | {f"k{n}": "" for n in range(80)}, "it has more than 64 labels"),
        (
            {"dns": "web.lab.test", "ip": "192.0.2.254"},
            "ip: 192.0.2.254 is neither an address that",
        ),
        ({"dns": "web.lab.test", "ip": "nonsense"}, "ip: nonsense is neither an address"),
    ],
)
def test_labels_that_cannot_be_used_are_refused_with_the_reason(labels: dict[str, str], reason: str) -> None:
    assert refusal(machine(labels=labels)).startswith(reason)


@pytest.mark.parametrize("name", ["my web", "..", "a/b", "", "x" * 200, "Domain-0", "we\u200bb"])
def test_a_machine_whose_name_no_vm_can_have_is_refused(name: str) -> None:
    assert "name: " in refusal(machine(name, labels={"dns": "web.lab.test"}))


def test_no_key_that_names_something_of_the_host_can_be_set_by_a_label() -> None:
    for key in KEYS.keys() - LABEL_KEYS:
        assert refusal(machine(labels={"dns": "web.lab.test", key: "1"})) == f"{key}: only an operator may set it"


def test_an_address_of_a_label_is_one_of_the_machine_or_in_the_networks_for_labels() -> None:
    chooses = {"dns": "web.lab.test", "ip": "198.51.100.1"}
    two = machine(labels=chooses, addresses=["192.0.2.1", "198.51.100.1"])
    assert list(map(str, only(reading(two)).addresses)) == ["198.51.100.1"]
    rules = LabelRules({"": ("lab.test",)}, networks=[ip_network("203.0.113.0/24")])
    labels = {"dns": "web.lab.test", "ip": "203.0.113.9"}
    assert list(map(str, only(reading(machine(labels=labels, addresses=[]), rules=rules)).addresses)) == ["203.0.113.9"]
    assert "nor in hypervisor.label_networks" in refusal(machine(labels=labels, addresses=[]))


def test_a_machine_that_is_off_and_has_no_address_then_keeps_the_one_of_its_vm() -> None:
    assert refusal(machine(addresses=[])).startswith("ip: the hypervisor knows no address of it; give it a fixed one")
    vm = only(reading(machine(addresses=[]), known=(configured(),)))
    assert list(map(str, vm.addresses)) == ["192.0.2.1"]
    elsewhere = configured(hypervisor="lxd")
    assert "no address" in refusal(machine(addresses=[]), known=(elsewhere,))


def test_a_guest_that_runs_is_not_stopped_because_its_address_is_not_fixed() -> None:
    now = machine(addresses=["192.0.2.5"], is_running=True)
    why = refusal(now, known=(configured(),))
    assert why == "ip: it has 192.0.2.5 now, and had 192.0.2.1; give it a fixed address, or stop it"
    more = machine(addresses=["192.0.2.1", "192.0.2.5"], is_running=True)
    assert list(map(str, only(reading(more, known=(configured(),))).addresses)) == ["192.0.2.1"]
    off = machine(addresses=["192.0.2.5"])
    assert list(map(str, only(reading(off, known=(configured(),))).addresses)) == ["192.0.2.5"]


def test_a_vm_whose_labels_are_gone_stays_until_its_machine_has_stopped() -> None:
    runs = machine(labels={}, is_running=True)
    assert reading(runs, known=(configured(),)).kept == (uuid_for("web"),)
    assert not reading(machine(labels={}), known=(configured(),))
    assert not reading(runs, known=(configured(hypervisor="lxd"),))


def test_a_vm_whose_labels_cannot_be_read_now_stays_as_it_is() -> None:
    for labels in ({}, {"dns": "other.lab.test"}):
        found = reading(machine(labels=labels, is_read=False), known=(configured(),))
        assert (found.vms, found.kept) == ({}, (uuid_for("web"),))
    assert not reading(machine(labels={}, is_read=False))


def test_of_two_machines_of_one_name_the_one_that_has_the_vm_keeps_it() -> None:
    here, there = machine(), machine(hypervisor="lxd")
    assert "hypervisor" not in only(reading(here, there)).config
    assert only(reading(here, there, known=(configured(hypervisor="lxd"),))).config["hypervisor"] == ("lxd",)
    _, faults = read_all(here, there)
    assert faults[uuid_for("web")].reason == "1 other machines of that name are not used: lxd"


def test_too_many_machines_are_left_out_by_their_names(monkeypatch: pytest.MonkeyPatch) -> None:
    assert MAX_LABELLED == 5000
    monkeypatch.setattr("jitsu_vmd.rules.labels.MAX_LABELLED", 50)
    machines = [machine(f"m{n:05}", labels={"dns": f"m{n}.lab.test"}) for n in range(53)]
    found, faults = read_all(*machines)
    assert len(found.vms) == 50
    assert sorted(fault.machine for fault in faults.values()) == ["m00050", "m00051", "m00052"]


_ANY = st.text(st.characters(codec="utf-8"), max_size=80)
_NAMES = st.lists(
    st.sampled_from(["a.lab.test", "b.lxd.test", "*.lab.test", "*.a.lab.test", "lab.test", "lab.test.", "A.LAB.test."]),
    min_size=1,
    max_size=2,
).map(",".join)
_IPS = st.sampled_from(["192.0.2.1", "192.0.2.9", "192.0.2.1,2001:db8::1", "::ffff:192.0.2.1"])
_MACHINES = st.lists(
    st.builds(
        DiscoveredMachine,
        name=st.one_of(_ANY, st.sampled_from(["web", "db"])),
        hypervisor=st.sampled_from(["", "lxd", "off"]),
        is_running=st.booleans(),
        addresses=st.lists(st.sampled_from(["192.0.2.1", "192.0.2.2", "2001:db8::1"]), max_size=2),
        keys=st.one_of(
            st.fixed_dictionaries({"dns": _NAMES}, optional={"alias": _NAMES, "ip": _IPS, "ttl": st.just("5")}),
            st.dictionaries(st.one_of(st.sampled_from(sorted(KEYS)), _ANY), st.one_of(_ANY, _NAMES, _IPS), max_size=6),
        ),
    ),
    max_size=6,
)


@given(_MACHINES, st.booleans())
def test_whatever_machines_say_what_is_accepted_lies_below_the_zones_and_is_theirs(
    machines: list[DiscoveredMachine], is_known: bool
) -> None:
    found, _ = read_all(*machines, known=(configured(),) if is_known else ())
    for uuid, leaves in found.vms.items():
        vm = from_tree(uuid, leaves)
        zones = RULES.zones[vm.config.get("hypervisor", ("",))[0]]
        assert all(name.endswith(tuple(f".{zone}" for zone in zones)) for name in (*vm.names, *vm.aliases))
        assert vm.config.keys() <= LABEL_KEYS | {"name", "hypervisor"}
        theirs = {each for machine in machines if machine.name == vm.name for each in machine.addresses}
        assert set(map(str, vm.addresses)) <= theirs | ({"192.0.2.1"} if is_known else set())
    assert not set(found.vms) & set(found.kept)
