"""Requests that wait for a VM to be reachable."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from jitsu_protocol.messages import Summoned

if TYPE_CHECKING:
    from jitsu_protocol.messages import Message, Trigger
    from jitsu_protocol.model.vm import VM
    from jitsu_vmd.rules.events import AnswerSummons


class Waiting:
    """The requests that wait, by VM, each with its trigger: dns, traffic or an operator."""

    def __init__(self) -> None:
        self._by_vm: dict[str, dict[asyncio.Future[Message], Trigger]] = {}

    def add(self, vm: str, trigger: Trigger) -> asyncio.Future[Message]:
        """Return what will have the answer to a request."""
        future: asyncio.Future[Message] = asyncio.get_running_loop().create_future()
        self._by_vm.setdefault(vm, {})[future] = trigger
        return future

    def remove(self, vm: str, future: asyncio.Future[Message]) -> None:
        """Note that a request waits no longer."""
        waiting = self._by_vm.get(vm)
        if waiting is not None:
            waiting.pop(future, None)
            if not waiting:
                del self._by_vm[vm]

    def answer(self, guest: VM, answer: AnswerSummons) -> None:
        """Answer those who wait for a VM; `guest` is the VM as its guest was started."""
        vm = guest.uuid
        waiting = self._by_vm.get(vm, {})
        for future in [each for each, trigger in waiting.items() if trigger == "dns" or not answer.early]:
            self.remove(vm, future)
            if future.done():
                continue
            if answer.error is not None:
                future.set_exception(answer.error)
            else:
                addresses = [str(address) for address in guest.addresses]
                future.set_result(Summoned(armed=answer.armed, addresses=addresses))
