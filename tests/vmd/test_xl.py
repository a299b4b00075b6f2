"""What xl reads and prints."""

from __future__ import annotations

import pytest

from jitsu_protocol.model.errors import Refused
from jitsu_vmd.hypervisors.libxl.rules import config, listed, reason
from jitsu_vmd.hypervisors.shared.rules.spec import domain_spec
from jitsu_vmd.rules.events import GuestState
from tests.support.vms import make_vm

HEAD = "Name                     ID   Mem VCPUs\tState\tTime(s)   UUID          Reason-Code\tSecurity Label\n"
UUID = "6d0f4f2a-6a69-5473-8175-76302e320001"
ROWS = (
    ("Domain-0", 0, "r-----", "-"),
    ("www", 1, "-b----", "-"),
    ("paused", 2, "--p---", "-"),
    ("gone", 3, "---s--", "0"),
    ("broken", 40, "---sc-", "3"),
    ("(null)", 41, "--ps-d", "0"),
)
LIST = HEAD + "".join(
    f"{name:<40} {number:>5} {64:>5} {1:>5}     {state}  {0.4:>8.1f} {UUID} {reason:>8} {'-':>16}\n"
    for name, number, state, reason in ROWS
)
"""As xl of Xen 4.17 prints it (tools/xl/xl_list.c)."""


def test_the_list_of_domains_is_read() -> None:
    assert [(each.name, each.id, each.state) for each in listed(LIST)] == [
        ("www", 1, GuestState.RUNNING),
        ("paused", 2, GuestState.PAUSED),
        ("gone", 3, GuestState.OFF),
        ("broken", 40, GuestState.CRASHED),
        ("(null)", 41, GuestState.OFF),
    ]
    assert listed("") == []
    assert listed("what is this\n") == []


def test_the_first_error_is_the_reason() -> None:
    assert reason("Parsing config\nlibxl: error: x.c:1:f: no memory\nlibxl: error: y.c:2:g: not destroyed\n") == (
        "libxl: error: x.c:1:f: no memory"
    )
    assert reason("www is an invalid domain identifier (rc=-6)\n") == "www is an invalid domain identifier (rc=-6)"
    assert reason("") == ""


def test_a_domain_is_configured_as_the_originals_keys_say() -> None:
    vm = make_vm(
        kernel="/images/www.xen",
        memory="64000",
        cmdline="--port 80",
        disk="/images/www.img@xvda",
        nic="br0",
        script="vif-bridge",
        mac="02:00:5e:00:53:01",
    )
    assert config(domain_spec(vm, "other"), "pvh").splitlines() == [
        'name = "www"',
        f'uuid = "{vm.uuid}"',
        'type = "pvh"',
        'kernel = "/images/www.xen"',
        "memory = 62",
        "vcpus = 1",
        'on_poweroff = "destroy"',
        'on_reboot = "restart"',
        'on_crash = "destroy"',
        'cmdline = "--port 80"',
        'vif = ["mac=02:00:5e:00:53:01,bridge=br0,script=vif-bridge"]',
        'disk = ["/images/www.img,raw,xvda,rw"]',
    ]
    assert 'vif = ["mac=' in config(domain_spec(make_vm(kernel="/k"), "br9"), "pv")
    assert "vif = []" in config(domain_spec(make_vm(kernel="/k"), ""), "pv")


def test_g9_no_value_gets_out_of_its_quotes() -> None:
    with pytest.raises(Refused, match="cannot be written into"):
        config(domain_spec(make_vm(kernel='/k" builder = "x'), ""), "pv")
