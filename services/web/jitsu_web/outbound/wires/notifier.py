"""Notifications for people through Apprise: a VM that does not boot, one that is up for long, events that were lost.

Apprise and what it imports are loaded only when a file with its URLs is configured, and it works on threads of its own:
its plugins block. The URLs hold passwords, so they are never logged.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from jitsu_protocol.model.errors import SetupFault
from jitsu_runtime.credentials import read_secret
from jitsu_runtime.threads import DaemonThreads
from jitsu_web.outbound.rules.delivery import Delivered, Failed
from jitsu_web.outbound.wires.sender import LIMIT_S

if TYPE_CHECKING:
    from jitsu_web.outbound.rules.notices import Notice
    from jitsu_web.rules.events import WebEvent

NAME = "notify"
KINDS = frozenset({"vm.failed", "vm.up-long", "events.lost"})
THREADS = 4
"""As many as a target has attempts under way (rules/target.py)."""


class NotificationSender:
    """All services of the file: an event is delivered when each of them has taken it."""

    name = NAME

    def __init__(self, file: str) -> None:
        """Read the file, which has one URL a line; raises SetupFault."""
        urls = [line.strip() for line in read_secret(file, "events.notify_file").splitlines()]
        try:
            import apprise
        except ImportError:
            raise SetupFault(
                "events.notify_file needs the package apprise", hint='pip install "jitsu-web[notify]"'
            ) from None
        self._apprise = apprise.Apprise(asset=apprise.AppriseAsset(app_id="Jitsu", http_redirects=False))
        for number, url in enumerate(urls, 1):
            if url and not url.startswith("#") and not self._apprise.add(url):
                raise SetupFault(
                    f"events.notify_file: Apprise cannot use line {number} of {file}",
                    hint="its documentation lists the services and the form of their URLs",
                )
        if not len(self._apprise):
            raise SetupFault(f"events.notify_file: {file} has no URL")
        for service in self._apprise:
            service.redirects = False  # whatever the URL says
        self._threads = DaemonThreads(THREADS, "notify")

    def wants(self, kind: str) -> bool:
        """Say whether people want to know of this kind of event."""
        return kind in KINDS

    def note(self, event: WebEvent) -> None:
        """Do nothing with what is not sent."""

    async def run(self) -> None:
        """Keep nothing open."""
        await asyncio.Event().wait()

    async def send(self, notice: Notice) -> Delivered | Failed:
        """Notify everybody of the file."""
        call = self._threads.submit(self._apprise.notify, notice.text(), f"Jitsu: {notice.subject}")
        try:
            async with asyncio.timeout(LIMIT_S):
                taken = await asyncio.wrap_future(call)
        except TimeoutError:
            return Failed(f"no answer within {LIMIT_S:g} s")
        return Delivered() if taken else Failed("a notification service has refused it, or does not answer")
