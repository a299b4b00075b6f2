"""`jitsu discover` and `jitsu add`: what is shown, which machine is meant, and the keys that its VM gets."""

from __future__ import annotations

from typing import Any

import pytest

from jitsu.machines import AskedKeys, FoundMachines, as_json, chosen, draft, machine_lines
from jitsu.toml_text import toml
from jitsu_protocol.messages import AskedHypervisor, DiscoveredMachine, Discoveries
from jitsu_protocol.model.errors import BadRequest, NotFound, Refused
from jitsu_protocol.model.export import keys_of

WEB: dict[str, Any] = {"name": "web", "addresses": ["192.0.2.1"], "is_running": True}
FIRST = AskedHypervisor(connection="", name="libvirt (qemu:///system)", kind="libvirt")


def found(*machines: dict[str, Any], silent: dict[str, str] | None = None, **trouble: str) -> FoundMachines:
    other = AskedHypervisor(connection="other", name="the other", kind="solo5", **trouble)
    answer = Discoveries(machines=[DiscoveredMachine(**each) for each in machines], hypervisors=[FIRST, other])
    return FoundMachines.of({"": answer}, silent or {})


def drafted(machine: dict[str, Any], asked: AskedKeys | None = None, zones: tuple[str, ...] = ("lab.test",)) -> Any:
    here = found(machine)
    return draft(here, *chosen(here, machine["name"]), asked or AskedKeys(), zones)


# --- what is shown


def test_machines_that_are_configured_are_left_out_unless_all_are_wanted() -> None:
    here = found(WEB, {"name": "old", "vm": "u-1"})
    assert machine_lines(here, everything=False) == [
        "MACHINE  STATE    ADDRESSES  LABELS",
        "web      running  192.0.2.1",
    ]
    assert machine_lines(here, everything=True)[2].split() == ["old", "off", "unknown", "yes"]


def test_nothing_to_show_is_said() -> None:
    assert machine_lines(found(), everything=True) == ["the hypervisors have no machines"]
    assert machine_lines(found({"name": "old", "vm": "u"}), everything=False) == [
        "the hypervisors have no machine that is not configured"
    ]


def test_the_zones_of_all_vmds_are_known_to_a_caller_that_has_no_settings() -> None:
    one, two = (Discoveries(machines=[], hypervisors=[], zones=zones) for zones in (["a.test"], ["b.test", "a.test"]))
    assert FoundMachines.of({"": one, "b": two}, {}).zones == ["a.test", "b.test"]


def test_the_hypervisor_is_a_column_if_there_are_several() -> None:
    lines = machine_lines(found(WEB, {"name": "db", "hypervisor": "other"}), everything=False)
    assert [line.split()[:2] for line in lines] == [["HYPERVISOR", "MACHINE"], ["-", "web"], ["other", "db"]]


def test_a_hostile_name_cannot_move_the_cursor_nor_fill_the_screen() -> None:
    lines = machine_lines(found({"name": "a\x1b[2J\nb", "keys": {"dns": "\x07" * 4000}}), everything=False)
    assert len(lines) == 2
    assert lines[1].isprintable()
    assert len(lines[1]) < 500


def test_who_does_not_answer_is_named_and_the_answer_is_not_complete() -> None:
    here = found(WEB, silent={"b": "timed out"}, trouble="no socket")
    assert here.troubles() == ["the vmd of b does not answer: timed out", "the other does not answer: no socket"]
    assert not here.is_complete
    assert found(WEB).is_complete
    assert as_json(here, everything=False)["silent"] == {"b": "timed out"}


# --- which one is meant


def test_a_machine_is_meant_by_its_name_or_its_uuid() -> None:
    here = found(WEB, {"name": "db", "uuid": "u-2"})
    assert chosen(here, "web")[1].name == "web"
    assert chosen(here, "u-2")[1].name == "db"


def test_an_unknown_machine_is_refused_with_the_nearest_and_with_who_was_silent() -> None:
    with pytest.raises(NotFound, match="called 'webb'; did you mean \"web\""):
        chosen(found(WEB), "webb")
    with pytest.raises(NotFound, match="may be at one that does not answer: the other does not answer: no socket"):
        chosen(found(WEB, trouble="no socket"), "db")


def test_two_machines_of_one_name_are_refused_until_somebody_says_which() -> None:
    here = found(WEB, WEB | {"hypervisor": "other", "uuid": "u-9"})
    with pytest.raises(BadRequest, match="2 machines are called web: web of the first hypervisor, web of other"):
        chosen(here, "web")
    assert chosen(here, "web", "other")[1].uuid == "u-9"
    assert chosen(here, "web", "")[1].uuid == ""
    assert chosen(here, "u-9")[1].hypervisor == "other"


def test_a_machine_that_is_configured_is_refused() -> None:
    with pytest.raises(Refused, match="web is configured already"):
        chosen(found(WEB | {"vm": "u-1"}), "web")


# --- the VM


def test_what_is_not_said_comes_from_the_hypervisor() -> None:
    machine = WEB | {"mac": "02:00:00:00:00:01", "bridge": "br0", "ports": [9000, 443], "hypervisor": ""}
    made = drafted(machine)
    assert made.keys == {
        "dns": ["web.lab.test"],
        "ip": ["192.0.2.1"],
        "name": ["web"],
        "stop_mode": ["shutdown"],
        "mac": ["02:00:00:00:00:01"],
        "nic": ["br0"],
        "wait_for_port": ["443"],
    }
    assert made.doubtful == ("mac", "nic", "wait_for_port")
    assert "nic" not in made.without("nic").keys


def test_a_kind_that_cannot_shut_down_is_not_asked_to() -> None:
    assert "stop_mode" not in drafted(WEB | {"hypervisor": "other"}).keys


def test_the_command_line_counts_before_labels_and_labels_before_what_was_found() -> None:
    machine = WEB | {"ports": [80], "keys": {"dns": "a.lab.test, b.lab.test", "ttl": "1m", "wait_for_port": "81"}}
    made = drafted(machine)
    assert (made.keys["dns"], made.keys["ttl"], made.keys["wait_for_port"]) == (
        ["a.lab.test", "b.lab.test"],
        ["1m"],
        ["81"],
    )
    asked = AskedKeys(["c.test"], ["192.0.2.9"], "5")
    made = drafted(machine, asked)
    assert (made.keys["dns"], made.keys["ip"], made.keys["ttl"]) == (["c.test"], ["192.0.2.9"], ["5"])
    assert 'dns = "c.test"\nip = "192.0.2.9"\nttl = 5' in toml([made.vm({})])


def test_a_label_that_only_an_operator_may_set_is_not_used_and_that_is_said() -> None:
    made = drafted(WEB | {"keys": {"script": "/bin/sh", "disk": "/dev/sda"}})
    assert not {"script", "disk"} & made.keys.keys()
    assert made.notes == (
        "its label disk is not used: only an operator may set that key",
        "its label script is not used: only an operator may set that key",
    )


def test_a_machine_without_an_address_is_refused_with_what_to_do() -> None:
    with pytest.raises(BadRequest, match=r"no address of web is known.*give it with --ip"):
        drafted(WEB | {"addresses": []})


def test_a_machine_needs_a_dns_name_if_there_is_no_zone() -> None:
    with pytest.raises(BadRequest, match="give it with --dns"):
        drafted(WEB, zones=())


def test_a_name_that_no_vm_can_have_is_replaced_if_the_machine_has_a_uuid() -> None:
    uuid = "3b3f9f5e-6d0c-4c1e-9d55-0f3d2f3a0001"
    made = drafted(WEB | {"name": "my web (old)", "uuid": uuid}).vm({})
    assert (made.name, made.uuid, keys_of(made)["dns"]) == ("my-web-old", uuid, ["my-web-old.lab.test"])
    with pytest.raises(BadRequest, match="rename the machine"):
        drafted(WEB | {"name": "my web (old)"})


def test_a_mistake_on_the_command_line_names_the_key() -> None:
    with pytest.raises(BadRequest, match="ttl: 'soon' is not a duration"):
        drafted(WEB, AskedKeys(ttl="soon")).vm({})
    with pytest.raises(BadRequest, match=r"ip: '300\.1\.1\.1' is not an IP address"):
        drafted(WEB, AskedKeys(ip=["300.1.1.1"])).vm({})
