"""An initramfs from Debian's packages: busybox, a kernel's modules in their order, and an init."""

from __future__ import annotations

import gzip
import io
import lzma
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

DIRECTORIES = ("bin", "dev", "etc", "proc", "sys", "tmp", "modules")
LOAD_MODULES = "for module in $(cat /modules/order); do insmod /modules/$module; done"
"""What an init says to have the modules; it needs /bin/cat and /bin/insmod."""
_BUSYBOX_PACKAGE = "busybox-static"


def initramfs(
    root: Path, applets: Sequence[str], files: Mapping[str, bytes], modules: Path, names: Sequence[str]
) -> bytes:
    """Return a compressed archive as the kernel unpacks it (cpio(5), newc).

    `files` are its programs, path -> content, and their directories are made; `names` are modules of the directory
    `modules`, with which come those that they need. `root` is where packages are taken apart.
    """
    archive = io.BytesIO()
    for directory in [*DIRECTORIES, *_directories(files)]:
        _member(archive, directory, 0o040755, b"")
    _member(archive, "bin/busybox", 0o100755, _busybox(root))
    for applet in applets:
        _member(archive, f"bin/{applet}", 0o120777, b"busybox")
    order = []
    for module in _in_order(modules, names):
        name = module.name.removesuffix(".xz").removesuffix(".ko") + ".ko"
        data = module.read_bytes()
        if module.suffix == ".xz":
            data = lzma.decompress(data)
        _member(archive, f"modules/{name}", 0o100644, data)
        order.append(name)
    _member(archive, "modules/order", 0o100644, "\n".join(order).encode())
    for path, content in files.items():
        _member(archive, path, 0o100755, content)
    _member(archive, "TRAILER!!!", 0, b"")
    return gzip.compress(archive.getvalue(), 1)


def kernel_of(root: Path, package: str) -> tuple[Path, Path]:
    """Return a kernel and the directory of its modules: those that are installed, else downloaded.

    `package` is one of Debian's that depend on the newest: linux-image-amd64, linux-image-cloud-amd64.
    """
    flavour = package.removeprefix("linux-image-")
    installed = sorted(Path("/boot").glob(f"vmlinuz-*[0-9]-{flavour}"))  # not -cloud-amd64 for amd64
    if installed:
        return installed[-1], Path("/lib/modules") / installed[-1].name.removeprefix("vmlinuz-")
    depends = _output("apt-cache", "depends", package)
    version = next(line.split()[-1] for line in depends.splitlines() if "Depends: linux-image-" in line)
    taken = unpacked(root, version)
    kernel = next((taken / "boot").glob("vmlinuz-*"))
    return kernel, taken / "lib/modules" / kernel.name.removeprefix("vmlinuz-")


def unpacked(root: Path, package: str) -> Path:
    """Download a package and take it apart, without installing it; return where."""
    target = root / package
    target.mkdir()
    subprocess.run(["apt-get", "download", "-qq", package], cwd=root, check=True)
    subprocess.run(["dpkg-deb", "-x", next(root.glob(f"{package}_*.deb")), target], check=True)
    return target


def _busybox(root: Path) -> bytes:
    installed = Path("/bin/busybox")
    if installed.exists() and b"ld-linux" not in installed.read_bytes()[:4096]:
        return installed.read_bytes()
    return (unpacked(root, _BUSYBOX_PACKAGE) / "bin/busybox").read_bytes()


def _output(*command: str) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def _directories(files: Mapping[str, bytes]) -> list[str]:
    """Return the directories of files, each after the one that it is in."""
    found = {str(parent) for path in files for parent in Path(path).parents if str(parent) != "."}
    return sorted(found - set(DIRECTORIES))


def _in_order(modules: Path, wanted: Sequence[str]) -> Iterator[Path]:
    """Yield modules, each after those that it needs (modules.dep)."""
    needs: dict[str, list[str]] = {}
    for line in (modules / "modules.dep").read_text().splitlines():
        path, _, others = line.partition(":")
        needs[path] = others.split()
    paths = {Path(path).name.split(".")[0].replace("-", "_"): path for path in needs}
    done: set[str] = set()
    for name in wanted:
        path = paths.get(name.replace("-", "_"), "")
        for each in [*reversed(needs[path]), path] if path else []:  # else it is built in
            if each not in done:
                done.add(each)
                yield modules / each


def _member(archive: io.BytesIO, name: str, mode: int, data: bytes) -> None:
    encoded = name.encode() + b"\0"
    fields = [archive.tell(), mode, 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(encoded), 0]
    archive.write(b"070701" + b"".join(b"%08x" % field for field in fields) + encoded)
    archive.write(b"\0" * (-archive.tell() % 4))
    archive.write(data)
    archive.write(b"\0" * (-archive.tell() % 4))
