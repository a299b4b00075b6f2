from __future__ import annotations

from pathlib import Path

import pytest

from jitsu_protocol.settings import SettingsFault, VmText, load, load_service, reference
from jitsu_protocol.toml import TomlFile, key_lines


def faults(
    tmp_path: Path, text: str = "", environ: dict[str, str] | None = None, flags: dict[str, str] | None = None
) -> list[str]:
    file = tmp_path / "j.toml"
    file.write_text(text)
    with pytest.raises(SettingsFault) as caught:
        load(file, environ or {}, flags or {})
    return [line.removeprefix(f"{tmp_path}/") for line in caught.value.faults]


def test_flags_count_before_the_environment_and_that_before_the_file_and_that_before_presets(tmp_path: Path) -> None:
    file = tmp_path / "j.toml"
    file.write_text("[dns]\nport = 1\nmax_tcp = 1\nlease = 1\n")
    settings = load(
        file,
        {"JITSU_DNS_PORT": "2", "JITSU_DNS_MAX_TCP": "2"},
        {"dns.port": "3"},
        presets={"dns.port": "4", "dns.lease": "4", "dns.max_waiting": "4"},
    )
    assert (settings.dns.port, settings.dns.max_tcp, settings.dns.lease, settings.dns.max_waiting) == (3, 2, 1.0, 4)


def test_every_fault_is_told_with_its_place(tmp_path: Path) -> None:
    text = '[dns]\nbind = "x"\n[reaper]\ndrain_limit = 0\n[nonsense]\n'
    found = faults(tmp_path, text, {"JITSU_LOG_LEVEL": "loud"}, {"store.colour": "red"})
    assert [line.split(": ")[0:2] for line in found] == [
        ["j.toml:5", "nonsense"],
        ["j.toml:2", "dns.bind"],
        ["j.toml:4", "reaper.drain_limit"],
        ["environment JITSU_LOG_LEVEL", "log.level"],
        ["flag for store.colour", "there is no such setting"],
    ]


def test_a_section_and_a_vm_must_be_tables(tmp_path: Path) -> None:
    assert faults(tmp_path, "dns = 3\n") == ["j.toml:1: dns: must be a section: [dns]"]
    assert faults(tmp_path, "[vm]\nwww = 3\n") == ["j.toml:2: vm.www: must be a section: [vm.www]"]
    (line,) = faults(tmp_path, '[vm.www]\ndns = "a.b"\nip = {a = 1}\n')[:1]
    assert line == "j.toml:3: vm.www.ip: must be a value or a list of values"


def test_vms_come_from_the_file_and_from_strings_and_must_agree(tmp_path: Path) -> None:
    file = tmp_path / "j.toml"
    file.write_text('[defaults]\nttl = 7\n[vm.www]\ndns = ["a.b", "c.d"]\nip = "127.0.1.1"\nresponse_delay = 0.25\n')
    text = VmText(config={"dns": ["e.f"], "ip": ["127.0.1.2"]}, where="VM string 1")
    one, two = load(file, {}, {}, [text]).vms
    assert (one.name, one.names, one.response_delay) == ("www", {"a.b": 7, "c.d": 7}, 0.25)
    assert (two.name, two.ttl) == ("e.f", 7)
    clash = VmText(config={"dns": ["C.d"], "ip": ["127.0.1.2"]}, where="VM string 1")
    with pytest.raises(SettingsFault, match=r"VM string 1: dns: c\.d belongs to the VM www already"):
        load(file, {}, {}, [clash])


def test_plain_tcp_beyond_loopback_needs_to_be_said(tmp_path: Path) -> None:
    remote = '[bus]\nvmd_rpc = "tcp://192.0.2.1:5000"\n'
    (line,) = faults(tmp_path, remote)
    assert "bus.allow_plain_tcp = true" in line
    file = tmp_path / "j.toml"
    file.write_text(remote + "allow_plain_tcp = true\n")
    assert load(file, {}, {}).bus.endpoint("vmd", "rpc") == "tcp://192.0.2.1:5000"
    file.write_text('[bus]\nvmd_rpc = "tcp://127.0.0.1:5000"\nstore_feed = "tcp://[::1]:5001"\n')
    load(file, {}, {})
    assert "neither ipc:// nor tcp://" in faults(tmp_path, '[bus]\nvmd_rpc = "udp://x"\n')[0]


def test_a_runtime_directory_too_long_for_a_socket_is_told(tmp_path: Path) -> None:
    assert "too long for a Unix socket" in faults(tmp_path, f'[bus]\nruntime_dir = "/{"x" * 100}"\n')[0]


def test_a_service_has_flags_for_its_own_section_and_the_common_ones() -> None:
    settings = load_service("dns", ["--port", "5353", "--bus-runtime-dir", "/r", "--zones", "a.b,c.d"], {})
    assert (settings.dns.port, settings.dns.zones) == (5353, ["a.b", "c.d"])
    assert settings.bus.endpoint("vmd", "feed") == "ipc:///r/vmd.feed"


def test_help_names_every_setting(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        load_service("reaper", ["--help"], {})
    assert "--drain-limit" in capsys.readouterr().out


def test_the_reference_page_is_fresh() -> None:
    page = Path(__file__).parents[2] / "docs" / "configuration.md"
    assert page.read_text() == reference(), "run `make docs`"


def test_lines_of_keys_are_found_in_all_forms_of_toml() -> None:
    text = '# c\n[a."b.c"]\nx = 1\n  y.z = 2\n\n[[list]]\nq = """\nnot = a key\n"""\n[d] # e\n"k" = [\n 1,\n]\n'
    lines = key_lines(text)
    assert lines["a", "b.c"] == 2
    assert lines["a", "b.c", "x"] == 3
    assert lines["a", "b.c", "y", "z"] == 4
    assert lines["list", "q"] == 7
    assert lines["d", "k"] == 11


def test_the_nearest_known_line_is_named(tmp_path: Path) -> None:
    file = tmp_path / "j.toml"
    file.write_text("[a]\nb = {c = 1}\n")
    assert TomlFile.read(file).at("a", "b", "c") == f"{file}:2: a.b.c"
