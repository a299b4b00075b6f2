"""The web page with many VMs: how soon it can be used, and how soon a change is seen in it.

    python -m bench.page

A suite with 2,000 VMs on the mock hypervisor, of which some are asked for all the time and stop again, so that states
change about 50 times a second. One page in Chromium is measured, and there are 19 further readers of the same events.
A change happens when vmd publishes it, and is seen when the row in the page has the new state: what a browser draws at
once it shows within one frame. Suite, load, browser and readers share the machine.
"""

from __future__ import annotations

import asyncio
import os
import statistics
import tempfile
from contextlib import suppress
from pathlib import Path
from time import monotonic, time
from typing import TYPE_CHECKING, Any

import aiohttp
import dns.asyncquery
import dns.exception
import dns.message
from playwright.async_api import async_playwright

from bench.dns_warm import resident_mb
from bench.size import sized
from jitsu_protocol.messages import FeedItem, VmStateChanged
from jitsu_protocol.model.errors import JitsuError
from jitsu_protocol.wire.codec import body_as, decode
from jitsu_runtime.bus.libzmq import Context
from jitsu_runtime.bus.zeromq import ZmqFollower
from tests.support.browser import CHROMIUM
from tests.support.suite import RunningSuite, free_port, vm_toml

if TYPE_CHECKING:
    from playwright.async_api import Page

VMS = sized(2000, 60)
READERS = sized(19, 2)
SECONDS = sized(40.0, 6.0)
NAMES_PER_S = sized(12.0, 4.0)
"""Each is started and stops again, which is six states."""
IN_SIGHT = 12
"""VMs whose rows are in sight; a quarter of the queries is for them, so that they become idle in between."""
OPENINGS = sized(7, 2)
KEYS = {"ttl": 1, "idle_timeout": 1, "boot_time": 0.05, "response_delay": 0}
NOTED_LATE_S = 0.1
SEE = """() => {
  window.seen = [];
  new MutationObserver((records) => {
    const now = Date.now() / 1000;
    for (const record of records) {
      const badge = record.target.parentElement?.closest(".badge") ?? record.target.closest?.(".badge");
      const row = badge?.closest(".row");
      if (row) window.seen.push([row.querySelector(".name").textContent, badge.textContent, now]);
    }
  }).observe(document.querySelector(".body"), {subtree: true, childList: true, characterData: true});
}"""
FIRST_ROW = """
new MutationObserver((_, observer) => {
  if (!document.querySelector(".body > .row")) return;
  window.firstRowMs = performance.now();
  observer.disconnect();
}).observe(document, {subtree: true, childList: true});
"""


def configuration(port: int) -> str:
    """Return jitsu.toml."""
    vms = [
        vm_toml(f"n{at:04d}", f"127.{40 + at // 62500}.{at // 250 % 250}.{at % 250 + 1}", **KEYS) for at in range(VMS)
    ]
    # All readers are one client here.
    return f'[web]\nlisten = "127.0.0.1:{port}"\nrequest_rate = 0\n' + "\n".join(vms)


async def follow(suite: RunningSuite, changes: list[tuple[str, str, float]]) -> None:
    """Note each change that vmd publishes."""

    def take(frame: bytes) -> None:
        envelope = decode(frame)
        with suppress(JitsuError):
            item = body_as(FeedItem, envelope.kind, envelope.body)
            vm = body_as(VmStateChanged, item.body_kind, item.body or {}).vm
            changes.append((vm.name, vm.state.value, time()))

    await ZmqFollower(Context(), str(suite.bus().endpoint("vmd", "feed")), "vm", "vmd").attend(take)


async def read(session: aiohttp.ClientSession, url: str, counted: list[int]) -> None:
    """Read the events as a page does, and count them."""
    async with session.get(f"{url}api/v1/events") as response:
        async for line in response.content:
            counted[0] += line.startswith(b"id:")


async def load(suite: RunningSuite) -> None:
    """Ask for names: now one in sight, now one of the others."""
    begun, number = monotonic(), 0
    async with asyncio.TaskGroup() as group:
        while monotonic() - begun < SECONDS:
            is_in_sight = number % 4 == 0
            at = number // 4 % IN_SIGHT if is_in_sight else IN_SIGHT + number % (VMS - IN_SIGHT)
            group.create_task(_ask(suite.port, f"n{at:04d}.jitsu.test"))
            number += 1
            await asyncio.sleep(max(0.0, begun + number / NAMES_PER_S - monotonic()))


async def _ask(port: int, name: str) -> None:
    with suppress(dns.exception.DNSException, OSError):
        await dns.asyncquery.udp(dns.message.make_query(name, "A"), "127.0.0.1", port=port, timeout=5)


def seconds_of_cpu(pid: int) -> float:
    """Return the processor time that a process has used (proc(5): utime, stime)."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def delays(seen: list[tuple[str, str, float]], changes: list[tuple[str, str, float]]) -> list[float]:
    """Return for each state that was seen how long before that it was published."""
    found = []
    for name, state, at in seen:
        # This process may come to note a change only after the browser has shown it.
        published = [when for who, what, when in changes if (who, what) == (name, state) and when <= at + NOTED_LATE_S]
        if published:
            found.append(1000 * max(0.0, at - published[-1]))
    return found


def quantiles(name: str, values: list[float]) -> None:
    """Print the median and the tail of milliseconds."""
    ordered = sorted(values) or [float("nan")]
    tail = ordered[min(len(ordered) - 1, round(0.99 * len(ordered)))]
    print(
        f"{name:<46} median {statistics.median(ordered):6.0f} ms, p99 {tail:6.0f} ms, {len(values)} measured",
        flush=True,
    )


async def openings(page: Page, url: str) -> None:
    """Open the page again and again, each time without what the browser has kept."""
    taken = []
    for _ in range(OPENINGS):
        await page.goto("about:blank")
        await page.goto(url)
        await page.wait_for_selector(".body > .row")
        taken.append(float(await page.evaluate("window.firstRowMs")))
    quantiles("opened, until its rows are there and answer", taken)


async def measure(suite: RunningSuite, url: str, token: str) -> None:
    """Print a row for everything."""
    pid = suite.pid("web")
    assert pid is not None
    changes: list[tuple[str, str, float]] = []
    counted = [0]
    headers = {"Authorization": f"Bearer {token}"}
    unlimited = aiohttp.TCPConnector(limit=0)
    async with async_playwright() as playwright, aiohttp.ClientSession(headers=headers, connector=unlimited) as session:
        arguments = ["--no-sandbox"] if os.geteuid() == 0 else []
        browser = await playwright.chromium.launch(executable_path=CHROMIUM, args=arguments)
        page = await browser.new_page(viewport={"width": 1280, "height": 900})
        await page.add_init_script(FIRST_ROW)
        await page.goto(url)
        await page.fill("#token", token)
        await page.click("text=Sign in")
        await page.wait_for_selector(".body > .row")
        await openings(page, url)
        await page.wait_for_selector(f"text='{VMS:,} VMs'")
        await page.evaluate(SEE)
        tasks: list[asyncio.Task[Any]] = [asyncio.create_task(read(session, url, counted)) for _ in range(READERS)]
        tasks.append(asyncio.create_task(follow(suite, changes)))
        await asyncio.sleep(1)
        spent, begun = seconds_of_cpu(pid), monotonic()
        await load(suite)
        took = monotonic() - begun
        spent = seconds_of_cpu(pid) - spent
        seen = [tuple(each) for each in await page.evaluate("window.seen")]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await browser.close()
    quantiles("a state changed, until its row shows it", delays(seen, changes))
    print(f"changes of states {len(changes) / took:.0f} a second; events read {counted[0] / took:.0f} a second in all")
    print(
        f"jitsu-web, {READERS + 1} readers: {100 * spent / took:.0f}% of a processor, {resident_mb(pid):.0f} MB",
        flush=True,
    )


def main() -> None:
    """Run it."""
    port = free_port()
    with tempfile.TemporaryDirectory() as name, RunningSuite(Path(name), toml=configuration(port)) as suite:
        token = suite.jitsu("token", "create", "bench").split()[-1]
        asyncio.run(measure(suite, f"http://127.0.0.1:{port}/", token))


if __name__ == "__main__":
    main()
