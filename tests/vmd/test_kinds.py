"""The list of kinds and the folders in hypervisors/ agree, and a kind is loaded only when it is asked for."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, cast

import pytest

from jitsu_protocol.model.hypervisors import HypervisorConnection, HypervisorKind, connection
from jitsu_vmd import hypervisors
from jitsu_vmd.hypervisors import make
from jitsu_vmd.hypervisors.bridge.backend import Bridge
from jitsu_vmd.hypervisors.loopback.backend import Loopback
from tests.support.process import running_process

if TYPE_CHECKING:
    from jitsu_runtime.world import World

FOLDER = Path(hypervisors.__file__).parent
LIBRARIES = {"aiohttp", "libvirt", "XenAPI", "qemu", "pyxs", "pyroute2"}


@pytest.mark.parametrize("kind", HypervisorKind)
def test_every_kind_has_a_folder_with_a_backend(kind: HypervisorKind) -> None:
    assert "def make(" in (FOLDER / kind.folder / "backend.py").read_text()


def test_every_folder_with_a_backend_belongs_to_a_kind() -> None:
    assert {path.parent.name for path in FOLDER.glob("*/backend.py")} == {kind.folder for kind in HypervisorKind}


KINDS = sorted({kind.folder for kind in HypervisorKind})
IMPORTS_EACH = """
import importlib, os, sys, jitsu_vmd.main
for kind in sys.argv[1:]:
    if (child := os.fork()) == 0:
        importlib.import_module(f"jitsu_vmd.hypervisors.{kind}.backend")
        print(kind, *sys.modules, flush=True)
        os._exit(0)
    os.waitpid(child, 0)
"""
"""Each kind in a process of its own, which the fork of one that has imported vmd is."""


def test_importing_a_kind_loads_no_other_kind_and_no_library() -> None:
    done = subprocess.run([sys.executable, "-c", IMPORTS_EACH, *KINDS], capture_output=True, text=True, check=True)
    loaded = {kind: set(modules) for kind, *modules in map(str.split, done.stdout.splitlines())}
    assert sorted(loaded) == KINDS, done.stderr
    prefix = "jitsu_vmd.hypervisors."
    for kind, modules in loaded.items():
        folders = {name.removeprefix(prefix).split(".")[0] for name in modules if name.startswith(prefix)}
        assert folders - {"mock", "shared"} == {kind}
        assert not LIBRARIES & modules


async def test_a_further_mock_connection_goes_to_the_host_process_that_its_own_uri_names(tmp_path: Path) -> None:
    shown = {"hypervisor__kind": "loopback", "hypervisor__connect": str(tmp_path / "machine")}
    async with running_process("vmd", tmp_path, **shown, hypervisor__connections="fast bridge") as world:
        made = [make(cast("World", world), each) for each in world.settings.hypervisor.all_connections]
        assert isinstance(made[0], Loopback)
        assert made[0].directory == tmp_path / "machine"
        assert isinstance(made[1], Bridge)
        assert made[1].directory == tmp_path


def test_a_connection_is_read_from_its_text() -> None:
    assert connection("xen libvirt xen:///system") == HypervisorConnection(
        "xen", HypervisorKind.LIBVIRT, "xen:///system"
    )
    assert connection("fast bridge") == HypervisorConnection("fast", HypervisorKind.BRIDGE)
    for text in ("fast", "fast lightning", "fast bridge a b", "no/name bridge"):
        with pytest.raises(ValueError, match=r"no/name|neither NAME KIND nor NAME KIND URI"):
            connection(text)
