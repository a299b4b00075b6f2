"""The section [events]: values that are parsed once, and mistakes that are named."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from jitsu_runtime.settings.events import EventsSettings, MqttBroker, WebhookTarget, mqtt_broker, webhook_target


def test_a_webhook_is_read_and_shown_as_the_same_text() -> None:
    text = "ops https://ops.example:8443/jitsu?x=1 /etc/jitsu/ops.secret vm.failed+vm.ready"
    target = webhook_target(text)
    assert target == WebhookTarget(
        "ops", "https://ops.example:8443/jitsu?x=1", "/etc/jitsu/ops.secret", frozenset({"vm.failed", "vm.ready"})
    )
    assert str(target) == text
    assert target.wants("vm.failed")
    assert not target.wants("vm.off")
    assert webhook_target("all http://127.0.0.1/ s").wants("vm.off")


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("ops https://ops.example", "SECRET-FILE"),
        ("o/ps https://ops.example f", "not a name"),
        ("ops ftp://ops.example f", "does not begin with http"),
        ("ops https:///x f", "does not begin with http"),
        ("ops https://me:secret@ops.example f", "may not hold a password"),
        ("ops https://ops.example:99999 f", "cannot be read"),
        ("ops https://ops.example f vm.Failed", "not a kind of event"),
    ],
)
def test_a_wrong_webhook_is_refused_with_the_reason_and_without_its_password(text: str, reason: str) -> None:
    with pytest.raises(ValueError, match=reason) as refusal:
        webhook_target(text)
    assert "secret@" not in str(refusal.value)


@pytest.mark.parametrize(
    ("text", "broker"),
    [
        ("", MqttBroker()),
        ("mqtt://broker", MqttBroker("broker", 1883)),
        ("mqtts://10.0.0.7:9", MqttBroker("10.0.0.7", 9, is_tls=True)),
        ("mqtt://[::1]:1884", MqttBroker("::1", 1884)),
    ],
)
def test_a_broker_is_read(text: str, broker: MqttBroker) -> None:
    assert mqtt_broker(text) == broker
    assert mqtt_broker(str(broker)) == broker


@pytest.mark.parametrize("text", ["broker:1883", "mqtt://broker/x", "http://broker", "mqtt://user:secret@broker"])
def test_a_wrong_broker_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"URL|nothing may follow"):
        mqtt_broker(text)


@pytest.mark.parametrize("hooks", [["a http://h f", "a http://i f"], ["mqtt http://h f"]])
def test_two_targets_of_one_name_are_refused(hooks: list[str]) -> None:
    with pytest.raises(ValidationError, match="is taken"):
        EventsSettings.model_validate({"webhooks": hooks})


@pytest.mark.parametrize("topic", ["a/#", "+", "", "/a", "a//b", "a b"])
def test_a_topic_may_not_be_a_wildcard(topic: str) -> None:
    with pytest.raises(ValidationError):
        EventsSettings.model_validate({"mqtt_topic": topic})
