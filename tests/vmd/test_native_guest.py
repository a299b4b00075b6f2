"""The guest in C as the mock hypervisor runs it: its command line, and where it is looked for."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from jitsu_runtime.native_guest import native_guest
from jitsu_vmd.hypervisors.bridge.backend import check_cmdline, is_on_tap
from jitsu_vmd.hypervisors.mock.bridge import BridgeGuest
from jitsu_vmd.hypervisors.mock.native import native_arguments
from jitsu_vmd.hypervisors.shared.rules.spec import mock_spec
from tests.support.hypervisors import raised
from tests.support.vms import make_vm

pytestmark = pytest.mark.wires

REQUEST: dict[str, Any] = {
    "name": "www",
    "addresses": ["10.0.0.9", "fd00::9"],
    "port": 80,
    "boot_time": 0.003,
    "listen_after": 0.25,
    "mac": "02:00:5e:00:53:01",
    "announces": False,
    "arguments": "--mac=02:00:5e:00:53:02 --name='a b'",
}


def test_the_guests_command_line_says_what_the_vms_keys_say() -> None:
    assert native_arguments("/bin/jitsu-guest", 5, REQUEST) == [
        *("/bin/jitsu-guest", "--mem=1", "--net:service=@5", "--net-mac:service=02:00:5e:00:53:01", "--", "-"),
        *("--name=www", "--port=80", "--late-link=3", "--listen-after=250"),
        *("--ipv4=10.0.0.9/24", "--ipv6=fd00::9/64", "--no-announce"),
        *("--mac=02:00:5e:00:53:02", "--name=a b"),
    ]


def test_the_environment_names_another_guest_or_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MOCK_GUEST", "/opt/other")
    assert native_guest() == "/opt/other"
    monkeypatch.setenv("MOCK_GUEST", "")
    assert native_guest() == ""


@pytest.mark.parametrize(
    ("guest", "keys", "refusal"),
    [
        ("", {}, ""),
        ("", {"cmdline": "--slow=9"}, "cmdline: it is for jitsu-guest, which is not built here; see guests/README.md"),
        ("/bin/x", {"cmdline": "--slow=9"}, ""),
        ("/bin/x", {"cmdline": "--name='x"}, "cmdline: No closing quotation"),
    ],
)
def test_arguments_that_no_guest_would_see_are_refused(
    monkeypatch: pytest.MonkeyPatch, guest: str, keys: dict[str, str], refusal: str
) -> None:
    monkeypatch.setenv("MOCK_GUEST", guest)
    assert raised(check_cmdline, make_vm(**keys)) == refusal


@pytest.mark.parametrize(
    ("guest", "keys", "is_here", "expected"),
    [
        ("/bin/x", {}, True, True),
        ("", {}, True, False),
        ("/bin/x", {}, False, False),
        ("/bin/x", {"tap": "false"}, True, False),
        ("", {"tap": "true"}, False, True),
    ],
)
def test_a_guest_is_on_a_tap_if_it_can_be_the_one_in_c_unless_the_vm_says_otherwise(
    monkeypatch: pytest.MonkeyPatch, guest: str, keys: dict[str, str], is_here: bool, expected: bool
) -> None:
    monkeypatch.setenv("MOCK_GUEST", guest)
    monkeypatch.setattr("jitsu_vmd.hypervisors.bridge.backend.TUN", "/dev/null")
    assert is_on_tap(mock_spec(make_vm(**keys)), is_here=is_here) is expected


class OneProcess:
    """A zygote whose guest is a process that is there."""

    def __init__(self, pid: int) -> None:
        self._pid = pid

    async def fork(self, **_: Any) -> tuple[int, asyncio.Future[dict[str, Any]]]:
        return self._pid, asyncio.get_running_loop().create_future()


async def test_a_guest_that_ends_by_itself_is_noticed() -> None:
    process = await asyncio.create_subprocess_exec("sleep", "60")
    zygote: Any = OneProcess(process.pid)
    guest = BridgeGuest(zygote, {"tap": True})
    await guest.prepare()
    waiting = asyncio.create_task(guest.end())
    assert await asyncio.wait([waiting], timeout=0.01) == (set(), {waiting})
    process.kill()
    await asyncio.wait_for(waiting, 5)
    await process.wait()
    await asyncio.wait_for(guest.end(), 5)  # no process has its pid any more
