"""What a kernel image says about how Xen can boot it."""

from __future__ import annotations

import gzip
from contextlib import suppress
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from jitsu_protocol.model.errors import Refused
from jitsu_vmd.hypervisors.libvirt.rules import domain_xml
from jitsu_vmd.hypervisors.shared.rules.spec import DomainSpec, domain_spec
from jitsu_vmd.hypervisors.shared.rules.xen_image import LOADER, PHYS32_ENTRY, ImageFault, guest_type
from jitsu_vmd.hypervisors.shared.xen_images import XenImages
from tests.support.elf import with_notes
from tests.support.vms import make_vm

if TYPE_CHECKING:
    from pathlib import Path

VIRT_BASE, HYPERCALL_PAGE = 3, 2


def spec_of(kernel: str, **keys: str) -> DomainSpec:
    return domain_spec(make_vm(kernel=kernel, **keys), "")


@pytest.mark.parametrize("bits", [32, 64])
@pytest.mark.parametrize("as_section", [False, True])
def test_an_image_is_booted_as_its_notes_say(bits: int, as_section: bool) -> None:
    def image(*kinds: int) -> bytes:
        return with_notes(*kinds, bits=bits, as_section=as_section)

    assert guest_type(image(PHYS32_ENTRY)) == "pvh", "as Solo5's and MirageOS's images"
    assert guest_type(image(VIRT_BASE, LOADER)) == "pv"
    assert guest_type(image(PHYS32_ENTRY, LOADER)) == "pv", "Linux has both"
    assert guest_type(gzip.compress(image(PHYS32_ENTRY))) == "pvh"
    for without in (image(), image(HYPERCALL_PAGE), with_notes(PHYS32_ENTRY, owner=b"GNU\0", bits=bits)):
        with pytest.raises(ImageFault, match="neither a PV loader nor an entry for PVH"):
            guest_type(without)


def test_what_is_not_an_elf_file_is_left_to_xens_tools() -> None:
    assert guest_type(bytes(0x202) + b"HdrS" + bytes(1000)) == "pv", "a bzImage"
    assert guest_type(b"") == "pv"


@given(st.integers(0, 200), st.integers(0, 120), st.binary(max_size=8), st.booleans())
def test_g9_no_image_does_more_than_be_refused(length: int, at: int, bad: bytes, is_64: bool) -> None:
    image = with_notes(PHYS32_ENTRY, bits=64 if is_64 else 32)
    image = (image[:at] + bad + image[at + len(bad) :])[: max(4, length)]
    with suppress(ImageFault):
        assert guest_type(image) in ("pv", "pvh")


def test_the_key_counts_before_the_image_and_a_new_image_is_seen(tmp_path: Path) -> None:
    images, kernel = XenImages(), tmp_path / "kernel"
    kernel.write_bytes(with_notes(PHYS32_ENTRY))
    assert images.guest_type(spec_of(str(kernel))) == "pvh"
    assert images.guest_type(spec_of(str(kernel), guest_type="hvm")) == "hvm"
    kernel.write_bytes(with_notes(HYPERCALL_PAGE, LOADER, VIRT_BASE))
    assert images.guest_type(spec_of(str(kernel))) == "pv"
    kernel.write_bytes(with_notes(PHYS32_ENTRY)[:70])
    with pytest.raises(Refused, match=r"kernel: /.*: it is an ELF file that is cut short or damaged; .*guest_type"):
        images.guest_type(spec_of(str(kernel)))
    kernel.unlink()
    with pytest.raises(Refused, match="cannot be read: No such file"):
        images.guest_type(spec_of(str(kernel)))


@pytest.mark.parametrize(("kind", "called"), [("pv", "linux"), ("pvh", "xenpvh"), ("hvm", "hvm")])
def test_libvirt_is_told_how_xen_boots_it(kind: str, called: str) -> None:
    xml = domain_xml(spec_of("/k"), "xen", kind)  # type: ignore[arg-type]
    assert f"<os><type>{called}</type>" in xml
