"""XAPI, as a server that plays it answers."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from jitsu_protocol.model.errors import JitsuError, NotFound
from jitsu_protocol.model.vm_keys import StopMode
from jitsu_vmd.hypervisor import Discovers
from jitsu_vmd.rules.events import GuestState
from tests.support.hypervisors import refusal_of, running_xapi, vm_of
from tests.support.xapi import FakeXapi, password_file, self_signed

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.wires

STRANGER = "0d0f4f2a-6a69-5473-8175-76302e320001"


async def test_xapi_an_ambiguous_name_is_an_error_and_a_uuid_is_not(tmp_path: Path) -> None:
    with FakeXapi() as xapi:
        xapi.add("twice")
        chosen = xapi.add("twice", STRANGER)
        by_name = vm_of("xapi", name="twice")
        by_uuid = vm_of("xapi", name="twice", uuid=STRANGER)
        async with running_xapi(by_name, tmp_path, xapi) as made:
            with pytest.raises(JitsuError, match="2 VMs of the pool are called twice"):
                await made.hypervisor.start(by_name)
            assert await made.hypervisor.guests([by_name]) == {}
            await made.hypervisor.start(by_uuid)
            assert xapi.vms[chosen]["power_state"] == "Running"
            for missing in (vm_of("xapi", name="none"), vm_of("xapi", uuid="0d0f4f2a-6a69-5473-8175-76302e320009")):
                with pytest.raises(NotFound, match="the pool has no VM"):
                    await made.hypervisor.start(missing)


async def test_xapi_templates_and_snapshots_are_no_vms(tmp_path: Path) -> None:
    with FakeXapi() as xapi:
        xapi.add("jitsu-conforms", is_a_template=True)
        xapi.add("jitsu-conforms", is_a_snapshot=True, power_state="Suspended")
        async with running_xapi(vm_of("xapi"), tmp_path, xapi) as made:
            assert await made.hypervisor.guests([made.vm]) == {}


async def test_xapi_tells_the_interfaces_of_a_vm_in_their_order(tmp_path: Path) -> None:
    with FakeXapi() as xapi:
        xapi.add("jitsu-conforms", bridges=("OpaqueRef:net0", "OpaqueRef:net1"))
        async with running_xapi(vm_of("xapi"), tmp_path, xapi) as made:
            guest = (await made.hypervisor.guests([made.vm]))[made.vm.uuid]
            assert [(nic.mac, nic.bridge) for nic in guest.nics] == [
                ("02:00:5e:00:53:40", "xenbr0"),
                ("02:00:5e:00:53:41", "xenbr1"),
            ]


async def test_xapi_names_the_hosts_end_of_each_interface_after_each_start(tmp_path: Path) -> None:
    with FakeXapi() as xapi:
        ref = xapi.add("jitsu-conforms", bridges=("OpaqueRef:net0", "OpaqueRef:net1"), domid="-1")
        async with running_xapi(vm_of("xapi"), tmp_path, xapi) as made:
            for domain, names in (("-1", ["", ""]), ("7", ["vif7.0", "vif7.1"]), ("9", ["vif9.0", "vif9.1"])):
                xapi.vms[ref]["domid"] = domain
                guest = (await made.hypervisor.guests([made.vm]))[made.vm.uuid]
                assert [nic.interface for nic in guest.nics] == names


async def test_xapi_a_session_that_has_expired_is_renewed(tmp_path: Path) -> None:
    with FakeXapi() as xapi:
        xapi.add("jitsu-conforms")
        async with running_xapi(vm_of("xapi"), tmp_path, xapi) as made:
            for _ in range(3):
                before = xapi.logins
                xapi.sessions.clear()
                assert await made.state() is GuestState.OFF
                assert xapi.logins > before


async def test_xapi_a_host_that_is_no_master_any_more_is_left_for_the_one_that_is(tmp_path: Path) -> None:
    with FakeXapi() as slave, FakeXapi(host="127.0.0.2", port=int(slave.uri.rpartition(":")[2])) as master:
        master.add("jitsu-conforms")
        slave.master = "127.0.0.2"
        async with running_xapi(vm_of("xapi"), tmp_path, slave) as made:
            await made.hypervisor.start(made.vm)
            assert await made.state() is GuestState.RUNNING
        assert "VM.start" in master.calls
        assert "VM.start" not in slave.calls
        master.close_sessions()


async def test_xapi_what_others_do_is_told_within_a_second(tmp_path: Path) -> None:
    with FakeXapi() as xapi:
        ref = xapi.add("jitsu-conforms")
        async with running_xapi(vm_of("xapi"), tmp_path, xapi) as made:
            for state, seen in (("Running", GuestState.RUNNING), ("Halted", GuestState.OFF)):
                made.told.clear()
                xapi.becomes(ref, state)
                async with asyncio.timeout(1):
                    await made.tells(lambda: made.vm.uuid in made.told)
                assert await made.state() is seen


async def test_xapi_a_guest_that_does_not_hear_is_halted(tmp_path: Path) -> None:
    with FakeXapi() as xapi:
        ref = xapi.add("jitsu-conforms", power_state="Running")
        xapi.deaf = True
        vm = vm_of("xapi", shutdown_limit="0.3")
        async with running_xapi(vm, tmp_path, xapi) as made:
            await made.hypervisor.stop(vm, StopMode.SHUTDOWN)
            assert xapi.vms[ref]["power_state"] == "Halted"
            assert "VM.destroy" not in xapi.calls, "that would remove it"


async def test_xapi_certificates_and_passwords_are_checked(tmp_path: Path) -> None:
    vm = vm_of("xapi")
    certificate = self_signed(tmp_path)
    with FakeXapi(certificate) as xapi:
        xapi.add(vm.name)
        with pytest.raises(ExceptionGroup) as caught:
            async with running_xapi(vm, tmp_path, xapi):
                pass
        assert "CERTIFICATE_VERIFY_FAILED" in str(caught.value.exceptions[0])
        trusted = {"hypervisor__ca_file": str(certificate)}
        async with running_xapi(vm, tmp_path, xapi, **trusted) as made:
            assert await made.state() is GuestState.OFF
        (tmp_path / "wrong").mkdir()
        wrong = password_file(tmp_path / "wrong", "wrong")
        with pytest.raises(ExceptionGroup) as caught:
            async with running_xapi(vm, tmp_path, xapi, **trusted, hypervisor__password_file=str(wrong)):
                pass
        assert "XAPI takes neither user nor password" in str(caught.value.exceptions[0])


async def test_xapi_refuses_what_it_cannot_do(tmp_path: Path) -> None:
    with FakeXapi() as xapi:
        async with running_xapi(vm_of("xapi"), tmp_path, xapi) as made:
            assert "the pool has already" in refusal_of(made.hypervisor, vm_of("xapi", kernel="/boot/x"))
            assert "no access to Xenstore" in refusal_of(made.hypervisor, vm_of("xapi", wait_for_key="data/status"))


async def test_xapi_is_away_and_comes_back(tmp_path: Path) -> None:
    vm = vm_of("xapi")
    with FakeXapi() as xapi:
        xapi.add(vm.name)
        port = int(xapi.uri.rpartition(":")[2])
        async with running_xapi(vm, tmp_path, xapi) as made:
            xapi.close()
            with pytest.raises(JitsuError, match="cannot be reached"):
                await made.state()
            with FakeXapi(port=port) as again:
                again.add(vm.name, power_state="Running")
                assert await made.state() is GuestState.RUNNING
                again.close_sessions()


async def test_xapi_lists_its_vms_with_their_keys_and_the_addresses_that_their_tools_report(tmp_path: Path) -> None:
    with FakeXapi() as xapi:
        config = {"jitsu.dns": "web.lab.test", "jitsu.ttl": "30", "folder": "/a"}
        xapi.add("web", STRANGER, other_config=config, guest_metrics="OpaqueRef:m", power_state="Running")
        xapi.add("template", is_a_template=True)
        xapi.metrics["OpaqueRef:m"] = {
            "networks": {"0/ip": "192.0.2.7", "0/ipv4/0": "192.0.2.7", "0/ipv6/0": "fd00::7"}
        }
        vm = vm_of("xapi", name="web")
        async with running_xapi(vm, tmp_path, xapi) as made:
            assert isinstance(made.hypervisor, Discovers)
            [machine] = await made.hypervisor.discover()
        assert (machine.name, machine.uuid, machine.is_running) == ("web", STRANGER, True)
        assert machine.addresses == ("192.0.2.7", "fd00::7")
        assert machine.keys == {"dns": "web.lab.test", "ttl": "30"}
        assert machine.nics[0].mac == "02:00:5e:00:53:40"
