"""The guest agent of QEMU (qemu-ga(8)) in one guest: JSON in lines over a virtio-serial port.

What a guest answers is not trusted: a line has a limit, and whatever is not as it should be fails the clone.
"""

from __future__ import annotations

import asyncio
import base64
import json
import secrets
from typing import TYPE_CHECKING, Any

from jitsu_protocol.model.errors import BootFailed
from jitsu_vmd.hypervisors.shared.rules.texts import one_line

if TYPE_CHECKING:
    import socket
    from collections.abc import Sequence

LIMIT_S = 30.0
"""For all that is asked of one guest; a guest that is emulated on a busy host is slow."""
AGAIN_S, POLL_S = 0.5, 0.02
MAX_LINE_BYTES = 1 << 20


class GuestAgent:
    """The agent of one guest; the connection ends with it."""

    def __init__(self, made: socket.socket) -> None:
        self._made = made
        self._got = b""

    async def run(self, path: str, environment: Sequence[str]) -> str:
        """Have a program executed in the guest, and return what it printed; raises BootFailed."""
        try:
            async with asyncio.timeout(LIMIT_S):
                await self._greet()
                arguments = {"path": path, "env": list(environment), "capture-output": True}
                started = await self._call("guest-exec", arguments)
                ended = await self._ended(started["pid"])
            output = "".join(_text(ended.get(key)) for key in ("out-data", "err-data"))
        except TimeoutError:
            raise BootFailed(f"the guest agent has not executed {path} within {LIMIT_S:g} s") from None
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            raise BootFailed(f"the guest agent does not answer as it should: {one_line(str(error))}") from None
        if (status := ended.get("exitcode")) != 0:
            shown = status if isinstance(status, int) else "none"
            last = one_line("".join(output.strip().splitlines()[-1:]))
            raise BootFailed(f"{path} in the guest has ended with status {shown}: {last}")
        return output

    async def _ended(self, pid: object) -> dict[str, Any]:
        while True:
            status = await self._call("guest-exec-status", {"pid": pid})
            if status.get("exited"):
                return status
            await asyncio.sleep(POLL_S)

    async def _greet(self) -> None:
        """Find the beginning of what the agent says: it may still be answering whoever asked it last."""
        while True:
            number = secrets.randbits(31)
            await self._send("guest-sync", {"id": number})
            try:
                async with asyncio.timeout(AGAIN_S):
                    while (await self._line()).get("return") != number:
                        pass
                    return
            except TimeoutError:
                continue

    async def _call(self, command: str, arguments: dict[str, Any]) -> dict[str, Any]:
        await self._send(command, arguments)
        answer = await self._line()
        while isinstance(answer.get("return"), int):  # of an earlier greeting
            answer = await self._line()
        if "error" in answer:
            raise ValueError(f"{command}: {answer['error'].get('desc')}")
        return dict(answer["return"])

    async def _send(self, command: str, arguments: dict[str, Any]) -> None:
        line = json.dumps({"execute": command, "arguments": arguments}) + "\n"
        await asyncio.get_running_loop().sock_sendall(self._made, line.encode())

    async def _line(self) -> dict[str, Any]:
        while b"\n" not in self._got:
            part = await asyncio.get_running_loop().sock_recv(self._made, 4096)
            self._got += part
            if not part or len(self._got) > MAX_LINE_BYTES:
                raise ValueError("its connection has ended" if not part else "a line is too long")
        line, _, self._got = self._got.partition(b"\n")
        try:
            answer = json.loads(line)
        except (ValueError, RecursionError):
            return {}  # half a line that was meant for somebody else
        return answer if isinstance(answer, dict) else {}


def _text(encoded: object) -> str:
    if not isinstance(encoded, str):
        return ""
    return base64.b64decode(encoded).decode("utf-8", "replace")
