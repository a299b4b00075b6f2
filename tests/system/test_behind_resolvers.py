"""docs/how-to/behind-a-resolver.md: other people's resolvers, configured as the page says, wake a VM."""

from __future__ import annotations

import asyncio
import re
import socket
import subprocess
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

from tests.support.debian import program
from tests.support.dns import ask
from tests.support.pages import DOCS
from tests.support.suite import RunningSuite, free_port, vm_toml, wait_for

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager
    from pathlib import Path

    Resolver = Callable[[Path, int], AbstractContextManager[int]]

pytestmark = pytest.mark.suite
TEXT = (DOCS / "how-to" / "behind-a-resolver.md").read_text()
TTL_S = 7
UP_LIMIT_S = 10.0


def shown(section: str) -> str:
    """Return the configuration that the page shows for a resolver."""
    part = TEXT.partition(f"\n## {section}\n")[2].partition("\n## ")[0]
    found: str = re.findall(r"```conf\n(.*?)```", part, re.DOTALL)[0]
    assert "192.168.1.2" in found
    return found


@contextmanager
def dnsmasq(directory: Path, jitsu_port: int) -> Iterator[int]:
    """With its protection against rebinding on, which the page's lines make an exception of."""
    port = free_port()
    file = directory / "dnsmasq.conf"
    file.write_text(
        shown("dnsmasq").replace("192.168.1.2", f"127.0.0.1#{jitsu_port}")
        + f"port={port}\nlisten-address=127.0.0.1\nbind-interfaces\nno-resolv\nno-hosts\nstop-dns-rebind\n"
    )
    with _running(program("dnsmasq", "dnsmasq-base"), "--keep-in-foreground", f"--conf-file={file}", "--pid-file"):
        yield port


@contextmanager
def unbound(directory: Path, jitsu_port: int) -> Iterator[int]:
    """With private addresses refused, to which the page's lines make an exception."""
    port = free_port()
    text = shown("Unbound").replace("192.168.1.2", f"127.0.0.1@{jitsu_port}")
    own = f"""server:
    interface: 127.0.0.1
    port: {port}
    private-address: 127.0.0.0/8
    username: ""
    chroot: ""
    directory: "{directory}"
    pidfile: ""
    use-syslog: no
    do-not-query-localhost: no
"""
    file = directory / "unbound.conf"
    file.write_text(text.replace("server:\n", own, 1) + "remote-control:\n    control-enable: no\n")
    with _running(program("unbound", "unbound"), "-d", "-c", str(file)):
        yield port


@contextmanager
def _running(*command: str) -> Iterator[None]:
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        yield
        assert process.poll() is None, "it has ended by itself"
    finally:
        process.terminate()
        process.wait(10)


def listens(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True


@pytest.mark.parametrize("resolver", [dnsmasq, unbound])
async def test_a_resolver_that_is_configured_as_the_page_says_wakes_a_vm(tmp_path: Path, resolver: Resolver) -> None:
    toml = vm_toml("www", "127.2.60.1", ttl=TTL_S, boot_time=0.6, response_delay=0, wait_for_port=8080)
    with RunningSuite(tmp_path, toml=toml) as suite, resolver(tmp_path, suite.port) as port:
        await asyncio.to_thread(wait_for, lambda: listens(port), UP_LIMIT_S, "the resolver is up")
        answer = await ask("www.jitsu.test", port)
        assert answer.addresses == ["127.2.60.1"]
        assert answer.ttl <= TTL_S, "it does not stretch it"
        assert suite.state("www") == "ready"
        assert (await ask("blog.jitsu.test", port)).rcode == "NXDOMAIN", "the zone is Jitsu's"
