"""VMs, summons, facts and services as the HTTP API gives them, for tests of the page."""

from __future__ import annotations

import math
import time
import uuid
from typing import Any

HOSTILE = '<img src=x onerror="window.hacked=1"><script>window.hacked=1</script>'
MIB = 1024 * 1024


def sample_vm(name: str, state: str = "off", **more: Any) -> dict[str, Any]:
    """Return a VM."""
    number = sum(name.encode()) * 131 % 250 + 1
    runs = state in ("ready", "draining")
    queries = [max(0, round(9 * math.sin(at / 7 + number) - 4)) for at in range(96)]
    return {
        "name": name,
        "uuid": str(uuid.uuid5(uuid.NAMESPACE_DNS, name)),
        "state": state,
        "host": "",
        "names": [f"{name}.example.org"],
        "address": f"192.0.2.{number}",
        "queries": sum(queries) * 7,
        "idle_s": 40.0 * number,
        "uptime_s": 18.0 * number if runs else None,
        "starts": number,
        "last_error": "",
        "retry_after_s": None,
        "waits_for": "",
        "hold": "",
        "state_age_s": 18.0,
        "idle": {"stops_at": time.time() + 31.0 * (number % 9 + 2), "reason": ""} if runs else None,
        "series": {"queries": queries, "up": [1.0 if each else 0.0 for each in queries]},
        "memory_saved_bytes_s": 256.0 * MIB * 90 * number * 10,
        **more,
    }


def sample_vms() -> list[dict[str, Any]]:
    """Return VMs in every state that a person meets."""
    kept = {"stops_at": time.time() + 250, "reason": "one SSH connection from 10.0.0.7 keeps it up"}
    failed = "the hypervisor refused the start: no space left on device (/var/lib/libvirt/images/mail.qcow2)"
    return [
        sample_vm("www", "ready", names=["www.example.org", "example.org"]),
        sample_vm("git", "ready", idle=kept, host="attic"),
        sample_vm("mail", "failed", last_error=failed, retry_after_s=42.0),
        sample_vm("wiki", "booting"),
        sample_vm("ci-runner", "starting", waits_for="2,048 MiB of memory, which VMs on its host hold"),
        sample_vm("photos", "draining"),
        sample_vm("backup", "off", hold="the disk is being replaced, says alice"),
        sample_vm("preview-4711", "suspended", idle_s=90_000.0),
        sample_vm("database", "ready", idle={"stops_at": None, "reason": "its schedule keeps it up until 18:00"}),
        sample_vm("printer", "paused"),
        sample_vm("games", "stopping"),
        sample_vm("lab-solaris", "invalid", last_error="config/mac/0: 'zz' is not a MAC address", host="attic"),
        sample_vm("nas", "unknown", last_error="vmd of cellar does not answer", host="cellar"),
        sample_vm("forum", "off", idle_s=None),
        sample_vm("a-name-that-is-rather-long-for-a-virtual-machine", "off"),
        sample_vm("hostile", "failed", last_error=HOSTILE, names=[HOSTILE], address="2001:db8:0:ffff::1234:5678"),
    ]


def many_vms(count: int) -> list[dict[str, Any]]:
    """Return so many VMs, a tenth of which run."""
    states = ["off"] * 8 + ["ready", "suspended"]
    return [sample_vm(f"vm-{at:04d}", states[at % 10]) for at in range(count)]


def commit(message: str, days: float) -> dict[str, Any]:
    """Return a commit of some days ago, with what it changed."""
    changed = str(uuid.uuid5(uuid.NAMESPACE_DNS, "www"))
    return {
        "id": uuid.uuid5(uuid.NAMESPACE_URL, message).hex + "00000000",
        "ts": time.time() - days * 86_400,
        "author": "operator:alice via web",
        "message": message,
        "changes": [
            {"path": f"jitsu/vm/{changed}/dns/www.example.org/ttl", "old": "60", "value": "300"},
            {"path": f"jitsu/vm/{changed}/config/memory/0", "old": None, "value": "262144"},
        ],
    }


def summons_of(vm: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the latest summons of a VM, newest first."""
    stages = [("summon", 0.0), ("armed", 0.0021), ("start call", 0.0034), ("start returned", 0.118)]
    whole = [*stages, ("first packet", 0.402), ("port open", 0.611), ("handed over", 0.6134)]
    found = []
    for at, (trigger, outcome, parts) in enumerate(
        [("dns", "ready", whole), ("traffic", "ready", whole), ("operator", "failed: it was not up in 30 s", stages)]
    ):
        found.append(
            {
                "summon": f"{vm['name']}-{at}",
                "vm": vm["uuid"],
                "name": vm["name"],
                "trigger": trigger,
                "ts": time.time() - 1800.0 * (at + 1),
                "joined": at * 2,
                "outcome": outcome,
                "stages": [{"name": name, "at_s": seconds * (1 + at / 3)} for name, seconds in parts],
            }
        )
    return found


def why_of(vm: dict[str, Any]) -> dict[str, Any]:
    """Return what the reaper says about a VM."""
    runs = vm["state"] in ("ready", "draining")
    event: dict[str, Any] = {"about": "", "client": "", "took_s": 0.61, "outcome": "ready"}
    return {
        "vm": vm["uuid"],
        "name": vm["name"],
        "state": vm["state"],
        "why_booted": f"A client in 198.51.100.0/24 asked dns-0 for {vm['names'][0]} A at 03:12:07.",
        "why_up": "Two things keep it up." if runs else "It is not up.",
        "when_stops": "In 4 minutes, unless it is used." if runs else "",
        "reasons": [
            {"kind": "connections", "text": "one connection to tcp/22 from 10.0.0.7 is open", "until_ts": None},
            {"kind": "answers", "text": "an answer that was given for it is still valid", "until_ts": time.time() + 40},
        ]
        if runs
        else [],
        "stops_ts": time.time() + 240 if runs else None,
        "clients": [
            {
                "what": "query",
                "about": f"{vm['names'][0]} A",
                "client": "198.51.100.0/24",
                "reporter": "dns-0",
                "ts": time.time() - 61,
                "count": 3,
            }
        ],
        "connections": [{"client": "10.0.0.7", "about": "tcp/22", "count": 1}] if runs else [],
        "connections_open": int(runs),
        "events": [
            {"what": "boot", "ts": time.time() - 1800, "cause": "query", "decided_by": "dns-0", **event},
            {
                **event,
                "what": "stop",
                "ts": time.time() - 9000,
                "cause": "idle",
                "decided_by": "the reaper",
                "outcome": "stopped",
            },
        ],
        "last_error": vm["last_error"],
        "last_error_ts": None,
    }


def sample_services() -> list[dict[str, Any]]:
    """Return services, one of which does not answer."""
    common: dict[str, Any] = {"answers": True, "version": "0.1.0", "pid": 7, "uptime_s": 86_500.0, "notes": []}
    return [
        {**common, "name": "dns-0", "role": "dns", "lag_s": 0.8, "notes": ["answers at 192.0.2.53:53"]},
        {**common, "name": "dns-1", "role": "dns", "lag_s": 31.0, "answers": False},
        {**common, "name": "synjitsu", "role": "synjitsu", "lag_s": 0.5, "notes": ["watches br0, br1"]},
        {**common, "name": "vmd", "role": "vmd", "lag_s": None, "notes": ["hypervisor libvirt (qemu:///system)"]},
        {**common, "name": "vmd@attic", "role": "vmd", "lag_s": None},
        {**common, "name": "reaper", "role": "reaper", "lag_s": None},
        {**common, "name": "store", "role": "store", "lag_s": None, "notes": ["repository /var/lib/jitsu/store.git"]},
        {**common, "name": "web", "role": "web", "lag_s": None},
    ]
