"""A service of the protocol version before beside the others, as while a suite is upgraded one service at a time."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.support.dns import ask
from tests.support.suite import RunningSuite, vm_toml, wait_for

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.suite

OLDER = """
import sys

if "jitsu_{service}.main" in sys.orig_argv:
    from jitsu_protocol.wire import codec
    from jitsu_protocol import messages
    from jitsu_{service}.wires import server

    codec.VERSION = (1, 0)
    handlers = server.{owner}.handlers

    def older(self):
        return {{each: answer for each, answer in handlers(self).items() if each is not messages.{unknown}}}

    server.{owner}.handlers = older
"""
"""Python runs sitecustomize.py at its start: the service knows nothing of what 1.1 brought."""


def older(directory: Path, monkeypatch: pytest.MonkeyPatch, service: str, owner: str, unknown: str) -> None:
    directory.joinpath("sitecustomize.py").write_text(OLDER.format(service=service, owner=owner, unknown=unknown))
    monkeypatch.setenv("PYTHONPATH", str(directory))


async def test_a_store_of_the_version_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    older(tmp_path, monkeypatch, "store", "StoreServer", "Register")
    with RunningSuite(tmp_path, toml=vm_toml("www", "127.2.40.1", ttl=1)) as suite:
        assert (await ask("www.jitsu.test", suite.port)).addresses == ["127.2.40.1"]
        wait_for(lambda: "Replica dns-0 registered" in suite.jitsu("log"), 10, "the reaper registers the replica")
        wait_for(lambda: suite.state("www") == "off", 15, "what is idle is stopped")


async def test_a_vmd_of_the_version_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    older(tmp_path, monkeypatch, "vmd", "VmDaemon", "Check")
    with RunningSuite(tmp_path, toml=vm_toml("www", "127.2.41.1", ttl=1)) as suite:
        said = suite.jitsu("apply", "dns=new.jitsu.test,ip=127.2.41.2,name=new,port=8080")
        assert "not checked whether a hypervisor can run them" in said
        assert (await ask("new.jitsu.test", suite.port)).addresses == ["127.2.41.2"]
