"""Whom Synjitsu reports for `jitsu why`."""

from __future__ import annotations

from jitsu_protocol.askers import Askers
from jitsu_protocol.messages import Peer
from jitsu_protocol.model.privacy import Privacy
from jitsu_synjitsu.rules import frames
from jitsu_synjitsu.rules.activity import Activity
from jitsu_synjitsu.rules.clients import MAX_PEERS, MAX_VMS
from jitsu_synjitsu.rules.frames import ACK, SYN
from tests.support.frames import CLIENT_MAC, V4, VM_MAC, tcp, udp
from tests.support.vms import make_vm

VM = make_vm("www", "10.0.0.1", mac=VM_MAC.hex(":"))


def connected(activity: Activity, port: int, now: float, client: bytes = V4[0]) -> None:
    addresses = (client, V4[1])
    activity.frame(frames.read(tcp(port, 22, addresses=addresses)), now)
    reply = tcp(22, port, SYN | ACK, addresses=addresses[::-1], to=CLIENT_MAC, source=VM_MAC)
    activity.frame(frames.read(reply), now)


def running() -> Activity:
    activity = Activity()
    activity.runs(VM, VM_MAC, "", 0.0, unknown=False)
    return activity


def test_connections_are_reported_by_network_and_port_when_they_change_and_every_thirty_seconds() -> None:
    activity = running()
    activity.clients.connected(activity.vms, Privacy.NETWORK, 0.0)
    connected(activity, 1000, 1.0)
    connected(activity, 1001, 1.0)
    (one,) = activity.clients.connected(activity.vms, Privacy.NETWORK, 2.0)
    assert (one.open, one.unseen, one.peers) == (2, False, [Peer("10.0.0.0/24", "tcp/22", 2)])
    assert activity.clients.connected(activity.vms, Privacy.NETWORK, 3.0) == []
    (again,) = activity.clients.connected(activity.vms, Privacy.NONE, 31.0)
    assert [peer.client for peer in again.peers] == [""]


def test_a_packet_is_reported_with_where_it_went() -> None:
    activity = running()
    activity.frame(frames.read(udp(5000, 53, b"x")), 10.0)
    askers = Askers("synjitsu", "i", Privacy.FULL)
    activity.clients.give(askers)
    (note,) = askers.take()
    assert (note.vm, note.token, note.what, note.about, note.at) == (VM.uuid, "", "packet", "udp/53", 10.0)
    assert note.client == ".".join(map(str, V4[0]))
    activity.clients.give(askers)
    assert askers.take() == []


def test_g9_a_flood_of_clients_and_vms_is_bounded() -> None:
    activity = Activity()
    for n in range(MAX_VMS + 50):
        mac = bytes([2, 0, 0, 0, n // 256, n % 256])
        activity.runs(make_vm(f"v{n}", f"10.1.{n // 250}.{n % 250 + 1}"), mac, "", 0.0, unknown=True)
    assert len(activity.clients.connected(activity.vms, Privacy.NETWORK, 1.0)) == MAX_VMS
    assert len(activity.clients.connected(activity.vms, Privacy.NETWORK, 1.0)) == 50
    busy = running()
    for n in range(600):
        connected(busy, 1000 + n, 1.0, bytes([10, n // 200, n % 200, 9]))
    (one,) = busy.clients.connected(busy.vms, Privacy.NETWORK, 2.0)
    assert (one.open, len(one.peers)) == (600, MAX_PEERS)
