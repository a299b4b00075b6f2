"""VMs as users of the API write them: the keys of [vm.NAME] as JSON."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from jitsu_protocol.model.errors import Invalid
from jitsu_protocol.model.vm import InvalidVm, as_text, from_config
from jitsu_protocol.model.vm_keys import StopMode

if TYPE_CHECKING:
    from collections.abc import Mapping

    from jitsu_protocol.model.vm import VM

Value = str | int | float | bool | Sequence[str] | Sequence[int]


def texts_of(value: Value) -> list[str]:
    """Return the value of a key as the texts that the model reads."""
    if isinstance(value, str | int | float):  # a bool is an int
        return [as_text(value)]
    return [as_text(each) for each in value]


def vm_of(name: str, keys: Mapping[str, Value], defaults: Mapping[str, str], uuid: str = "") -> VM:
    """Return the VM that keys describe; raises Invalid with every mistake.

    A VM that is there already keeps its UUID, whatever it is called now.
    """
    config = {key: texts_of(value) for key, value in keys.items()}
    config.setdefault("name", [name])
    if uuid:
        config.setdefault("uuid", [uuid])
    try:
        return from_config(config, dict(defaults))
    except InvalidVm as error:
        faults = [{"key": each.key, "reason": each.message} for each in error.faults]
        raise Invalid("; ".join(f"{each['key']}: {each['reason']}" for each in faults), details=faults) from None


def with_stop_mode(vm: VM, *, writes_to_disk: bool, before: str) -> VM:
    """Return a VM that is shut down and not destroyed if it writes to a disk and nobody has said how it is stopped.

    To be destroyed is like a power cut. `before` is the stop mode that the VM has had so far, "" if it is new.
    """
    if "stop_mode" in vm.config or before or not writes_to_disk:
        return vm
    return vm.model_copy(update={"stop_mode": StopMode.SHUTDOWN})
