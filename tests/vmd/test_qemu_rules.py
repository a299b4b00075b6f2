"""What a QEMU process is made of, what a VM is given what its process and its save are, and why one has ended; pure."""

from __future__ import annotations

import json
import re
from dataclasses import replace

import pytest

from jitsu_vmd.hypervisors.qemu.rules import life as life_module
from jitsu_vmd.hypervisors.qemu.rules.command_line import Opened, command_line, opened
from jitsu_vmd.hypervisors.qemu.rules.firmware import Firmware, firmware_of
from jitsu_vmd.hypervisors.qemu.rules.launch import (
    Launch,
    LaunchBoot,
    LaunchDisk,
    LaunchNic,
    MadeFiles,
    launch_from_json,
)
from jitsu_vmd.hypervisors.qemu.rules.life import LIVES, Process, SaveState, Start, is_kept, life, process_of
from jitsu_vmd.hypervisors.qemu.rules.reasons import LOOP, has_crashed, only_resets, reason
from jitsu_vmd.rules.events import GuestState

UUID = "c3c4f1a1-2a2a-4b52-8b43-6d2a3b1d5f10"
LAUNCH = Launch(
    name="web",
    uuid=UUID,
    machine="microvm",
    is_kvm=False,
    boot=LaunchBoot("/boot/vmlinuz", "/boot/initrd", "console=ttyS0"),
    memory_mib=128,
    vcpus=2,
    nics=(LaunchNic("02:00:5e:00:53:01", "br0", "jq0"),),
    disks=(LaunchDisk("/images/a,b.qcow2", "qcow2", False, "root"),),
    shares_memory=True,
)
FILES = MadeFiles("/saved/ram", "/saved/variables")
WORDS = {
    "boots": Start.BOOT,
    "loads the save, marks it as used, and continues": Start.LOAD,
    "is refused until the save is discarded": Start.REFUSED,
    "is refused until the save is discarded: the guest may have run since": Start.REFUSED,
    "continues": Start.CONTINUE,
    "marks the save as used, and continues": Start.MARK_AND_CONTINUE,
    "does nothing, and deletes the save, which is older than the guest": Start.NOTHING,
    "ends the process, and boots": Start.BOOT,
    "ends the process, which has not run, and loads the save again": Start.LOAD,
    "ends the process, which has not loaded the save, and loads it again": Start.LOAD,
}


def test_the_table_of_what_a_qemu_vm_is_says_what_the_code_does() -> None:
    rows = re.findall(r"^    (\w+) +(\w+) +(\w+) +(\w.*)$", life_module.__doc__ or "", re.MULTILINE)
    said: dict[tuple[Process, SaveState], tuple[GuestState, Start]] = {}
    for process, save, state, words in rows[1:]:
        if process not in set(Process):
            continue
        saves = list(SaveState) if save == "any" else [SaveState(save)]
        start = WORDS.get(words) or WORDS[words.partition(":")[0]]
        said |= {(Process(process), each): (GuestState(state), start) for each in saves}
    assert said == {key: (row.state, row.start) for key, row in LIVES.items()}


@pytest.mark.parametrize("process", Process)
def test_a_save_that_may_have_been_used_is_never_loaded(process: Process) -> None:
    assert life(process, SaveState.USED).start not in (Start.LOAD, Start.MARK_AND_CONTINUE, Start.BOOT)


@pytest.mark.parametrize("process", Process)
def test_a_vm_with_a_whole_save_is_suspended_unless_it_runs(process: Process) -> None:
    wanted = GuestState.RUNNING if process is Process.RUNNING else GuestState.SUSPENDED
    assert life(process, SaveState.SAVED).state is wanted


def test_a_save_that_was_cut_short_is_not_kept_but_a_paused_guest_is() -> None:
    assert not is_kept(Process.NONE, SaveState.SAVING)
    assert is_kept(Process.STOPPED, SaveState.NONE)
    assert is_kept(Process.NONE, SaveState.USED)


def test_a_status_that_is_not_known_is_of_a_guest_that_does_not_run() -> None:
    assert process_of("inmigrate") is Process.UNBORN
    assert process_of("running") is Process.RUNNING
    assert process_of("something new") is Process.STOPPED


def test_a_microvm_under_emulation_is_given_the_frequency_of_the_counter() -> None:
    words = command_line("qemu", LAUNCH, [7, 8, 9], 2_400_000, is_incoming=False)
    assert words[words.index("-append") + 1] == "console=ttyS0 tsc_early_khz=2400000 panic=-1"
    assert words[words.index("-machine") + 1] == "microvm,accel=tcg,memory-backend=ram,acpi=on,rtc=on"
    said = replace(LAUNCH, boot=replace(LAUNCH.boot, cmdline="tsc_early_khz=1 panic=5"))
    assert "tsc_early_khz=1 panic=5" in command_line("qemu", said, [7, 8, 9], 2_400_000, is_incoming=False)
    for other in (replace(LAUNCH, is_kvm=True), replace(LAUNCH, machine="q35")):
        assert "console=ttyS0 panic=-1" in command_line("qemu", other, [7, 8, 9], 2_400_000, is_incoming=False)


def test_what_is_opened_for_qemu_is_named_by_its_descriptors_in_order() -> None:
    assert opened(LAUNCH, FILES) == (
        Opened("file", "/saved/ram"),
        Opened("tap", "jq0"),
        Opened("file", "/images/a,b.qcow2"),
    )
    words = " ".join(command_line("qemu", LAUNCH, [17, 18, 29], 1, is_incoming=True))
    assert "memory-backend-file,id=ram,mem-path=/proc/self/fd/17,share=on,size=128M" in words
    assert "tap,id=net0,fd=18" in words
    assert "-add-fd fd=29,set=1" in words
    assert "-incoming defer" in words
    private = replace(LAUNCH, shares_memory=False)
    assert opened(private, FILES)[0].kind == "tap"
    assert "memory-backend-ram" in " ".join(command_line("qemu", private, [18, 29], 1, is_incoming=False))


def test_uefi_firmware_is_two_chips_and_only_the_variables_are_the_vms_own() -> None:
    uefi = replace(LAUNCH, machine="q35", boot=replace(LAUNCH.boot, firmware="/usr/share/OVMF/CODE,4M.fd"))
    assert opened(uefi, FILES)[1] == Opened("file", "/saved/variables")
    words = command_line("qemu", uefi, [17, 18, 19, 29], 1, is_incoming=False)
    assert ",pflash0=code,pflash1=variables," in words[words.index("-machine") + 1]
    said = " ".join(words)
    assert "driver=file,node-name=code-file,read-only=on,filename=/usr/share/OVMF/CODE,,4M.fd" in said
    assert "driver=raw,node-name=code,file=code-file,read-only=on" in said
    assert "-add-fd fd=18,set=1000 " in said
    assert "driver=raw,node-name=variables,file=variables-file -" in said
    assert "-netdev tap,id=net0,fd=19" in said


def described(**changes: object) -> dict[str, object]:
    """Return a description of UEFI firmware as Debian's package ovmf has it."""
    flash = {"filename": "/code.fd", "format": "raw"}
    return {
        "interface-types": ["uefi"],
        "mapping": {
            "device": "flash",
            "executable": flash,
            "nvram-template": {"filename": "/vars.fd", "format": "raw"},
        },
        "targets": [{"architecture": "x86_64", "machines": ["pc-i440fx-*", "pc-q35-*"]}],
        "features": ["acpi-s3", "amd-sev", "verbose-dynamic"],
    } | changes


def test_the_first_firmware_that_needs_no_secure_boot_is_used() -> None:
    secure = described(features=["acpi-s3", "requires-smm", "secure-boot"])
    arm = described(targets=[{"architecture": "aarch64", "machines": ["virt-*"]}])
    stateless = described(mapping={"device": "flash", "mode": "stateless", "executable": {"filename": "/x"}})
    seabios = described(**{"interface-types": ["bios"], "mapping": {"device": "memory", "filename": "/bios.bin"}})
    found = {"10.json": secure, "20.json": arm, "30.json": stateless, "40.json": seabios, "45.json": None, "46.json": 7}
    assert firmware_of(found) is None
    assert firmware_of({**found, "60.json": described()}) == Firmware("/code.fd", "/vars.fd")


def test_a_comma_in_a_value_adds_no_option_and_no_path_of_a_disk_is_on_the_command_line() -> None:
    words = command_line("qemu", replace(LAUNCH, name="a,debug-threads=on"), [7, 8, 9], 1, is_incoming=False)
    assert words[words.index("-name") + 1] == "guest=a,,debug-threads=on"
    assert not any("/images/" in word for word in words)


@pytest.mark.parametrize("launch", [LAUNCH, replace(LAUNCH, machine="q35", shares_memory=False)])
def test_every_qemu_is_confined_and_waits_until_vmd_lets_it_run(launch: Launch) -> None:
    words = command_line("qemu", launch, [7, 8, 9], 1, is_incoming=False)
    assert words[words.index("-sandbox") + 1].startswith("on,")
    assert "-S" in words
    assert "-nodefaults" in words


def test_a_launch_is_the_same_after_it_was_written_and_read() -> None:
    assert launch_from_json(json.loads(json.dumps(LAUNCH.to_json()))) == LAUNCH
    with pytest.raises((TypeError, KeyError)):
        launch_from_json({"name": "web"})


@pytest.mark.parametrize(
    ("status", "cause", "errors", "printed", "said"),
    [
        (1, "", b"qemu: could not open disk\n", b"", "QEMU has ended with status 1: qemu: could not open disk; its"),
        (-9, "", b"", b"booting\n", "QEMU was ended by SIGKILL; its serial port: booting"),
        (0, "guest-panic", b"", b"panic\nno init\n", "the guest has panicked; its serial port: panic; no init"),
        (
            -9,
            "guest-panic",
            b"",
            b"no root\nKernel panic - not syncing: VFS\nCPU: 0\nCall Trace:\n a\n b\n c\n",
            "the guest has panicked; its serial port: no root; Kernel panic - not syncing: VFS",
        ),
        (None, "", b"", b"", "QEMU has ended; its serial port printed nothing"),
    ],
)
def test_the_reason_of_an_end_has_what_qemu_and_the_guest_said_last(
    status: int | None, cause: str, errors: bytes, printed: bytes, said: str
) -> None:
    assert reason(status, cause, errors, printed).startswith(said)


def test_a_guest_that_resets_all_the_time_has_failed_but_one_that_reboots_has_not() -> None:
    assert only_resets([0.0, 1.0, 2.0, 3.0, 4.0])
    assert not only_resets([0.0, 1.0, 2.0, 3.0])
    assert not only_resets([0.0, 10.0, 20.0, 30.0, 40.0])
    assert only_resets([0.0, 100.0, 101.0, 102.0, 103.0, 104.0])
    assert has_crashed(-9, LOOP)
    assert reason(-9, LOOP, b"", b"Probing EDD\n").startswith("the guest has reset 5 times within 20 s, for example")


def test_a_guest_that_shut_down_has_not_crashed() -> None:
    assert not has_crashed(0, "guest-shutdown")
    assert not has_crashed(None, "")
    assert has_crashed(-9, "")
    assert has_crashed(0, "guest-panic")
