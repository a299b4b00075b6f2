"""The guest in C (guests/README.md). A mock guest on a tap becomes it where it has been built.

It boots in a millisecond, and can misbehave in every way that its arguments name. Without it, the guest is the one in
tap.py.
"""

from __future__ import annotations

import fcntl
import os
import shlex
import socket
import struct
from ipaddress import ip_address
from typing import Any

SIOCSIFFLAGS, SIOCBRADDIF, IFF_UP = 0x8914, 0x89A2, 1


def native_arguments(program: str, descriptor: int, request: dict[str, Any]) -> list[str]:
    """Return the command line of a guest on an open tap; the VM's own `cmdline` comes last, so that it decides."""
    delays = {"late-link": request["boot_time"], "listen-after": request["listen_after"]}
    arguments = [program, "--mem=1", f"--net:service=@{descriptor}", f"--net-mac:service={request['mac']}", "--", "-"]
    arguments += [f"--name={request['name']}", f"--port={request['port']}"]
    arguments += [f"--{name}={round(1000 * seconds)}" for name, seconds in delays.items()]
    for address in request["addresses"]:
        arguments.append(f"--ipv4={address}/24" if ip_address(address).version == 4 else f"--ipv6={address}/64")
    if not request["announces"]:
        arguments.append("--no-announce")
    return [*arguments, *shlex.split(request["arguments"])]


def become_native_guest(program: str, descriptor: int, request: dict[str, Any]) -> None:
    """Replace this process by the guest; raises OSError if that cannot be done."""
    os.set_inheritable(descriptor, True)
    console = os.open(os.devnull, os.O_WRONLY)
    os.dup2(console, 1)  # standard output is the zygote's pipe to the host
    os.execv(program, native_arguments(program, descriptor, request))


def join_bridge(interface: str, bridge: str) -> None:
    """Make an interface a port of a bridge and set it up, without ip(8), which takes milliseconds. Raises OSError."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        index = socket.if_nametoindex(interface)
        fcntl.ioctl(any_socket, SIOCBRADDIF, struct.pack("16si20x", bridge.encode(), index))
        fcntl.ioctl(any_socket, SIOCSIFFLAGS, struct.pack("16sh22x", interface.encode(), IFF_UP))
