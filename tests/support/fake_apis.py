"""The parts of two HTTP APIs that the examples of [command.NAME] use: a Redfish controller, and Kubernetes.

Their answers have the form of sushy-tools' emulator (fake driver) and of a Kubernetes 1.32 API server.
"""

from __future__ import annotations

import base64
import json
import threading
import time
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

LATE_S = 0.5
"""The emulator's power state follows one to five seconds after it has accepted a reset."""


class FakeApi:
    """What both have: a server, and a list of the requests that it was sent."""

    def __init__(self) -> None:
        self.requests: list[str] = []
        self.url = ""

    def answer(self, method: str, path: str, body: Any, headers: Any) -> tuple[int, Any]:
        """Return a status and what is sent as JSON."""
        raise NotImplementedError


@contextmanager
def served(api: FakeApi) -> Iterator[FakeApi]:
    """Serve an API on loopback."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _any(self) -> None:
            length = int(self.headers.get("Content-Length") or 0)
            text = self.rfile.read(length)
            path = self.path.partition("?")[0]
            api.requests.append(f"{self.command} {path}")
            status, what = api.answer(self.command, path, json.loads(text) if text else None, self.headers)
            sent = b"" if what is None else json.dumps(what).encode()
            self.send_response(status)
            if what is not None:
                self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(sent)))
            self.end_headers()
            self.wfile.write(sent)

        do_GET = do_POST = do_PATCH = do_PUT = _any

        def log_message(self, *_: object) -> None:
            """Print nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    api.url = f"http://127.0.0.1:{server.server_address[1]}"
    try:
        yield api
    finally:
        server.shutdown()
        server.server_close()
        thread.join(5)


class FakeRedfish(FakeApi):
    """A controller with one system, whose power follows late."""

    PATH = "/redfish/v1/Systems/1"

    def __init__(self) -> None:
        super().__init__()
        self.power = "Off"
        self._becomes = ("Off", 0.0)
        self.heeds_shutdown = True

    def answer(self, method: str, path: str, body: Any, headers: Any) -> tuple[int, Any]:
        if headers.get("Authorization") != "Basic " + base64.b64encode(b"jitsu:secret").decode():
            return 401, {"error": {"code": "Base.1.0.GeneralError", "message": "Unauthorized"}}
        if time.monotonic() >= self._becomes[1]:
            self.power = self._becomes[0]
        if method == "GET" and path == self.PATH:
            return 200, {"@odata.id": path, "Id": "1", "PowerState": self.power}
        if method == "POST" and path == f"{self.PATH}/Actions/ComputerSystem.Reset":
            reset = body["ResetType"]
            if reset == "On" and self.power == "On":
                return 409, {"error": {"code": "Base.1.0.GeneralError", "message": "it is on"}}
            if reset != "GracefulShutdown" or self.heeds_shutdown:
                self._becomes = ("On" if reset == "On" else "Off", time.monotonic() + LATE_S)
            return 204, None
        return 404, {"error": {"code": "Base.1.0.GeneralError", "message": f"no {path}"}}


class FakeKubernetes(FakeApi):
    """An API server with deployments in one namespace."""

    DEPLOYMENTS = "/apis/apps/v1/namespaces/default/deployments"

    def __init__(self, *deployments: str) -> None:
        super().__init__()
        self.replicas = dict.fromkeys(deployments, 0)

    def answer(self, method: str, path: str, body: Any, headers: Any) -> tuple[int, Any]:
        if path == self.DEPLOYMENTS:
            items = [self._deployment(name) for name in self.replicas]
            return 200, {"kind": "DeploymentList", "apiVersion": "apps/v1", "metadata": {}, "items": items}
        if path.startswith(f"{self.DEPLOYMENTS}/"):
            name, _, scale = path.removeprefix(f"{self.DEPLOYMENTS}/").partition("/")
            if name in self.replicas:
                if method in ("PATCH", "PUT"):
                    self.replicas[name] = body["spec"]["replicas"]
                return 200, self._scale(name) if scale else self._deployment(name)
        return (200, _DISCOVERY[path]) if path in _DISCOVERY else (404, _not_found(path))

    def _deployment(self, name: str) -> dict[str, Any]:
        meta = {"name": name, "namespace": "default", "resourceVersion": "1"}
        return {
            "kind": "Deployment",
            "apiVersion": "apps/v1",
            "metadata": meta,
            "spec": {"replicas": self.replicas[name]},
        }

    def _scale(self, name: str) -> dict[str, Any]:
        meta = {"name": name, "namespace": "default", "resourceVersion": "1"}
        replicas = {"replicas": self.replicas[name]}
        return {"kind": "Scale", "apiVersion": "autoscaling/v1", "metadata": meta, "spec": replicas, "status": replicas}

    def config(self, file: Path) -> Path:
        """Write the file that KUBECONFIG names."""
        cluster = {"name": "c", "cluster": {"server": self.url}}
        context = {"name": "x", "context": {"cluster": "c", "user": "u"}}
        whole = {"apiVersion": "v1", "kind": "Config", "clusters": [cluster], "contexts": [context]}
        file.write_text(json.dumps(whole | {"users": [{"name": "u", "user": {}}], "current-context": "x"}))
        return file


def _not_found(path: str) -> dict[str, Any]:
    return {
        "kind": "Status",
        "apiVersion": "v1",
        "status": "Failure",
        "reason": "NotFound",
        "message": path,
        "code": 404,
    }


_APPS = {"groupVersion": "apps/v1", "version": "v1"}
_DISCOVERY: dict[str, Any] = {
    "/api": {"kind": "APIVersions", "versions": ["v1"]},
    "/apis": {
        "kind": "APIGroupList",
        "apiVersion": "v1",
        "groups": [{"name": "apps", "versions": [_APPS], "preferredVersion": _APPS}],
    },
    "/api/v1": {"kind": "APIResourceList", "groupVersion": "v1", "resources": []},
    "/apis/apps/v1": {
        "kind": "APIResourceList",
        "apiVersion": "v1",
        "groupVersion": "apps/v1",
        "resources": [
            {
                "name": "deployments",
                "singularName": "deployment",
                "namespaced": True,
                "kind": "Deployment",
                "verbs": ["get", "list", "patch", "update"],
            },
            {
                "name": "deployments/scale",
                "singularName": "",
                "namespaced": True,
                "group": "autoscaling",
                "version": "v1",
                "kind": "Scale",
                "verbs": ["get", "patch", "update"],
            },
        ],
    },
}

PLAYED_KUBECTL = """#!/usr/bin/env python3
\"\"\"As much of kubectl as the example uses, for machines without it; it makes the same requests.\"\"\"
import json, os, sys, urllib.request
with open(os.environ["KUBECONFIG"]) as file:
    server = json.load(file)["clusters"][0]["cluster"]["server"]
base = server + "/apis/apps/v1/namespaces/default/deployments"
if sys.argv[1:3] == ["scale", "deployment"]:
    body = json.dumps({"spec": {"replicas": int(sys.argv[4].removeprefix("--replicas="))}}).encode()
    request = urllib.request.Request(f"{base}/{sys.argv[3]}/scale", body, method="PATCH")
    urllib.request.urlopen(request, timeout=10).read()
elif sys.argv[1:3] == ["get", "deployments"]:
    for item in json.load(urllib.request.urlopen(base, timeout=10))["items"]:
        print(item["metadata"]["name"], item["spec"]["replicas"])
else:
    sys.exit("unknown command")
"""
