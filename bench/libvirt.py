"""Time to the first byte of a real guest: started with virsh, and summoned by a query, cold and in each way resumed.

    python -m bench.libvirt [ROUNDS]

As root, with what `make test-libvirt` installs: QEMU without KVM; a bridge, a client and libvirtd are in network
namespaces.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
from pathlib import Path
from time import monotonic, sleep
from typing import TYPE_CHECKING

from bench.size import sized
from tests.support.lan import Lan, lan_suite
from tests.support.libvirtd import guest_image, running_libvirtd, virsh
from tests.support.suite import wait_for
from tests.system.test_first_packets import summon
from tests.system.test_real_guests import guest, page, settings

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.support.suite import RunningSuite

ROUNDS = sized(5, 1)
POLL_S = 0.005
ADDRESS = "10.77.0.10"


def until_page(lan: Lan) -> None:
    """Ask until the guest answers, as somebody who started it by hand would."""

    def ask() -> None:
        while True:
            try:
                page(ADDRESS)
                return
            except OSError:
                sleep(POLL_S)

    lan.run(0, ask)


def by_hand(lan: Lan, stop: tuple[str, ...], start: tuple[str, ...]) -> float:
    """Return how long a start by virsh takes, in ms."""
    virsh(*stop)
    begun = monotonic()
    virsh(*start)
    until_page(lan)
    return 1000 * (monotonic() - begun)


def by_query(lan: Lan, suite: RunningSuite, stop: Callable[[], object]) -> float:
    """Return how long a query and the page that follows take, in ms."""
    stop()

    def fetch() -> float:
        begun = monotonic()
        page(summon("www", suite.port))
        return 1000 * (monotonic() - begun)

    return float(lan.run(0, fetch))


def main() -> int:
    """Run the benchmark."""
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else ROUNDS
    ways = {
        "cold": (("destroy", "www"), ("start", "www"), "off"),
        "saved": (("managedsave", "www"), ("start", "www"), "suspended"),
        "paused": (("suspend", "www"), ("resume", "www"), "paused"),
    }
    lan = Lan(1)
    try:
        lan.make()
        guest_image()
        with (
            tempfile.TemporaryDirectory() as directory,
            running_libvirtd(["ip", "netns", "exec", lan.host]),
            lan_suite(Path(directory), settings() + guest("www", 10), lan=lan) as (_, suite),
        ):
            print("to the first byte of the page, ms: median and worst by virsh, by a query; their relation")
            summoned = lan.run(0, lambda: page(summon("www", suite.port)))
            assert "This is the VM" in summoned
            for way, (stop, start, state) in ways.items():
                times: tuple[list[float], list[float]] = ([], [])
                for _ in range(rounds):
                    times[0].append(by_hand(lan, stop, start))
                    wait_for(lambda: suite.state("www") == "ready", 10, "its start is known")

                    def stopped(stop: tuple[str, ...] = stop, state: str = state) -> None:
                        virsh(*stop)
                        wait_for(lambda: suite.state("www") == state, 10, "its stop is known")

                    times[1].append(by_query(lan, suite, stopped))
                    wait_for(lambda: suite.state("www") == "ready", 10, "it is ready")
                hand, query = (statistics.median(each) for each in times)
                shown = f"{hand:>8.0f}{max(times[0]):>8.0f}{query:>8.0f}{max(times[1]):>8.0f}"
                print(f"{way:<8}{shown}   {query / hand:.2f} ({query - hand:+.0f} ms)", flush=True)
    finally:
        lan.remove()
    return 0


if __name__ == "__main__":
    sys.exit(main())
