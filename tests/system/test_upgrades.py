"""An upgrade and the way back: services of two protocol versions side by side, and a store that two builds open."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.dns import ask
from tests.support.store import git
from tests.support.suite import RunningSuite, vm_toml, wait_for

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


ROOT = Path(__file__).parents[2]
PREVIOUS = "9503f6d8"
"""The last commit before the packages were rearranged: the previous build, as far as there are builds."""
STATISTICS = "jitsu/stats/{uuid}/total_starts"


@pytest.fixture(scope="module")
def previous_build(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Return the PYTHONPATH on which the previous build is found before this one."""
    made = subprocess.run(
        ["git", "-C", ROOT, "archive", PREVIOUS, "protocol", "services", "jitsu"], capture_output=True, check=False
    )
    if made.returncode:
        shallow = ["git", "-C", str(ROOT), "rev-parse", "--is-shallow-repository"]
        is_shallow = subprocess.run(shallow, capture_output=True, text=True, check=True).stdout.strip() == "true"
        assert is_shallow, f"this repository does not have the commit {PREVIOUS}: {made.stderr.decode()}"
        pytest.xfail(f"the history of this checkout does not reach back to {PREVIOUS}: fetch all of it")
    directory = tmp_path_factory.mktemp("previous")
    subprocess.run(["tar", "-x", "-C", directory], input=made.stdout, check=True)
    parts = [directory, directory / "protocol", *sorted((directory / "services").iterdir())]
    path = os.pathsep.join(map(str, parts))
    look = "import jitsu_store.main as it; print(it.__file__)"
    environment = {**os.environ, "PYTHONPATH": path}
    found = subprocess.run(
        [sys.executable, "-P", "-c", look], env=environment, capture_output=True, text=True, check=True
    )
    assert Path(found.stdout.strip()).is_relative_to(directory)
    return path


async def test_the_previous_build_and_this_one_open_each_others_store(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, previous_build: str
) -> None:
    toml = '[store]\npath = "store.git"\n'
    first = toml + vm_toml("www", "127.2.42.1", ttl=1, use_synjitsu=True) + vm_toml("api", "127.2.42.2")
    monkeypatch.setenv("PYTHONSAFEPATH", "1")  # the directory in which the tests run has this build
    monkeypatch.setenv("PYTHONPATH", previous_build)
    with RunningSuite(tmp_path, toml=first) as suite:
        assert (await ask("www.jitsu.test", suite.port)).addresses == ["127.2.42.1"]
        uuid = suite.status()["www"]["uuid"]
        suite.jitsu("set", f"jitsu/vm/{uuid}/response_delay", "0.3")
        wait_for(lambda: suite.jitsu("get", STATISTICS.format(uuid=uuid)) == "1\n", 5, "the start is counted")
    monkeypatch.delenv("PYTHONPATH")
    with RunningSuite(tmp_path, toml=toml) as suite:
        assert (await ask("www.jitsu.test", suite.port)).addresses == ["127.2.42.1"]
        assert suite.jitsu("get", f"jitsu/vm/{uuid}/response_delay") == "0.3\n"
        wait_for(lambda: suite.jitsu("get", STATISTICS.format(uuid=uuid)) == "2\n", 5, "starts are counted on")
        suite.jitsu("apply", "--yes", "dns=new.jitsu.test,ip=127.2.42.3,name=new,max_wait=2s,evict=true")
        suite.jitsu("unset", "--yes", "api")
    git(tmp_path / "store.git", "fsck", "--strict")
    monkeypatch.setenv("PYTHONPATH", previous_build)
    with RunningSuite(tmp_path, toml=toml) as suite:
        assert set(suite.status()) == {"www", "new"}
        assert (await ask("new.jitsu.test", suite.port)).addresses == ["127.2.42.3"]
        assert (await ask("www.jitsu.test", suite.port)).addresses == ["127.2.42.1"]
        wait_for(lambda: suite.jitsu("get", STATISTICS.format(uuid=uuid)) == "3\n", 5, "starts are counted on")
    git(tmp_path / "store.git", "fsck", "--strict")
