"""vmd and Synjitsu are killed at random while unikernels boot: every client is served or refused, and nothing is left.

`BOOTS=1000 KILLS=100 pytest -m net tests/system/test_unikernel_kills.py` is the long run; CI has a short one.
"""

from __future__ import annotations

import os
import random
import socket
import subprocess
import threading
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import dns.exception
import dns.message
import dns.query
import dns.rcode
import pytest

from tests.support.lan import BRIDGE, lan_suite, made_lan
from tests.support.suite import SLOWER, wait_for
from tests.system.test_unikernels import GUEST, images, links, tenders  # noqa: F401 a fixture

if TYPE_CHECKING:
    from tests.support.suite import RunningSuite

pytestmark = [
    pytest.mark.net,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root: taps, and a user for each tender"),
]
BOOTS, KILLS = int(os.environ.get("BOOTS", "40")), int(os.environ.get("KILLS", "4"))
VMS = 10
ANSWER_LIMIT_S = 3.0 * SLOWER
"""max_wait is 1.2 s; a dns whose vmd is being started again answers SERVFAIL by then."""
PAGE_LIMIT_S = 10.0 * SLOWER
"""A SYN that Synjitsu had kept when it was killed is sent again after 1 s, and after 3 s."""


def outcome(suite: RunningSuite, name: str) -> str:
    """Ask for a name and fetch its page as a client does; return what became of it."""
    query = dns.message.make_query(f"{name}.jitsu.test", "A")
    try:
        reply = dns.query.udp(query, "10.77.0.1", port=suite.port, timeout=ANSWER_LIMIT_S)
    except dns.exception.Timeout:
        return "no answer"
    if reply.rcode() == dns.rcode.SERVFAIL:
        return "SERVFAIL"
    try:
        with socket.create_connection((str(reply.answer[0][0]), 80), PAGE_LIMIT_S) as client:
            client.sendall(b"GET / HTTP/1.0\r\n\r\n")
            return "page" if name.encode() in client.recv(4096) else "another page"
    except TimeoutError:
        return "no page"
    except OSError as error:  # RST, or nobody has the address
        return f"refused ({type(error).__name__})"


def test_g7_every_client_is_served_or_refused_while_vmd_and_synjitsu_are_killed(
    tmp_path: Path,
    images: Path,  # noqa: F811
) -> None:
    chance, over = random.Random(7), threading.Event()
    toml = f'[hypervisor]\nkind = "solo5"\nbridge = "{BRIDGE}"\ntaps = 4\ntender = "{images}/solo5-spt"\n'
    for number in range(VMS):
        toml += GUEST.format(name=f"n{number}", number=10 + number, images=images, more="")
    found: Counter[str] = Counter()

    def clients(first: int) -> None:
        for boot in range(first, BOOTS, 2):
            name = f"n{boot % VMS}"
            found[outcome(suite, name)] += 1
            with suppress(subprocess.SubprocessError, AssertionError):  # vmd may be away just now
                suite.jitsu("stop", name, check=False)
        over.set()

    with made_lan(1) as lan:
        with lan_suite(tmp_path, toml, lan=lan) as (_, suite):
            asking = [lan.start(0, lambda first=first: clients(first)) for first in range(2)]  # type: ignore[misc]
            killed = 0
            while killed < KILLS and not over.is_set():
                for service in chance.choice([("vmd",), ("synjitsu",), ("vmd", "synjitsu")]):
                    wait_for(lambda name=service: suite.pid(name), PAGE_LIMIT_S, f"{service} is back")  # type: ignore[misc]
                    suite.kill(service)
                killed += 1
                time.sleep(chance.uniform(0.5, 3.0))
            for each in asking:
                each.result()
            suite.jitsu("status")
            running = {name for name, vm in suite.status().items() if vm["state"] == "ready"}
            assert len(tenders(suite)) >= len(running), "every unikernel is found again"
            left = tenders(suite)
        wait_for(lambda: "js" not in links(lan), PAGE_LIMIT_S, "no tap is left")
        assert not [pid for pid in left.values() if Path(f"/proc/{pid}/exe").exists()]
    print(f"{killed} kills: {dict(found)}")
    assert not {"no answer", "no page", "another page"} & found.keys(), found
    assert found["page"] > BOOTS / 3
