"""What every section of jitsu.toml has: plain numbers whatever unit was written, and facts about each key."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydantic import BaseModel, ConfigDict, JsonValue, ValidationInfo, field_validator

from jitsu_protocol.model.units import plain
from jitsu_protocol.model.vm import as_text
from jitsu_runtime.settings.values import usable

if TYPE_CHECKING:
    from pydantic.fields import FieldInfo

METRICS = "HOST:PORT of /metrics and /healthz; empty: none."
LIVE: dict[str, JsonValue] = {"live": True}
"""A running process applies a new value at SIGHUP."""


def unit_of(field: FieldInfo) -> str:
    """Return the unit of a setting, "" if it has none."""
    extra = field.json_schema_extra
    return str(extra.get("unit", "")) if isinstance(extra, dict) else ""


def is_live(field: FieldInfo) -> bool:
    """Return whether a running process applies a new value of a setting."""
    return isinstance(field.json_schema_extra, dict) and bool(field.json_schema_extra.get("live"))


def default_of(field: FieldInfo) -> str:
    """Return a setting's default as text, "" if it has none."""
    default = field.get_default(call_default_factory=True)
    if isinstance(default, list):
        return ", ".join(map(as_text, default))
    return "" if default is None else as_text(default)


class Section(BaseModel):
    """One table of jitsu.toml."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True)

    @field_validator("*", mode="before")
    @classmethod
    def _plain(cls, value: object, info: ValidationInfo) -> object:
        """Take the unit from a duration or a size: sections hold plain numbers."""
        for text in value if isinstance(value, list) else [value]:
            if isinstance(text, str):
                usable(text)
        unit = unit_of(cls.model_fields[info.field_name]) if info.field_name else ""
        return plain(value, unit) if isinstance(value, str) else value
