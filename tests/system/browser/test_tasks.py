"""A person's ten tasks in the page of a real jitsu-web, with the clicks that each took; typing is not counted."""

from __future__ import annotations

import socket
from contextlib import contextmanager
from typing import TYPE_CHECKING

import dns.message
import dns.query
import pytest
from playwright.sync_api import expect

from tests.support.browser import visit
from tests.support.suite import RunningSuite, free_port, vm_toml

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from playwright.sync_api import Browser

    from tests.support.browser import Visit

pytestmark = [pytest.mark.browser, pytest.mark.timeout(180)]

KEYS = {"boot_time": 0.2, "response_delay": 0, "idle_timeout": 600, "ttl": 60}


@pytest.fixture(scope="module")
def suite(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[RunningSuite, str, str]]:
    """A suite with a page, the address of the page, and an operator's token."""
    port = free_port()
    toml = f'[web]\nlisten = "127.0.0.1:{port}"\n'
    toml += "".join(vm_toml(name, f"127.7.1.{at}", **KEYS) for at, name in enumerate(("www", "git", "wiki"), 1))
    toml += vm_toml("mail", "127.7.1.9", boot_failure="start", **KEYS)
    directory: Path = tmp_path_factory.mktemp("page")
    with RunningSuite(directory, toml=toml) as running:
        token = running.jitsu("token", "create", "alice", "--role", "operator").split()[-1]
        yield running, f"http://127.0.0.1:{port}/", token


@contextmanager
def task(opened: Visit, what: str, most: int) -> Iterator[None]:
    """Count the clicks of a task, which begins at the list of VMs."""
    opened.go("/vms")
    opened.clicks = 0
    yield
    print(f"clicks: {opened.clicks:2} {what}")
    assert opened.clicks <= most, what


def ask(suite: RunningSuite, name: str) -> None:
    """Ask dns for a name, as a client does."""
    query = dns.message.make_query(f"{name}.jitsu.test", "A")
    dns.query.udp(query, "127.0.0.1", port=suite.port, timeout=20)


def test_ten_tasks_of_a_person(browser: Browser, suite: tuple[RunningSuite, str, str]) -> None:
    running, url, token = suite
    with visit(browser, url) as opened:
        opened.sign_in(token)
        expect(opened.page.locator(".summary")).to_have_text("4 VMs")
        page = opened.page
        with task(opened, "wake a VM", 1):
            opened.click("[aria-label='Start git']")
            expect(page.locator(opened.row("git"))).to_contain_text("ready")
        ask(running, "www")
        with task(opened, "find out why a VM is up, and when it stops", 1):
            opened.click(".name:text-is('www')")
            why = page.get_by_role("region", name="Why")
            expect(why).to_contain_text("Why it is up")
            expect(why).to_contain_text("When it stops")
        with task(opened, "see who woke it", 1):
            opened.click(".name:text-is('www')")
            expect(page.get_by_role("region", name="Why")).to_contain_text("Last boots and stops")
        with task(opened, "see where the time of its last boot went", 1):
            opened.click(".name:text-is('www')")
            expect(page.locator(".waterfall tbody tr").first).to_be_visible()
        with task(opened, "keep it up for two hours", 2):
            opened.click("[aria-label='Keep www up']")
            opened.click("text=2 hours")
            expect(page.locator(opened.row("www"))).to_contain_text("Kept up until")
        with task(opened, "change the TTL of a name on a branch, review and merge it", 7):
            change_the_ttl(opened)
        assert "ttl = 300" in running.jitsu("status", "wiki")
        with task(opened, "undo that change", 4):
            opened.click(".name:text-is('wiki')")
            history = page.get_by_role("region", name="History")
            expect(history.locator("summary", has_text="value changed")).to_have_count(1)
            opened.click("section[aria-label=History] summary:has-text('value changed')")
            opened.click("section[aria-label=History] details[open] >> text=Go back to before this")
            opened.click("dialog >> text='Go back' >> nth=-1")
            expect(page.get_by_role("region", name="Configuration")).not_to_contain_text("300")
        assert "ttl = 300" not in running.jitsu("status", "wiki")
        ask(running, "mail")
        with task(opened, "see what failed, and why", 2):
            opened.click(".chip[data-state=failed]")
            expect(page.locator(".body .name")).to_have_text(["mail"])
            opened.click(".name:text-is('mail')")
            expect(page.get_by_role("region", name="Last error")).to_be_visible()
        with task(opened, "see whether every service answers", 1):
            opened.click("nav >> text=Services")
            expect(page.get_by_role("status").filter(has_text="answer")).to_contain_text("All ")
        with task(opened, "stop a VM", 2):
            page.locator(".chip[aria-pressed=true]").click()
            opened.click("[aria-label='Stop git']")
            opened.click("text=Stop it")
            expect(page.locator(opened.row("git"))).to_contain_text("off")


def change_the_ttl(opened: Visit) -> None:
    page = opened.page
    opened.click(".name:text-is('wiki')")
    opened.click("text='Change'")
    opened.click("text=Make the branch")
    opened.click("[aria-label='Edit dns/wiki.jitsu.test/ttl']")
    page.get_by_label("dns/wiki.jitsu.test/ttl", exact=True).fill("300")
    opened.click("text='Save'")
    expect(page.locator("ins")).to_have_text("300")
    opened.click("text=Merge into master")
    opened.click("text='Merge it'")
    expect(page.get_by_text("Nothing differs.")).to_be_visible()


def test_who_did_what_is_in_the_history(suite: tuple[RunningSuite, str, str]) -> None:
    running, _, _ = suite
    assert "operator:alice via web" in running.jitsu("log")


def test_nobody_gets_in_by_another_name_of_this_host(suite: tuple[RunningSuite, str, str]) -> None:
    """A name that an attacker lets point at loopback (DNS rebinding) is not one of this server's."""
    port = int(suite[1].rsplit(":", 1)[1].strip("/"))
    with socket.create_connection(("127.0.0.1", port), timeout=5) as connection:
        connection.sendall(b"GET / HTTP/1.1\r\nHost: evil.example\r\nConnection: close\r\n\r\n")
        assert connection.recv(200).startswith(b"HTTP/1.1 421")
