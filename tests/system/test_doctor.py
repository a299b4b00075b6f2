"""`jitsu doctor` on a suite that runs, and in namespaces of its own where this machine cannot be changed."""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import sys
import tarfile
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.suite import JITSU, RunningSuite, vm_toml

if TYPE_CHECKING:
    from pathlib import Path


def findings(done: subprocess.CompletedProcess[str], *, faults: bool = True) -> list[str]:
    found: list[dict[str, Any]] = json.loads(done.stdout)
    return [f"{each['topic']}: {each['what']}" for each in found if each["is_fault"] is faults]


def doctor(directory: Path, *arguments: str, inside: str = "") -> subprocess.CompletedProcess[str]:
    """Run it; `inside` is a script that is run before it in a network and mount namespace of its own."""
    command = [*JITSU, "--runtime-dir", str(directory / "run"), *arguments]
    if inside:
        script = f"set -e; mount -t sysfs none /sys; ip link set lo up; {inside}; exec {shlex.join(command)}"
        command = ["unshare", "-n", "-m", "sh", "-c", script]
    return subprocess.run(command, capture_output=True, text=True, timeout=100, check=False, cwd=directory)


@pytest.mark.suite
def test_a_suite_that_is_well_has_no_faults_and_one_that_is_not_is_named(tmp_path: Path) -> None:
    with RunningSuite(tmp_path, toml=vm_toml("www", "127.4.19.1")) as suite:
        done = doctor(tmp_path, "doctor", "--json", "--bundle", "out.tar.gz")
        assert (done.returncode, findings(done)) == (0, []), done.stdout
        with tarfile.open(tmp_path / "out.tar.gz") as archive:
            names = {name.rpartition("/")[2] for name in archive.getnames()}
            status = archive.extractfile("jitsu-doctor/status.json")
            assert status is not None
            assert json.loads(status.read())["vms"][0]["name"] == "www"
        assert names >= {"findings.json", "versions.json", "settings.json", "status.json"}
        assert [row["state"] for row in suite.status().values()] == ["off"], "nothing is started"
        pid = suite.pid("vmd")
        assert pid is not None
        os.kill(pid, signal.SIGSTOP)
        try:
            done = doctor(tmp_path, "doctor", "--json")
        finally:
            os.kill(pid, signal.SIGCONT)
        assert (done.returncode, findings(done)) == (1, ["services: vmd does not answer"])


@pytest.mark.net
@pytest.mark.skipif(os.geteuid() != 0, reason="needs root: namespaces")
@pytest.mark.parametrize(
    ("made", "expected"),
    [
        ("true", "bridges: there is no bridge br19 (synjitsu.bridges)"),
        ("ip link add br19 type bridge", "bridges: the bridge is down: br19 (synjitsu.bridges)"),
        (
            "ip link add br19 type veth peer name br20; ip link set br19 up",
            "bridges: this is not a bridge: br19 (synjitsu.bridges)",
        ),
        (
            "ip link add br19 type bridge stp_state 1; ip link set br19 up",
            "bridges: a guest that starts is not reachable for 30 s, because of STP, on br19 (synjitsu.bridges)",
        ),
        ("ip link add br19 type bridge; ip link set br19 up; mkdir full; mount -t tmpfs -o size=1m none full", "full"),
        ("ip link add br19 type bridge; ip link set br19 up; mkdir full; mount -t tmpfs -o ro none full", "read-only"),
    ],
)
def test_what_is_wrong_with_a_machine_is_found_there(tmp_path: Path, made: str, expected: str) -> None:
    (tmp_path / "jitsu.toml").write_text(
        '[dns]\nport = 5300\n[synjitsu]\nbridges = ["br19"]\n[store]\npath = "full/s.git"\n'
    )
    done = doctor(tmp_path, "--config", "jitsu.toml", "doctor", "--json", inside=made)
    expected = {
        "full": f"disk: {tmp_path}/full/s.git (store.path) has 1 MiB free, and should have 100",
        "read-only": f"disk: {tmp_path}/full/s.git (store.path) is on a read-only file system",
    }.get(expected, expected)
    assert done.returncode == 1, done.stderr
    assert findings(done) == [expected]


PARENT = """
import socket, sys, dns.flags, dns.message, dns.rrset
bound = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
bound.bind(("127.0.0.1", 53))
print("ready", flush=True)
while True:
    data, client = bound.recvfrom(4096)
    query = dns.message.from_wire(data)
    name, kind = query.question[0].name.to_text(), query.question[0].rdtype
    reply = dns.message.make_response(query)
    answer = lambda *text: reply.answer.append(dns.rrset.from_text(name, 60, "IN", *text))
    if name == "org." and kind == 6:
        answer("SOA", "a.org. root. 1 1 1 1 1")
    elif name == "org." and kind == 2:
        answer("NS", "a.org.")
    elif name in ("a.org.", "ns1.else.org.") and kind == 1:
        answer("A", "127.0.0.1")
    elif name == "jitsu.org." and kind == 2:
        reply.authority.append(dns.rrset.from_text(name, 60, "IN", "NS", "ns1.else.org.", "ns2.jitsu.org."))
    bound.sendto(reply.to_wire(), client)
"""


@pytest.mark.net
@pytest.mark.skipif(os.geteuid() != 0, reason="needs root: namespaces")
def test_a_delegation_that_leads_elsewhere_is_found_by_asking_the_domain_above(tmp_path: Path) -> None:
    (tmp_path / "parent.py").write_text(PARENT)
    (tmp_path / "resolv.conf").write_text("nameserver 127.0.0.1\n")
    (tmp_path / "jitsu.toml").write_text('[dns]\nport = 5300\nzones = ["jitsu.org"]\nnameservers = ["ns2.jitsu.org"]\n')
    made = f"mount --bind resolv.conf /etc/resolv.conf; {sys.executable} parent.py > up & PID=$!; trap 'kill $PID' EXIT"
    made += "; while ! [ -s up ]; do sleep 0.1; done"
    script = f"mount -t sysfs none /sys; ip link set lo up; {made}; {shlex.join([*JITSU, '--runtime-dir', 'run'])} "
    script += "--config jitsu.toml doctor --json --internet"
    done = subprocess.run(
        ["unshare", "-n", "-m", "sh", "-c", script],
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
        cwd=tmp_path,
    )
    assert sorted(findings(done)) == [
        "delegation: ns1.else.org, to which jitsu.org is delegated, does not answer for it: "
        "it says NOERROR, without authority",
        "delegation: ns2.jitsu.org is in jitsu.org itself, and org has no address (glue) for it",
        "delegation: org delegates jitsu.org to ns1.else.org, ns2.jitsu.org, and dns.nameservers is ns2.jitsu.org",
    ], done.stderr
