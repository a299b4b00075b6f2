"""Datagrams in batches, over real sockets, with the batch calls and without."""

from __future__ import annotations

import errno
import os
import socket
from typing import TYPE_CHECKING

import pytest

from jitsu_dns.wires import datagrams
from jitsu_dns.wires.datagrams import BATCH_DATAGRAMS, IN_BYTES, OWN_SOCKET_ERRNOS, DatagramSocket, SocketLost
from tests.support.failing_sends import ERRNOS, FailingSends, FailingSocket

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.wires


@pytest.fixture(params=["batches", "singly"])
def calls(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param == "singly":
        monkeypatch.setattr(datagrams, "HAS_BATCHES", False)


@pytest.fixture(params=["127.0.0.1", "::1"])
def server(request: pytest.FixtureRequest, calls: None) -> Iterator[socket.socket]:
    family = socket.AF_INET6 if ":" in request.param else socket.AF_INET
    with socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as bound:
        bound.bind((request.param, 0))
        yield bound


def client_of(server: socket.socket) -> socket.socket:
    client = socket.socket(server.family, socket.SOCK_DGRAM)
    client.connect(server.getsockname()[:2])
    client.settimeout(5)
    return client


def test_each_answer_goes_to_who_asked(server: socket.socket) -> None:
    served = DatagramSocket(server)
    clients = [client_of(server) for _ in range(5)]
    try:
        for skipped in (None, 1, 3, None):
            for number, client in enumerate(clients):
                client.send(b"q%d" % number)
            queries = served.receive()
            assert queries == [b"q0", b"q1", b"q2", b"q3", b"q4"]
            assert [served.client(n)[:2] for n in range(5)] == [client.getsockname()[:2] for client in clients]
            assert {served.address(n) for n in range(5)} == {socket.inet_pton(server.family, server.getsockname()[0])}
            assert len(set(served.keys())) == 1
            served.answer([None if n == skipped else b"a" + query for n, query in enumerate(queries)])
            for number, client in enumerate(clients):
                if number != skipped:
                    assert client.recv(100) == b"aq%d" % number
    finally:
        for client in clients:
            client.close()


def test_a_full_batch_is_taken_and_the_rest_next_time(server: socket.socket) -> None:
    served = DatagramSocket(server)
    with client_of(server) as client:
        for number in range(BATCH_DATAGRAMS + 3):
            client.send(number.to_bytes(2, "big"))
        assert len(served.receive()) == BATCH_DATAGRAMS
        assert [int.from_bytes(each, "big") for each in served.receive()] == [BATCH_DATAGRAMS + n for n in range(3)]
        assert served.receive() == []


def test_a_long_one_is_cut_off_and_an_empty_one_is_one(server: socket.socket) -> None:
    served = DatagramSocket(server)
    with client_of(server) as client:
        client.send(b"x" * (IN_BYTES + 1))
        client.send(b"")
        assert [len(each) for each in served.receive()] == [IN_BYTES, 0]


def test_a_client_that_is_gone_keeps_nobody_from_an_answer(server: socket.socket) -> None:
    served = DatagramSocket(server)
    gone, there = client_of(server), client_of(server)
    with there:
        for _ in range(3):
            gone.send(b"q")
            there.send(b"q")
        assert len(served.receive()) == 6
        gone.close()
        served.answer([b"a"] * 6)
        assert [there.recv(10) for _ in range(3)] == [b"a"] * 3
        there.send(b"next")  # what the closed port has answered is no error of the server's
        assert (served.receive() or served.receive()) == [b"next"]


@pytest.mark.parametrize("number", ERRNOS, ids=errno.errorcode.get)
def test_an_error_that_concerns_one_client_costs_the_others_nothing(
    number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    sends = FailingSends(4, [number])
    sends.install(monkeypatch)
    with FailingSocket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as server:
        server.bind(("127.0.0.1", 0))
        served = DatagramSocket(server)
        clients = [client_of(server) for _ in range(5)]
        try:
            for mixed in (True, False):  # in both the fourth answer that is sent fails
                for client in clients:
                    client.send(b"q")
                assert len(served.receive()) == 5
                served.send(b"first", served.client(0))
                served.answer([None if mixed and n == 0 else b"a%d" % n for n in range(5)])
                heard = [answers_at(client) for client in clients]
                if mixed:
                    assert heard == [[b"first"], [b"a1"], [b"a2"], [b"a3"], []]
                else:
                    assert heard == [[b"first", b"a0"], [b"a1"], [b"a2"], [], [b"a4"]]
            server.sends = FailingSends(1, [number])
            served.send(b"later", ("127.0.0.1", clients[0].getsockname()[1], b""))
        finally:
            for client in clients:
                client.close()
        assert served.unsent == {number: 3}


def answers_at(client: socket.socket) -> list[bytes]:
    client.setblocking(False)
    found = []
    while True:
        try:
            found.append(client.recv(100))
        except BlockingIOError:
            return found


def test_a_socket_that_was_closed_behind_the_servers_back_is_noticed(server: socket.socket) -> None:
    served = DatagramSocket(server)
    with client_of(server) as client:
        client.send(b"q")
        assert served.receive() == [b"q"]
        os.close(server.fileno())
        with pytest.raises(SocketLost, match="closed behind this server's back"):
            served.answer([b"a"])
        with pytest.raises(SocketLost):
            served.send(b"a", served.client(0))
        # Another file has the number now: that is not our socket either.
        other = os.open(os.devnull, os.O_RDONLY)
        assert other == server.fileno()
        with pytest.raises(SocketLost):
            served.answer([b"a"])
        os.close(other)
        with pytest.raises(SocketLost):
            served.receive()
        os.open(os.devnull, os.O_RDONLY)  # for the fixture to close
        assert set(served.unsent) == OWN_SOCKET_ERRNOS


@pytest.mark.parametrize(("everywhere", "asked"), [("0.0.0.0", "127.9.8.7"), ("::", "::1"), ("::", "127.9.8.7")])
def test_a_socket_of_all_addresses_answers_from_the_one_that_was_asked(everywhere: str, asked: str) -> None:
    family = socket.AF_INET6 if ":" in everywhere else socket.AF_INET
    with (
        socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as bound,
        socket.socket(socket.AF_INET6 if ":" in asked else socket.AF_INET, socket.SOCK_DGRAM) as client,
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as other,
    ):
        bound.bind((everywhere, 0))
        served = DatagramSocket(bound)
        for each, address in ((other, "127.9.8.8"), (client, asked)):
            each.connect((address, bound.getsockname()[1]))  # takes datagrams from that address only
            each.settimeout(5)
            each.send(b"q")
        assert served.receive() == [b"q", b"q"]
        served.answer([None, b"at once"])
        served.send(b"later", served.client(1))
        assert [client.recv(100), client.recv(100)] == [b"at once", b"later"]
        other.send(b"again")
        assert served.receive() == [b"again"]
        served.answer([b"a"])
        assert other.recv(100) == b"a"
