"""What deploy/ has for Prometheus and Grafana asks for metrics that there are, and every alert is made to fire."""

from __future__ import annotations

import json
import re

import pytest

from deploy.pages import REFERENCE
from tests.support.prometheus import DASHBOARD, RULE_TESTS, alerts, panel_expressions

OF_PROMETHEUS = {"up": {"job", "instance"}}
"""What Prometheus itself knows of each target."""
TARGET = {"job", "instance"}
NO_METRIC = re.compile(r'"[^"]*"|\[[^]]*\]')
"""Values of labels, and ranges."""
EXPRESSIONS = [*panel_expressions(), *alerts().items()]


def documented() -> dict[str, set[str]]:
    """Return the labels of every series that the page has, by its name; a histogram has three series."""
    found = dict(OF_PROMETHEUS)
    rows = re.findall(r"^\| `(\w+)` \| (.*?) \| (.*) \|$", (REFERENCE / "metrics.md").read_text(), re.MULTILINE)
    for name, labels, meaning in rows:
        own = {label.strip() for label in labels.split(",") if label.strip()} | TARGET
        if "(histogram)" in meaning:
            found |= {f"{name}_bucket": own | {"le"}, f"{name}_sum": own, f"{name}_count": own}
        else:
            found[name] = own
    return found


def used(expression: str) -> list[tuple[str, set[str]]]:
    """Return every metric of an expression, with the labels by which it is chosen."""
    found = re.findall(r"\b((?:jitsu|process)_\w+|up)\b(?:\{([^}]*)\})?", NO_METRIC.sub('""', expression))
    return [(name, set(re.findall(r"(\w+)(?:=~|!~|!=|=)", chosen))) for name, chosen in found]


@pytest.mark.parametrize(("about", "expression"), EXPRESSIONS, ids=[about for about, _ in EXPRESSIONS])
def test_every_metric_and_label_that_is_asked_for_is_in_the_reference(about: str, expression: str) -> None:
    known = documented()
    metrics = used(expression)
    assert metrics, f"{about} asks for no metric: {expression}"
    for name, labels in metrics:
        assert name in known, f"{about}: there is no metric {name}"
        assert labels <= known[name], f"{about}: {name} has no label {labels - known[name]}"


def test_a_metric_or_a_label_that_does_not_exist_is_noticed() -> None:
    known = documented()
    (*_, (name, labels)) = used('sum(rate(jitsu_vmd_summons_total{job="jitsu",outcom="failed"}[5m]))')
    assert labels - known[name] == {"outcom"}
    assert used("jitsu_vmd_no_such_total > 0")[0][0] not in known


def test_every_alert_is_made_to_fire_by_a_rule_test() -> None:
    cases = re.split(r"\n      - ", RULE_TESTS.read_text())
    fires = {
        found[1]
        for each in cases
        if "exp_labels" in each and (found := re.search(r"alertname: (\w+)", each)) is not None
    }
    assert fires == set(alerts())


def test_every_alert_is_shown_to_be_silent_while_all_is_well() -> None:
    silent = re.findall(r"alertname: (\w+), exp_alerts: \[\]", RULE_TESTS.read_text())
    assert sorted(silent) == sorted(alerts())


def test_every_panel_has_a_place_of_its_own() -> None:
    panels = json.loads(DASHBOARD.read_text())["panels"]
    assert len({each["id"] for each in panels}) == len(panels)
    taken: dict[tuple[int, int], str] = {}
    for each in panels:
        place = each["gridPos"]
        assert place["x"] + place["w"] <= 24, each["title"]
        for x in range(place["x"], place["x"] + place["w"]):
            for y in range(place["y"], place["y"] + place["h"]):
                assert taken.setdefault((x, y), each["title"]) == each["title"], f"{each['title']} covers another"
