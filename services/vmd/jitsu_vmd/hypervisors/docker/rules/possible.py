"""Whether a container that is there already can be what a VM's keys describe."""

from __future__ import annotations

from typing import TYPE_CHECKING

from jitsu_protocol.model.errors import Refused

if TYPE_CHECKING:
    from jitsu_protocol.model.vm import VM
    from jitsu_vmd.hypervisors.docker.rules.containers import Container


def check_container(vm: VM, container: Container, *, is_podman: bool = False) -> None:
    """Raise Refused if a container cannot be started twice, or cannot be reached at the VM's address.

    Podman says nothing of the addresses of a container that does not run, so then nothing is concluded from that.
    """
    if container.is_removed_when_it_ends:
        raise Refused(
            f"container: {container.name} is removed when it ends (--rm), so it can be started once; make it without"
        )
    if "" in container.published or any(joined.network == "host" for joined in container.joined):
        return
    if is_podman and not container.is_running:
        return
    own = {address for joined in container.joined for address in joined.addresses}
    at_host = {address for address in container.published if address not in ("0.0.0.0", "::")}
    for address in vm.addresses:
        if str(address) not in own | at_host and len(at_host) == len(set(container.published)):
            networks = " and ".join(joined.network for joined in container.joined) or "no network"
            raise Refused(
                f"ip: {address} is not an address of the container {container.name}, which is on {networks}; give it "
                f"this one, for example with `docker network connect --ip {address} NETWORK {container.name}`"
            )
