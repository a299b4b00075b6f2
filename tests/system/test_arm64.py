"""What is built for arm64 is for arm64, and has the layouts of the kernel there. Nothing of it can be run here."""

from __future__ import annotations

import os
import subprocess
from ctypes import sizeof
from typing import TYPE_CHECKING

import pytest

from jitsu_dns.wires import datagrams
from jitsu_synjitsu.wires import packet
from tests.support.bases import ROOT
from tests.support.debian import program

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = [
    pytest.mark.systemd,
    pytest.mark.timeout(600),
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root: a cross compiler"),
]
EM_AARCH64 = (183).to_bytes(2, "little")
"""e_machine of an ELF file, at byte 18 (elf(5))."""
COMPILER = "aarch64-linux-gnu-gcc"
LAYOUTS = f"""
#define _GNU_SOURCE
#include <sys/socket.h>
#include <sys/epoll.h>
#include <linux/if_packet.h>
#include <linux/filter.h>
#include <stddef.h>
_Static_assert(sizeof(struct mmsghdr) == {sizeof(datagrams.Mmsghdr)}, "recvmmsg(2)");
_Static_assert(offsetof(struct mmsghdr, msg_len) == {datagrams.Mmsghdr.len.offset}, "recvmmsg(2)");
_Static_assert(offsetof(struct msghdr, msg_control) == {datagrams.Msghdr.control.offset}, "recvmsg(2)");
_Static_assert(offsetof(struct msghdr, msg_flags) == {datagrams.Msghdr.flags.offset}, "recvmsg(2)");
_Static_assert(sizeof(struct tpacket_auxdata) == {packet.AUX.size}, "packet(7)");
_Static_assert(sizeof(struct sock_fprog) == 16 && offsetof(struct sock_fprog, filter) == 8, "packet.py: HxxxxxxP");
#ifdef __x86_64__
_Static_assert(sizeof(struct epoll_event) == 12, "door.py: =IQ");
#else
_Static_assert(sizeof(struct epoll_event) == 16 && offsetof(struct epoll_event, data) == 8, "door.py: @IQ");
#endif
"""


@pytest.fixture(scope="module")
def compiler() -> str:
    program("/usr/aarch64-linux-gnu/include/stdio.h", "libc6-dev-arm64-cross")
    return program(COMPILER, "gcc-aarch64-linux-gnu", at="/usr/bin")


def machine_of(path: Path) -> bytes:
    return path.read_bytes()[18:20]


def test_the_guest_in_c_is_built_for_arm64(compiler: str, tmp_path: Path) -> None:
    build = [str(ROOT / "guests" / "unikernel" / "build"), str(tmp_path)]
    subprocess.run(build, env={**os.environ, "CC": compiler}, check=True, capture_output=True, timeout=120)
    assert machine_of(tmp_path / "jitsu-guest") == EM_AARCH64


@pytest.mark.parametrize("here", [True, False], ids=["here", "arm64"])
def test_the_kernels_structures_are_as_long_as_the_code_has_them(compiler: str, tmp_path: Path, here: bool) -> None:
    source = tmp_path / "layouts.c"
    source.write_text(LAYOUTS)
    compile_only = ["gcc" if here else compiler, "-c", "-o", str(tmp_path / "layouts.o"), str(source)]
    done = subprocess.run(compile_only, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr


def test_an_arm64_package_holds_what_is_compiled_for_it(tmp_path: Path) -> None:
    environment = {**os.environ, "DEB_ARCH": "arm64", "PIP_NO_COMPILE": "1"}
    subprocess.run(
        ["make", "deb", f"DIST={tmp_path}"], cwd=ROOT, env=environment, check=True, capture_output=True, timeout=400
    )
    (package,) = tmp_path.glob("jitsu_*_arm64.deb")
    subprocess.run(["dpkg-deb", "-x", package, tmp_path / "root"], check=True, timeout=60)
    compiled = list((tmp_path / "root" / "usr/lib/jitsu").rglob("*.so*"))
    assert len(compiled) >= 7, "cffi, msgpack, pydantic, pygit2, pyzmq, siphash24, uvloop"
    assert {machine_of(path) for path in compiled} == {EM_AARCH64}
