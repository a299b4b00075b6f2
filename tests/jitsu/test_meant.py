"""Which paths `jitsu set` and the others take a word for, and which they refuse."""

from __future__ import annotations

import pytest

from jitsu.meant import meant_path, meant_paths, paths_to_remove
from jitsu_protocol.model.errors import JitsuError
from jitsu_protocol.model.vm import from_config, to_tree
from tests.support.vms import make_vm

WWW = from_config({"name": ["www"], "dns": ["www.jitsu.test", "jitsu.test"], "ip": ["10.0.0.1"]}, {})
API = make_vm("api.v2", "10.0.0.2")
ONE = make_vm("one", "10.0.0.3", dns="shared.test", summon="one")
TWO = make_vm("two", "10.0.0.4", dns="shared.test", summon="one", kernel="/boot/k")
LEAVES = to_tree(WWW) | to_tree(API) | to_tree(ONE) | to_tree(TWO)
W, A = f"jitsu/vm/{WWW.uuid}", f"jitsu/vm/{API.uuid}"
STATS = f"jitsu/stats/{WWW.uuid}"
UNKNOWN = "4d47be4e-9cd2-5d84-a20e-7b966138fbe2"


@pytest.mark.parametrize(
    ("word", "value", "paths"),
    [
        ("www.ttl", "30", [f"{W}/dns/jitsu.test/ttl", f"{W}/dns/www.jitsu.test/ttl"]),
        ("www.jitsu.test.ttl", "30", [f"{W}/dns/www.jitsu.test/ttl"]),
        ("WWW.jitsu.test.stop_mode", "pause", [f"{W}/stop_mode"]),
        (f"{WWW.uuid}.ip", "10.0.0.9", [f"{W}/ip"]),
        ("api.v2.idle_timeout", "90", [f"{A}/idle_timeout"]),
        ("www.memory", "1", [f"{W}/config/memory/0"]),
        ("two.kernel", "/k", [f"jitsu/vm/{TWO.uuid}/config/kernel/0"]),
        ("jitsu/vm/www/ip", "10.0.0.9", [f"{W}/ip"]),
        (f"/{W}/ip", "10.0.0.9", [f"{W}/ip"]),
        (f"{W}/config/disk/0", "/x@xvda", [f"{W}/config/disk/0"]),
        ("jitsu/stats/www/total_starts", "4", [f"jitsu/stats/{WWW.uuid}/total_starts"]),
        (
            "jitsu/stats/www/dns/jitsu.test/total_requests",
            "4",
            [f"jitsu/stats/{WWW.uuid}/dns/jitsu.test/total_requests"],
        ),
        ("jitsu/stats/www/dns/jitsu.test/last_ttl", "4", [f"jitsu/stats/{WWW.uuid}/dns/jitsu.test/last_ttl"]),
        ("jitsu/dns/changed", "now", ["jitsu/dns/changed"]),
        ("jitsu/vm/www/dns/further.test/ttl", "9", [f"{W}/dns/further.test/ttl"]),
    ],
)
def test_a_word_stands_for_these_paths(word: str, value: str, paths: list[str]) -> None:
    assert meant_paths(word, value, LEAVES) == dict.fromkeys(paths, value)


@pytest.mark.parametrize(
    ("word", "value", "held"),
    [
        ("www.jitsu.test.ttl", "1m", {f"{W}/dns/www.jitsu.test/ttl": "60"}),
        ("www.response_delay", "250ms", {f"{W}/response_delay": "0.25"}),
        ("jitsu/vm/www/idle_timeout", "2d", {f"{W}/idle_timeout": "172800"}),
        ("www.memory", "4G", {f"{W}/config/memory/0": "4194304"}),
        (f"{W}/config/name_ttl/0", "jitsu.test 1h", {f"{W}/config/name_ttl/0": "jitsu.test 3600"}),
        ("www.cmdline", "10m", {f"{W}/config/cmdline/0": "10m"}),
        ("www.idle_timeout", "", {f"{W}/idle_timeout": ""}),
        ("jitsu/stats/www/total_starts", "4", {f"{STATS}/total_starts": "4"}),
    ],
)
def test_a_unit_is_converted_before_a_value_goes_into_the_tree(word: str, value: str, held: dict[str, str]) -> None:
    assert meant_paths(word, value, LEAVES) == held


@pytest.mark.parametrize(
    ("word", "value", "said"),
    [
        ("www.jitsu.test.ttl", "-5", '-5 is not a duration; use seconds or a unit, for example 60 or "1m"'),
        ("www.memory", "4X", "'4X' is not a size; use KiB or a unit, for example 65536 or \"64MiB\""),
    ],
)
def test_set_refuses_a_wrong_duration_or_size_with_what_to_write(word: str, value: str, said: str) -> None:
    with pytest.raises(JitsuError) as refused:
        meant_paths(word, value, LEAVES)
    assert refused.value.message == f"{word}: {said}"


@pytest.mark.parametrize(
    ("word", "value", "said"),
    [
        ("foo", "bar", "'foo' is neither a path nor a VM"),
        ("wwww.ttl", "30", "no VM is called 'wwww'; did you mean \"www\"?"),
        ("www.tll", "30", "'tll' is not a key of a VM; did you mean \"www.ttl\"?"),
        ("vm/www/ttl", "30", "nothing reads vm/www/ttl; did you mean www.ttl?"),
        (f"{W}/ttl", "30", f"nothing reads {W}/ttl; did you mean {W}/dns/jitsu.test/ttl?"),
        ("jitsu/vm/www/stop_mod", "pause", f"did you mean {W}/stop_mode?"),
        (f"{W}/config/nonsense/0", "1", f"nothing reads {W}/config/nonsense/0; did you mean {W}/config/"),
        (f"{W}/config/response_delay/0", "1", f"while {W}/response_delay is there; set that"),
        (f"{W}/config/ttl/0", "1", f"did you mean {W}/dns/"),
        (f"{W}/memory", "1", f"did you mean {W}/config/memory/0?"),
        (f"{W}/dns/www.jitsu.test/tll", "1", f"did you mean {W}/dns/www.jitsu.test/ttl?"),
        (f"jitsu/vm/{UNKNOWN}/ip", "10.0.0.9", f"no VM has the UUID {UNKNOWN}"),
        (f"jitsu/stats/{WWW.uuid}/dns/jitsu.test/total_requests", "abc", "'abc' is not a whole number"),
        (f"jitsu/stats/{WWW.uuid}/start_ts", "nan", "nan is not a number from 0 to"),
        (f"jitsu/stats/{WWW.uuid}/dns/jitsu.test/requests", "1", "did you mean jitsu/stats/"),
        ("jitsu/replica/dns-0/lease_s", "-4", "is written by the reaper only"),
        ("jitsu/replica/ghost/address", "x", "is written by the reaper only"),
        ("shared.test.stop_mode", "pause", f"several VMs are called shared.test: one ({ONE.uuid}), two ({TWO.uuid})"),
        ("www.dns", "x", "dns of a VM cannot be set"),
        ("www.name", "x", "name of a VM cannot be set while it is there; `jitsu apply` a file that has it"),
        (f"{W}/config/name/0", "x", "name of a VM cannot be set while it is there; `jitsu apply` a file that has it"),
        ("jitsu/vm/www/config/uuid/0", "x", "uuid of a VM cannot be set while it is there"),
        ("a/b", "x", "nothing reads a/b; what is read is below jitsu/vm/"),
    ],
)
def test_what_nothing_reads_is_refused_with_what_is_near(word: str, value: str, said: str) -> None:
    with pytest.raises(JitsuError) as caught:
        meant_paths(word, value, LEAVES)
    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("word", "path"),
    [
        ("www", W),
        ("jitsu.test", W),
        ("api.v2", A),
        ("www.stop_mode", f"{W}/stop_mode"),
        ("jitsu/vm/api.v2", A),
        ("jitsu/stats/www", f"jitsu/stats/{WWW.uuid}"),
        ("jitsu", "jitsu"),
        ("/", ""),
        ("", ""),
        ("what/ever", "what/ever"),
    ],
)
def test_a_place_to_look_at_may_be_a_vm_or_any_path(word: str, path: str) -> None:
    assert meant_path(word, LEAVES) == path


@pytest.mark.parametrize(
    ("word", "paths"),
    [
        ("www.wait_for_port", [f"{W}/wait_for_port", f"{W}/config/wait_for_port"]),
        ("two.kernel", [f"jitsu/vm/{TWO.uuid}/kernel", f"jitsu/vm/{TWO.uuid}/config/kernel"]),
        ("www", [W]),
        (f"{W}/config/disk/0", [f"{W}/config/disk/0"]),
    ],
)
def test_a_key_is_removed_wherever_it_is_written(word: str, paths: list[str]) -> None:
    assert paths_to_remove(word, LEAVES) == paths


@pytest.mark.parametrize(
    ("word", "said"), [("www.ttl", "a name has a TTL"), ("www.ip", "a VM has an address"), ("www.dns", "cannot be set")]
)
def test_what_a_vm_cannot_be_without_is_not_removed(word: str, said: str) -> None:
    with pytest.raises(JitsuError, match=said):
        paths_to_remove(word, LEAVES)


def test_a_vm_in_place_of_one_of_its_keys_is_said_to_be_one() -> None:
    with pytest.raises(JitsuError, match=r"www is a VM \(say which of its keys"):
        meant_paths("www", "5", LEAVES)


def test_a_vm_without_a_name_has_no_ttl_to_look_at() -> None:
    nameless = {path: value for path, value in LEAVES.items() if not path.startswith(f"{W}/dns/")}
    with pytest.raises(JitsuError, match="has no name"):
        meant_path("www.ttl", nameless)
