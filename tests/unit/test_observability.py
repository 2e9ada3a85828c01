"""Invariant: what deploy/observability/ asks for exists; each alert fires when it should, and has a runbook."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from tests.support.promtool import promtool
from tests.support.status_page import busy
from velocity_edge.status import metrics

TREE = Path(__file__).parents[2]
FOLDER = TREE / "deploy" / "observability"
RUNBOOKS = TREE / "docs" / "runbooks"
RULES = YAML(typ="safe").load((FOLDER / "rules.yaml").read_text())
ALERTS = [rule for group in RULES["groups"] for rule in group["rules"] if "alert" in rule]
RECORDED = {rule["record"] for group in RULES["groups"] for rule in group["rules"] if "record" in rule}
DASHBOARD = json.loads((FOLDER / "dashboard.json").read_text())


def exported() -> set[str]:
    """Names that a query may use: of metrics, and of the series of histograms."""
    page = metrics.exposition(busy(), ready=True, socket_drops={(0, 0): 1}).decode()
    types = dict(re.findall(r"^# TYPE (\S+) (\S+)$", page, re.MULTILINE))
    histograms = {
        name + end for name, kind in types.items() if kind == "histogram" for end in ("_bucket", "_count", "_sum")
    }
    return set(types) | histograms


def queries() -> Iterator[tuple[str, str]]:
    for rule in (rule for group in RULES["groups"] for rule in group["rules"]):
        yield rule.get("alert", rule.get("record")), rule["expr"]
    for panel in DASHBOARD["panels"]:
        for target in panel.get("targets", ()):
            yield panel["title"], target["expr"]
    for one in DASHBOARD["templating"]["list"]:
        yield one["name"], one["definition"]
    for one in DASHBOARD["annotations"]["list"]:
        yield one["name"], one["expr"]


def test_every_metric_that_is_queried_is_exported() -> None:
    known = exported() | RECORDED
    asked = {(where, name) for where, query in queries() for name in re.findall(r"velocity[_:][a-z0-9_:]+", query)}
    assert len({name for _, name in asked}) > 40
    assert sorted((where, name) for where, name in asked if name not in known) == []


def test_rules_are_valid_and_fire_as_their_tests_say() -> None:
    promtool("check", "rules", FOLDER / "rules.yaml")
    promtool("test", "rules", FOLDER / "rules_test.yaml")


def test_every_alert_is_seen_firing_and_quiet() -> None:
    names = {case["name"] for case in YAML(typ="safe").load((FOLDER / "rules_test.yaml").read_text())["tests"]}
    assert names == {f"{alert['alert']} {kind}" for alert in ALERTS for kind in ("fires", "quiet")}


@pytest.mark.parametrize("alert", ALERTS, ids=lambda alert: str(alert["alert"]))
def test_every_alert_has_its_runbook(alert: Any) -> None:
    assert alert["labels"]["severity"] in ("warning", "critical")
    page = RUNBOOKS / alert["annotations"]["runbook_url"].rpartition("/")[2]
    text = page.read_text()
    assert f"`{alert['alert']}`" in text
    for heading in ("## Meaning", "## First command", "## Then"):
        assert heading in text


def test_every_runbook_belongs_to_an_alert() -> None:
    linked = {alert["annotations"]["runbook_url"].rpartition("/")[2] for alert in ALERTS}
    assert {page.name for page in RUNBOOKS.glob("*.md")} == linked


def test_panels_of_the_dashboard_do_not_overlap() -> None:
    taken: dict[tuple[int, int], str] = {}
    ids = [panel["id"] for panel in DASHBOARD["panels"]]
    assert len(set(ids)) == len(ids)
    for panel in DASHBOARD["panels"]:
        at = panel["gridPos"]
        assert at["x"] + at["w"] <= 24, panel["title"]
        for x in range(at["x"], at["x"] + at["w"]):
            for y in range(at["y"], at["y"] + at["h"]):
                assert (x, y) not in taken, (panel["title"], taken[x, y])
                taken[x, y] = panel["title"]
