"""The health check of a container: `python -m jitsu_runtime.health [SERVICE]`.

It asks /healthz of a service on this machine, and exits with 0 if the service answers that it is well, with 1 if not,
and with 2 if it cannot ask. Without an argument, the service is the one in JITSU_SERVICE. Its setting `metrics` has the
address.
"""

from __future__ import annotations

import os
import sys
import urllib.request

from jitsu_runtime.settings.command_line import load_service
from jitsu_runtime.settings.load import SettingsFault
from jitsu_runtime.settings.schema import SECTION_OF

LIMIT_S = 2.0


def main() -> int:
    """Run the health check, and return the exit status."""
    service = sys.argv[1] if len(sys.argv) > 1 else os.environ.get("JITSU_SERVICE", "")
    if service not in SECTION_OF:
        print(f"which service? one of {', '.join(SECTION_OF)}", file=sys.stderr)
        return 2
    try:
        listen = load_service(service, [], os.environ).metrics(service)
    except SettingsFault as fault:
        print(fault, file=sys.stderr)
        return 2
    if not listen:
        print(f"{service} has no `metrics`, which tell its health", file=sys.stderr)
        return 2
    try:
        with urllib.request.urlopen(f"http://{listen}/healthz", timeout=LIMIT_S) as answer:
            print(answer.read().decode().strip())
    except OSError as error:
        print(f"{service} at {listen}: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
