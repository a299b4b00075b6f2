"""A small XAPI for tests: its types, errors, sessions and events, over XML-RPC; every argument is checked."""

from __future__ import annotations

import ssl
import subprocess
import threading
import time
import uuid
from socketserver import ThreadingMixIn
from typing import TYPE_CHECKING, Any
from xmlrpc.server import SimpleXMLRPCServer

from tests.support.debian import program

if TYPE_CHECKING:
    from pathlib import Path

USER, PASSWORD = "root", "secret"
NULL = "OpaqueRef:NULL"
ALLOWED = {
    "start": ({"Halted"}, "Running"),
    "resume": ({"Suspended"}, "Running"),
    "unpause": ({"Paused"}, "Running"),
    "pause": ({"Running"}, "Paused"),
    "suspend": ({"Running"}, "Suspended"),
    "clean_shutdown": ({"Running"}, "Halted"),
    "hard_shutdown": ({"Running", "Paused", "Suspended"}, "Halted"),
}
"""Call -> power states in which XAPI takes it, and the one that follows."""


class Fault(Exception):
    """What XAPI answers with Status Failure."""


class _Server(ThreadingMixIn, SimpleXMLRPCServer):
    daemon_threads = True


class FakeXapi:
    """A pool of one master; what it may be asked is what jitsu asks."""

    def __init__(self, certificate: Path | None = None, host: str = "127.0.0.1", port: int = 0) -> None:
        self.vms: dict[str, dict[str, Any]] = {}
        self.vifs: dict[str, dict[str, Any]] = {}
        self.metrics: dict[str, dict[str, Any]] = {}
        self.vbds: dict[str, dict[str, str]] = {}
        self.networks = {"OpaqueRef:net0": "xenbr0", "OpaqueRef:net1": "xenbr1"}
        self.sessions: set[str] = set()
        self.logins = 0
        self.calls: list[str] = []
        self.master = ""
        """Address of the master, if it is another."""
        self.deaf = False
        """Guests do not hear that they shall shut down."""
        self.fails: dict[str, int] = {}
        """How often a call is still to be refused for want of memory."""
        self._events: list[dict[str, Any]] = []
        self._changed = threading.Condition()
        self._server = _Server((host, port), logRequests=False, allow_none=True)
        self.scheme = "http"
        if certificate is not None:
            self.scheme = "https"
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(certificate)
            self._server.socket = context.wrap_socket(self._server.socket, server_side=True)
        self._server.register_instance(_Calls(self))
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,))

    @property
    def uri(self) -> str:
        return "{}://{}:{}".format(self.scheme, *self._server.server_address)

    def __enter__(self) -> FakeXapi:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close_sessions(self) -> None:
        """End all sessions, and answer the callers that wait for events."""
        with self._changed:
            self.sessions.clear()
            self._changed.notify_all()

    def close(self) -> None:
        self.close_sessions()
        if self._thread.is_alive():
            self._server.shutdown()
            self._thread.join()
            self._server.server_close()

    def add(self, name: str, vm_uuid: str = "", bridges: tuple[str, ...] = ("OpaqueRef:net0",), **more: Any) -> str:
        ref = f"OpaqueRef:{uuid.uuid4()}"
        vifs = []
        for n, network in enumerate(bridges):
            vif = f"{ref}-vif{n}"
            self.vifs[vif] = {"device": str(n), "MAC": f"02:00:5E:00:53:{0x40 + n:02X}", "network": network}
            vifs.append(vif)
        self.vms[ref] = {
            "uuid": vm_uuid or str(uuid.uuid4()),
            "name_label": name,
            "power_state": "Halted",
            "is_a_template": False,
            "is_a_snapshot": False,
            "is_control_domain": False,
            "VIFs": vifs,
            "VBDs": [],
        } | more
        return ref

    def becomes(self, ref: str, state: str) -> None:
        with self._changed:
            self.vms[ref]["power_state"] = state
            self._events.append({"class": "vm", "operation": "mod", "ref": ref, "snapshot": self.vms[ref]})
            self._changed.notify_all()

    def answer(self, method: str, arguments: tuple[Any, ...]) -> Any:
        """Answer a call, or raise Fault as XAPI does."""
        self.calls.append(method)
        if method == "session.login_with_password":
            return self._login(*_typed(arguments, str, str, str, str))
        session, *given = arguments
        if session not in self.sessions:
            raise Fault("SESSION_INVALID", str(session))
        if method == "event_from":
            return self._events_from(*_typed(given, list, str, float))
        if method == "VM.get_all_records":
            _typed(given)
            return self.vms
        if method == "VM.get_by_name_label":
            (name,) = _typed(given, str)
            return [ref for ref, vm in self.vms.items() if vm["name_label"] == name]
        if method == "VM.get_by_uuid":
            (wanted,) = _typed(given, str)
            found = [ref for ref, vm in self.vms.items() if vm["uuid"] == wanted]
            if not found:
                raise Fault("UUID_INVALID", "VM", wanted)
            return found[0]
        if method == "VM.get_record":
            return self._vm(_typed(given, str)[0])
        if method in ("VIF.get_all_records", "VM_guest_metrics.get_all_records", "network.get_all_records"):
            bridges = {ref: {"bridge": bridge} for ref, bridge in self.networks.items()}
            return {"VIF": self.vifs, "network": bridges}.get(method.partition(".")[0], self.metrics)
        if method == "VIF.get_record":
            return self.vifs[_typed(given, str)[0]]
        if method == "VBD.get_record":
            return self.vbds[_typed(given, str)[0]]
        if method == "network.get_bridge":
            return self.networks[_typed(given, str)[0]]
        if method == "VM.get_power_state":
            return self._vm(_typed(given, str)[0])["power_state"]
        name = method.removeprefix("VM.")
        if not method.startswith("VM.") or name not in ALLOWED:
            raise Fault("MESSAGE_METHOD_UNKNOWN", method)
        types = (str, bool, bool) if name in ("start", "resume") else (str,)
        ref, *options = _typed(given, *types)
        answer = self._operate(name, ref)
        if options and options[0]:  # it is to start paused
            self.becomes(ref, "Paused")
        return answer

    def _login(self, user: str, password: str, version: str, originator: str) -> str:
        self.logins += 1
        if self.master:
            raise Fault("HOST_IS_SLAVE", self.master)
        if (user, password) != (USER, PASSWORD):
            raise Fault("SESSION_AUTHENTICATION_FAILED", user, "Authentication failure")
        assert (version, originator) == ("1.0", "jitsu")
        session = f"OpaqueRef:{uuid.uuid4()}"
        self.sessions.add(session)
        return session

    def _vm(self, ref: str) -> dict[str, Any]:
        if ref not in self.vms:
            raise Fault("HANDLE_INVALID", "VM", ref)
        return self.vms[ref]

    def _operate(self, name: str, ref: str) -> str:
        vm = self._vm(ref)
        allowed, follows = ALLOWED[name]
        if vm["power_state"] not in allowed:
            raise Fault("VM_BAD_POWER_STATE", ref, " or ".join(sorted(allowed)), vm["power_state"])
        if name == "clean_shutdown" and self.deaf:
            time.sleep(2)
            raise Fault("VM_SHUTDOWN_TIMEOUT", ref, "1200.")
        if self.fails.get(name):
            self.fails[name] -= 1
            raise Fault("HOST_NOT_ENOUGH_FREE_MEMORY", "268435456", "1048576")
        self.becomes(ref, follows)
        return ""

    def _events_from(self, classes: list[str], token: str, timeout: float) -> dict[str, Any]:
        assert classes == ["vm"]
        begin = int(token or 0)
        with self._changed:
            self._changed.wait_for(lambda: len(self._events) > begin or not self.sessions, min(timeout, 5.0))
            events = self._events[begin:]
            return {"token": str(len(self._events)), "events": events, "valid_ref_counts": {"vm": len(self.vms)}}


class _Calls:
    def __init__(self, xapi: FakeXapi) -> None:
        self._xapi = xapi

    def _dispatch(self, method: str, arguments: tuple[Any, ...]) -> dict[str, Any]:
        try:
            return {"Status": "Success", "Value": self._xapi.answer(method, arguments)}
        except Fault as fault:
            return {"Status": "Failure", "ErrorDescription": list(fault.args)}


def _typed(given: Any, *types: type) -> Any:
    if len(given) != len(types):
        raise Fault("MESSAGE_PARAMETER_COUNT_MISMATCH", str(len(types)), str(len(given)))
    for value, wanted in zip(given, types, strict=True):
        if type(value) is not wanted:
            raise Fault("FIELD_TYPE_ERROR", f"{value!r} is no {wanted.__name__}")
    return tuple(given)


def self_signed(directory: Path) -> Path:
    """Return a file with a key and a certificate for 127.0.0.1."""
    target = directory / "xapi.pem"
    asked = ("req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=127.0.0.1")
    name = ("-addext", "subjectAltName=IP:127.0.0.1")
    files = ("-keyout", directory / "key.pem", "-out", directory / "cert.pem")
    subprocess.run([program("openssl", "openssl"), *asked, *name, *files], check=True, capture_output=True)
    target.write_text((directory / "key.pem").read_text() + (directory / "cert.pem").read_text())
    return target


def password_file(directory: Path, password: str = PASSWORD) -> Path:
    path = directory / "password"
    path.touch(mode=0o600)
    path.write_text(password + "\n")
    return path
