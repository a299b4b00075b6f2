"""jitsu-answers: prints `running` if a computer can be reached at a TCP port, else `off`. No privileges are needed.

A computer that refuses the connection is there too: its server has not started yet, but the computer has. With
`--service` it counts only once the server accepts.
"""

from __future__ import annotations

import argparse
import errno
import socket
import sys

WITHIN_S = 2.0
ABSENT = (errno.EHOSTUNREACH, errno.EHOSTDOWN, errno.ETIMEDOUT)
"""connect(2): nobody has answered. Any other error says something about this host and nothing about the other one."""


def state(address: str, port: int, within: float, *, service: bool) -> str:
    """Return `running` or `off`; raises OSError if that cannot be found out."""
    try:
        socket.create_connection((address, port), within).close()
    except ConnectionRefusedError:
        return "off" if service else "running"
    except ConnectionResetError:
        return "running"
    except TimeoutError:
        return "off"
    except OSError as error:
        if error.errno in ABSENT:
            return "off"
        raise
    return "running"


def main() -> None:
    """Run jitsu-answers."""
    parser = argparse.ArgumentParser(
        "jitsu-answers", description="Print running if a computer answers at a TCP port, else off.", allow_abbrev=False
    )
    parser.add_argument("address", help="its address")
    parser.add_argument("port", type=int, help="for example 22")
    parser.add_argument(
        "--within", type=float, default=WITHIN_S, metavar="SECONDS", help=f"how long to wait [{WITHIN_S:g}]"
    )
    parser.add_argument("--service", action="store_true", help="a connection that is refused counts as off")
    given = parser.parse_args()
    try:
        print(state(given.address, given.port, given.within, service=given.service))
    except (OSError, OverflowError) as error:
        print(f"jitsu-answers: {given.address}: {error}", file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    main()
