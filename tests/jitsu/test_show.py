from __future__ import annotations

import pytest

from jitsu.apply import change_lines
from jitsu.durations import duration
from jitsu.legacy import parse_strings
from jitsu.show import trace_lines, tree_lines
from jitsu_protocol.changes import changes_for
from jitsu_protocol.messages import Timeline
from jitsu_protocol.model.vm import from_config, to_tree
from jitsu_runtime.settings.load import SettingsFault
from tests.support.vms import make_vm

LISTING = {
    "/jitsu/vm/1ca...b60/config/disk/0": "/dev/loop5@xvda",
    "/jitsu/vm/1ca...b60/config/disk/1": "/dev/loop6@xvdb",
    "/jitsu/vm/1ca...b60/config/dns/0": "www.rump.jitsu.v0.no",
    "/jitsu/vm/1ca...b60/config/ip/0": "89.16.190.215",
    "/jitsu/vm/1ca...b60/config/kernel/0": "nginx.bin",
    "/jitsu/vm/1ca...b60/config/memory/0": "64000",
    "/jitsu/vm/1ca...b60/config/name/0": "rump-xl",
    "/jitsu/vm/1ca...b60/config/nic/0": "br0",
    "/jitsu/vm/1ca...b60/config/response_delay/0": "0.9",
    "/jitsu/vm/1ca...b60/config/rumprun_config/0": "json.cfg",
    "/jitsu/vm/1ca...b60/dns/www.rump.jitsu.v0.no/ttl": "60",
    "/jitsu/vm/1ca...b60/ip": "89.16.190.215",
    "/jitsu/vm/1ca...b60/response_delay": "0.9",
    "/jitsu/vm/1ca...b60/stop_mode": "destroy",
    "/jitsu/vm/1ca...b60/use_synjitsu": "false",
}
"""The first VM of the listing in the post, but for the fault that its response_delay shows 0.1."""


def test_the_posts_first_vm_has_the_paths_of_its_listing() -> None:
    text = (
        "disk=/dev/loop5@xvda,disk=/dev/loop6@xvdb,dns=www.rump.jitsu.v0.no,ip=89.16.190.215,kernel=nginx.bin,"
        "memory=64000,name=rump-xl,nic=br0,response_delay=0.9,rumprun_config=json.cfg"
    )
    (parsed,) = parse_strings([text])
    vm = from_config(parsed.config, {})
    ours = {"/" + path.replace(vm.uuid, "1ca...b60"): value for path, value in to_tree(vm).items()}
    assert ours == LISTING


def test_a_tree_is_printed_as_irmin_prints_it() -> None:
    lines = tree_lines({path.strip("/"): value for path, value in LISTING.items()})
    assert [line.split(".....")[0] for line in lines] == sorted(LISTING)
    assert len({len(line) for line in lines}) == 1
    assert lines[0].startswith("/jitsu/vm/1ca...b60/config/disk/0....")
    assert lines[0].endswith('..."/dev/loop5@xvda"')
    assert tree_lines({}) == []


def test_strings_may_repeat_keys_and_must_be_pairs() -> None:
    (text,) = parse_strings(["dns=a.b, dns=c.d,ip=127.0.0.1,cmdline=a=b"])
    assert text.config == {"dns": ["a.b", "c.d"], "ip": ["127.0.0.1"], "cmdline": ["a=b"]}
    with pytest.raises(SettingsFault) as caught:
        parse_strings(["dns=", "", "ip"])
    assert caught.value.faults == (
        "VM string 1: 'dns=' is not key=value",
        "VM string 2: '' is not key=value",
        "VM string 3: 'ip' is not key=value",
    )


def test_applying_says_what_differs_and_leaves_other_vms_alone() -> None:
    old, new, other = make_vm(ttl="5"), make_vm(ttl="6"), make_vm("other", "127.0.1.2")
    changes = changes_for([new], to_tree(old) | to_tree(other))
    path = f"jitsu/vm/{old.uuid}"
    assert change_lines(changes) == [
        f'- {path}/config/ttl/0 "5"',
        f'+ {path}/config/ttl/0 "6"',
        f'- {path}/dns/www.jitsu.test/ttl "5"',
        f'+ {path}/dns/www.jitsu.test/ttl "6"',
    ]
    assert changes_for([old], to_tree(old)) == []


def test_a_timeline_shows_where_the_time_went() -> None:
    stages = [("query", 10.0), ("summon", 10.001), ("start call", 10.001), ("ready", 10.101)]
    timeline = Timeline(summon="x", vm="v", name="www", trigger="dns", ts=0.0, joined=2, stages=stages, outcome="ready")
    lines = trace_lines([timeline])
    assert lines[0].endswith("www (dns, 2 joined) 101.0 ms: ready")
    assert [
        line.split()[-3] if line.split()[-1] == "ms" else line.split("ms")[0].split()[-1] for line in lines[1:]
    ] == [
        "1.0",
        "1.0",
        "101.0",
    ]


@pytest.mark.parametrize(
    ("seconds", "text"), [(None, "-"), (0.04, "0.0 s"), (99.0, "99.0 s"), (600.0, "10 min"), (7200.0, "2 h")]
)
def test_durations_are_for_people(seconds: float | None, text: str) -> None:
    assert duration(seconds) == text
