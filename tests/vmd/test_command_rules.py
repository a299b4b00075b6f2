"""What commands are given, what their output means, and what is believed of a VM that they drive."""

from __future__ import annotations

import pytest

from jitsu_protocol.model.errors import Refused
from jitsu_vmd.hypervisors.command.rules import arguments, keys, reports
from jitsu_vmd.hypervisors.command.rules.guest import (
    AskState,
    CommandBegan,
    CommandReturned,
    CommandVm,
    CommandVmState,
    ReportChange,
    StartSucceeded,
    StateFound,
    StateNotFound,
    StopSucceeded,
    WatchHinted,
)
from jitsu_vmd.hypervisors.command.rules.reports import Ended, NotUnderstood, StateReport
from jitsu_vmd.hypervisors.command.rules.watching import WatchBackoff
from jitsu_vmd.rules.events import GuestState
from tests.support.vms import make_vm

VM = make_vm("www", "10.0.0.1", uuid="4d47be4e-9cd2-5d84-a20e-7b966138fbe2")
RUNNING, OFF = StateReport(GuestState.RUNNING), StateReport(GuestState.OFF)
CRASHED = StateReport(GuestState.CRASHED, "no memory")


# --- arguments and environment ---


def test_name_uuid_and_address_are_filled_in_and_nothing_else() -> None:
    words = ["p", "{name}", "a{address}b", "{uuid}", '{"replicas": 1}', "{}", "{{name}}", "{mac}"]
    assert arguments.argv(words, VM, shell=False) == [
        *("p", "www", "a10.0.0.1b", VM.uuid, '{"replicas": 1}', "{}", "{name}", "{mac}"),
    ]


def test_a_shell_is_given_the_text_as_it_is_written() -> None:
    assert arguments.argv(["echo {name} $JITSU_NAME"], VM, shell=True) == ["/bin/sh", "-c", "echo {name} $JITSU_NAME"]


def test_a_command_about_all_vms_is_given_its_words_as_they_are_and_no_vm() -> None:
    assert arguments.argv(["p", "{name}"], None, shell=False) == ["p", "{name}"]
    found = arguments.environment({"HOME": "/root", "SHELL": "/bin/sh"}, "desk", {}, "watch", None)
    assert found == {"HOME": "/root", "JITSU_COMMAND": "desk", "JITSU_ACTION": "watch"}


def test_the_environment_has_what_the_vm_is_called_and_nothing_secret() -> None:
    own = {"PATH": "/bin", "JITSU_DNS_COOKIE_SECRET": "x", "AWS_SECRET": "y", "NOTIFY_SOCKET": "/n"}
    found = arguments.environment(own, "desk", {"KUBECONFIG": "/k"}, "start", VM)
    assert found == {
        "PATH": "/bin",
        "KUBECONFIG": "/k",
        "JITSU_COMMAND": "desk",
        "JITSU_ACTION": "start",
        "JITSU_NAME": "www",
        "JITSU_UUID": VM.uuid,
        "JITSU_ADDRESS": "10.0.0.1",
        "JITSU_ADDRESSES": "10.0.0.1",
        "JITSU_MAC": "",
    }
    with_mac = make_vm("www", "10.0.0.1", mac="02:00:5E:00:53:01")
    assert arguments.environment({}, "desk", {}, "start", with_mac)["JITSU_MAC"] == "02:00:5e:00:53:01"


# --- what is printed ---

SYSTEMD = {"active": "running", "inactive": "off", "failed": "crashed", "activating": "running"}


@pytest.mark.parametrize(
    ("ended", "words", "state", "reason"),
    [
        (Ended(0, "running\n"), {}, GuestState.RUNNING, ""),
        (Ended(0, "some text\ncrashed: out of memory\n"), {}, GuestState.CRASHED, "out of memory"),
        (Ended(3, "inactive\n"), SYSTEMD, GuestState.OFF, ""),
        (Ended(3, "failed\n"), SYSTEMD, GuestState.CRASHED, ""),
        (Ended(0, "starting up"), {}, GuestState.RUNNING, "up"),
        (Ended(0, "0"), {"0": "off", "*": "running"}, GuestState.OFF, ""),
        (Ended(0, "17"), {"0": "off", "*": "running"}, GuestState.RUNNING, ""),
        (Ended(1, "", "no such process"), {"exit 1": "off"}, GuestState.OFF, "no such process"),
        (Ended(0, ""), {"exit 0": "running", "*": "off"}, GuestState.RUNNING, ""),
        (Ended(0, '"On"'), {'"On"': "running"}, GuestState.RUNNING, ""),
    ],
)
def test_a_state_is_a_word_that_is_printed_or_an_exit_status_that_has_a_meaning(
    ended: Ended, words: dict[str, str], state: GuestState, reason: str
) -> None:
    assert reports.state(ended, words) == StateReport(state, reason)


@pytest.mark.parametrize(
    ("ended", "words", "why"),
    [
        (Ended(255, "", "ssh: connect to host a port 22: No route to host"), {"exit 1": "off"}, "exit status 255: ssh"),
        (Ended(1, "17"), {"*": "running"}, "exit status 1: 17"),
        (Ended(0, ""), {"*": "running"}, "it printed '', which is not a state"),
        (Ended(0, "on"), {}, "it printed 'on', which is not a state"),
        (Ended(0, "running", "", 5.0), {}, "it had not ended after 5 s and was killed"),
        (Ended(-9, ""), {"*": "running"}, "it was ended by signal 9"),
    ],
)
def test_whatever_else_is_printed_is_no_state(ended: Ended, words: dict[str, str], why: str) -> None:
    with pytest.raises(NotUnderstood) as found:
        reports.state(ended, words)
    assert str(found.value).startswith(why)


def test_the_states_of_all_are_lines() -> None:
    ended = Ended(0, "www running\n\ndb  0/0\n x crashed it fell over \n")
    assert reports.states(ended, {"0/0": "off"}) == {
        "www": RUNNING,
        "db": OFF,
        "x": StateReport(GuestState.CRASHED, "it fell over"),
    }
    with pytest.raises(NotUnderstood, match="'www', which is not NAME STATE"):
        reports.states(Ended(0, "www\n"), {})
    with pytest.raises(NotUnderstood, match="exit status 1: no server"):
        reports.states(Ended(1, "www running\n", "no server"), {})


@pytest.mark.parametrize("end", ["\u2028", "\x0b", "\x85", "\x1c", "\r"])
def test_a_name_with_characters_that_end_lines_elsewhere_is_still_one_name(end: str) -> None:
    """Else whoever names a machine could have another one believed to be off, and it would be started twice."""
    listed = reports.states(Ended(0, f"www running\nmade{end}www off running\n"), {})
    assert listed["www"] == RUNNING
    assert reports.state(Ended(0, f"made{end}off running"), {"*": "running"}) == RUNNING


def test_of_a_name_that_is_listed_twice_the_one_that_runs_counts() -> None:
    for text in ("www running\nwww off\n", "www off\nwww running\n"):
        assert reports.states(Ended(0, text), {})["www"] == RUNNING


def test_a_line_of_watch_names_a_vm_and_perhaps_its_state() -> None:
    assert reports.watched("www running\n", {}) == ("www", RUNNING)
    assert reports.watched("www\n", {}) == ("www", None)
    assert reports.watched("\n", {}) == ("", None)
    assert reports.watched("www nonsense\n", {}) == ("www", None)


def test_the_reason_is_the_tail_of_what_was_printed_as_one_harmless_line() -> None:
    said = reports.ending(Ended(7, "out", "first\n\x1b[31mNot enough\u2028 free memory\x1b[0m\n\n"))
    assert said == "exit status 7: first [31mNot enough free memory [0m"
    assert len(reports.ending(Ended(1, "", "x" * 100_000))) < 400
    assert not Ended(0, "", "a warning").has_failed
    assert Ended(0, killed_after_s=1.0).has_failed


# --- what is believed ---


def seen(report: StateReport = OFF) -> CommandVm:
    """Return one that was asked for and found at time 0."""
    vm = CommandVm(10.0, 60.0)
    assert vm.tick(0.0) == [AskState()]
    vm.handle(StateFound(report, 0.0), 0.0)
    return vm


def test_the_state_is_asked_for_at_once_and_then_every_interval() -> None:
    vm = CommandVm(10.0, 60.0)
    assert vm.deadline() == 0.0
    assert vm.tick(0.0) == [AskState()]
    assert vm.deadline() is None, "one question at a time"
    assert vm.handle(StateFound(OFF, 0.0), 0.1) == [ReportChange()]
    assert vm.state is CommandVmState.OFF
    assert vm.deadline() == 10.1
    assert vm.tick(5.0) == []
    assert vm.tick(10.1) == [AskState()]
    assert vm.handle(StateFound(OFF, 10.1), 10.2) == [], "nothing has changed"


def test_a_start_that_succeeds_is_believed_although_the_state_is_still_off() -> None:
    vm = seen()
    vm.handle(CommandBegan(), 1.0)
    vm.handle(StartSucceeded(2.0), 2.0)
    asked: list[float] = []
    while vm.state is CommandVmState.APPEARING and len(asked) < 20:
        now = vm.deadline()
        assert now is not None
        for action in vm.tick(now):
            if isinstance(action, AskState):
                asked.append(now)
                vm.handle(StateFound(RUNNING if now > 20 else OFF, now), now)
    assert vm.state is CommandVmState.RUNNING
    assert [at - 2.0 for at in asked] == [0.25, 0.75, 1.75, 3.75, 7.75, 15.75, 25.75]


def test_a_start_whose_state_stays_off_has_failed_with_that_reason() -> None:
    vm = seen()
    vm.handle(StartSucceeded(2.0), 2.0)
    vm.handle(StateFound(OFF, 3.0), 3.0)
    assert ReportChange() in vm.tick(62.0)
    assert vm.state is CommandVmState.OFF
    assert vm.reason == "60 s after its start its state is still off"


def test_a_start_whose_state_cannot_be_asked_for_says_so() -> None:
    vm = seen()
    vm.handle(StartSucceeded(2.0), 2.0)
    vm.handle(StateNotFound("ssh: no route"), 3.0)
    vm.tick(62.0)
    assert vm.reason == "60 s after its start ssh: no route"


def test_one_that_crashes_while_it_appears_has_failed_at_once() -> None:
    vm = seen()
    vm.handle(StartSucceeded(2.0), 2.0)
    assert vm.handle(StateFound(CRASHED, 3.0), 3.0) == [ReportChange()]
    assert (vm.state, vm.reason) == (CommandVmState.OFF, "no memory")


def test_what_was_asked_for_before_a_command_has_ended_is_not_believed() -> None:
    vm = seen(RUNNING)
    vm.handle(CommandBegan(), 1.0)
    vm.handle(StateFound(OFF, 1.5), 1.6)
    assert vm.state is CommandVmState.RUNNING
    vm.handle(StopSucceeded(), 2.0)
    vm.handle(StateFound(RUNNING, 1.9), 2.1)
    assert vm.state is CommandVmState.RUNNING
    assert vm.handle(StateFound(OFF, 2.2), 2.3) == [ReportChange()], "now it is"


def test_one_that_is_stopped_while_it_appears_may_be_off() -> None:
    vm = seen()
    vm.handle(StartSucceeded(2.0), 2.0)
    vm.handle(CommandBegan(), 3.0)
    vm.handle(StopSucceeded(), 3.1)
    vm.handle(StateFound(OFF, 3.2), 3.3)
    assert vm.state is CommandVmState.OFF


def test_a_stop_that_fails_leaves_one_that_appears_to_appear() -> None:
    vm = seen()
    vm.handle(StartSucceeded(2.0), 2.0)
    vm.handle(CommandBegan(), 3.0)
    vm.handle(CommandReturned(), 3.1)
    vm.handle(StateFound(OFF, 3.2), 3.3)
    assert vm.state is CommandVmState.APPEARING


def test_a_state_that_cannot_be_asked_for_leaves_what_was_believed() -> None:
    vm = seen(RUNNING)
    assert vm.handle(StateNotFound("no answer"), 10.0) == []
    assert (vm.state, vm.trouble) == (CommandVmState.RUNNING, "no answer")
    vm.handle(StateFound(RUNNING, 20.0), 20.0)
    assert vm.trouble == ""


def test_of_a_vm_that_was_never_seen_or_not_for_long_nothing_is_believed() -> None:
    vm = CommandVm(10.0, 60.0)
    assert vm.unseen(0.0) == "its state is not known: it has not answered yet"
    vm.handle(StateNotFound("no answer"), 1.0)
    assert vm.unseen(1.0) == "no answer"
    vm.handle(StateFound(RUNNING, 2.0), 2.0)
    assert vm.unseen(100.0) == "", "as long as asking does not fail"
    vm.handle(StateNotFound("no route"), 20.0)
    assert [vm.unseen(now) for now in (20.0, 31.9, 32.0)] == ["", "", "no route"]
    vm.handle(StartSucceeded(40.0), 40.0)
    assert vm.unseen(90.0) == "", "it has its time to appear"
    vm.handle(StateFound(RUNNING, 91.0), 91.0)
    assert vm.unseen(200.0) == ""


def test_hints_that_come_all_the_time_put_no_question_off() -> None:
    vm = seen(RUNNING)
    for tenth in range(1, 4):
        vm.handle(WatchHinted(), 1.0 + tenth / 10)
    assert vm.deadline() == pytest.approx(1.35)
    assert vm.tick(1.4) == [AskState()]
    vm.handle(WatchHinted(), 1.5)
    assert vm.deadline() is None, "one question at a time"
    assert vm.handle(StateFound(OFF, 1.4), 1.6) == [ReportChange()], "what was asked for is believed"
    assert vm.deadline() == pytest.approx(2.1), "and it is asked for once more"


def test_a_watch_that_ends_soon_is_started_later_and_later() -> None:
    backoff = WatchBackoff()
    assert [backoff.ended(0.1) for _ in range(9)] == [0.5, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 60.0, 60.0]
    assert backoff.ended(31.0) == 0.5


# --- keys ---


def test_a_vm_names_a_section_that_there_is() -> None:
    with pytest.raises(Refused, match=r"command: is required; .*has desk"):
        keys.check_section(VM, ["desk"])
    with pytest.raises(Refused, match=r'command: there is no section \[command.dask\]; did you mean "desk"'):
        keys.check_section(make_vm(command="dask"), ["desk"])
    keys.check_section(make_vm(command="desk"), ["desk"])


def test_a_stop_mode_needs_its_command() -> None:
    with pytest.raises(Refused, match=r"stop_mode: \[command.desk\] has no `pause`; use destroy, suspend, or add"):
        keys.check_stop_mode(make_vm(stop_mode="pause"), "desk", {"start", "stop", "suspend", "state"})
    keys.check_stop_mode(make_vm(stop_mode="suspend"), "desk", {"start", "stop", "suspend", "state"})


def test_a_list_of_states_whose_end_is_missing_says_nothing_about_any_vm() -> None:
    with pytest.raises(NotUnderstood, match="printed more than is read"):
        reports.states(Ended(0, "web running\n", is_cut=True), {})
    with pytest.raises(NotUnderstood, match="printed more than is read"):
        reports.state(Ended(0, "off\n", is_cut=True), {})
