"""Rules and dashboards for Prometheus and Grafana: they use what routers and engines really show."""

import json
import re
import shutil
import subprocess
from collections import Counter, defaultdict
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from cluster.fleet.fleet import Fleet
from router.admin.page import STATIC
from router.explain.misses import Reason
from router.health.health import KINDS
from router.history.record import RequestRecord
from router.history.tallies import Tallies
from router.http.sse import PromptTokensDetails, Usage
from router.observe.metrics import Metrics
from workers.sim.api import metrics_text

ROOT = Path(__file__).parents[2]
PROMETHEUS = ROOT / "infra" / "prometheus"
GRAFANA = ROOT / "infra" / "grafana"
DASHBOARD = json.loads((GRAFANA / "dashboards" / "warmroute.json").read_text())
ALERTS = [
    rule
    for group in yaml.safe_load((PROMETHEUS / "alerts.yml").read_text())["groups"]
    for rule in group["rules"]
]
RECORDED = [
    rule
    for group in yaml.safe_load((PROMETHEUS / "rules.yml").read_text())["groups"]
    for rule in group["rules"]
]
TARGET_LABELS = {"job", "instance"}
"""What Prometheus itself adds to every sample."""

METRIC = re.compile(r"\b(?:warmroute_|vllm:)\w+")
SELECTOR = re.compile(r"\b((?:warmroute_|vllm:)\w+)\{([^}]*)\}")
GROUPED = re.compile(r"\bby ?\(([^)]*)\)")
LABEL = re.compile(r"(\w+)\s*(?:=~|!~|!=|=)")
VARIABLES = {"$__rate_interval": "5m", "$__range": "3h", "$job": "j", "$replica": "r", "$model": "m"}

needs_promtool = pytest.mark.skipif(
    shutil.which("promtool") is None, reason="promtool is not installed (it comes with Prometheus)"
)


def labels_by_metric():
    """Of every sample that a router and an engine show: its labels."""
    tallies = Tallies()
    metrics = Metrics(Fleet(), SimpleNamespace(degradations=lambda: ()), tallies)
    record = RequestRecord("id", "/v1/completions", model="m", replica="a", outcome="failed", attempts=2)
    record.usage = Usage(100, 1, PromptTokensDetails(40))
    record.misses, record.seconds_per_token = {Reason.COLD: 60}, 0.001
    metrics.observe(record, ttft=0.1)
    tallies.add(record)
    metrics.refresh()
    found = defaultdict(set)
    for text in (metrics.exposition().decode(), metrics_text(idle_engine())):
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                found[sample.name] |= sample.labels.keys()
    return found


def idle_engine():
    """As much of a simulated engine as its metrics, which have vLLM's names, are made of."""
    counters = SimpleNamespace(queried_tokens=0, hit_tokens=0, preemptions=0, generated_tokens=0)
    return SimpleNamespace(
        settings=SimpleNamespace(model_name="m", block_size=16, num_blocks=1),
        scheduler=SimpleNamespace(running=[], waiting=[], counters=counters),
        blocks=SimpleNamespace(usage=0.0),
        started_at=0.0,
    )


KNOWN = labels_by_metric()


def panels():
    """Every panel that shows something."""
    return [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]


def dashboard_expressions():
    """Every query of the dashboard, with something in place of its variables."""
    for panel in panels():
        for target in panel["targets"]:
            expression = target["expr"]
            for variable, value in VARIABLES.items():
                expression = expression.replace(variable, value)
            assert "$" not in expression, f"an unknown variable: {expression}"
            yield expression


EXPRESSIONS = [*(rule["expr"] for rule in ALERTS + RECORDED), *dashboard_expressions()]


@pytest.mark.parametrize("expression", EXPRESSIONS)
def test_rules_and_dashboards_use_metrics_that_exist(expression):
    """Every metric is in the exposition of a real router or engine, or recorded by a rule, and so is every
    label it is selected or grouped by: renaming one breaks this test.
    """
    recorded = {rule["record"] for rule in RECORDED}
    without_recorded = re.sub(r"\b\w+:warmroute_\w+(:\w+)*", lambda found: known_rule(found[0]), expression)
    names = set(METRIC.findall(without_recorded))
    assert names <= KNOWN.keys()
    for name, selector in SELECTOR.findall(without_recorded):
        assert set(LABEL.findall(selector)) <= KNOWN[name] | TARGET_LABELS
    usable = TARGET_LABELS.union(*(KNOWN[name] for name in names))
    for grouped in GROUPED.findall(without_recorded):
        assert {label.strip() for label in grouped.split(",")} <= usable
    assert names or any(rule in expression for rule in recorded) or expression.startswith("up{")


def known_rule(name):
    """Nothing, in place of a recorded series; an error when no rule records it."""
    assert name in {rule["record"] for rule in RECORDED}
    return ""


def test_every_metric_of_a_router_is_explained_and_no_other():
    """docs/monitoring.md lists all of them, one line each."""
    text = (ROOT / "docs" / "monitoring.md").read_text()
    listed = Counter(re.findall(r"^\| `(warmroute_\w+)`", text, re.MULTILINE))
    shown = {
        re.sub(r"_(bucket|count|sum)$", "", name)
        for name in KNOWN
        if name.startswith("warmroute_") and not name.endswith("_created")
    }
    assert listed == dict.fromkeys(shown, 1)


def test_every_kind_of_degradation_is_explained():
    """By the same words as `warmroute_degraded` has, and word for word as on the page."""
    text = (ROOT / "docs" / "monitoring.md").read_text()
    sections = text[text.index("## Alarms: what to do") : text.index("## Grafana")]
    documented = re.findall(r"^### (.+)\n`(\w+)`\. (.+)$", sections, re.MULTILINE)
    script = (STATIC / "runbook.js").read_text()
    shown = re.findall(r'^  (\w+): \["([^"]+)", "([^"]+)"\],$', script, re.MULTILINE)
    assert {kind for kind, *_ in shown} == {"lost", *KINDS}
    assert [(kind, name, words) for name, kind, words in documented] == shown


def test_every_alert_says_what_to_do():
    """Its runbook is a heading of docs/monitoring.md, and it has a unit test that sees it fire."""
    headings = {
        line.lstrip("# ").lower().replace(" ", "-")
        for line in (ROOT / "docs" / "monitoring.md").read_text().splitlines()
        if line.startswith("#")
    }
    scenarios = yaml.safe_load((PROMETHEUS / "alerts_test.yml").read_text())["tests"]
    fires = {
        test["alertname"]
        for scenario in scenarios
        for test in scenario["alert_rule_test"]
        if test["exp_alerts"]
    }
    assert fires == {rule["alert"] for rule in ALERTS}
    for rule in ALERTS:
        page, _, anchor = rule["annotations"]["runbook"].partition("#")
        assert page == "docs/monitoring.md"
        assert anchor == rule["alert"].lower()
        assert anchor in headings
        assert rule["annotations"].keys() == {"summary", "description", "runbook"}
        assert rule["labels"]["severity"] in ("warning", "critical")


def test_the_dashboard_is_sound():
    """Panels have ids of their own, do not overlap, fit into the grid, and ask the chosen data source."""
    ids = [panel["id"] for panel in DASHBOARD["panels"]]
    assert len(ids) == len(set(ids))
    cells = Counter()
    for panel in DASHBOARD["panels"]:
        at = panel["gridPos"]
        assert at["x"] + at["w"] <= 24
        cells.update(
            (x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])
        )
    assert max(cells.values()) == 1
    variables = DASHBOARD["templating"]["list"]
    assert variables[0] == {**variables[0], "name": "datasource", "type": "datasource", "query": "prometheus"}
    for item in [*panels(), *(target for panel in panels() for target in panel["targets"]), *variables[1:]]:
        assert item["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
    for panel in panels():
        letters = [target["refId"] for target in panel["targets"]]
        assert len(letters) == len(set(letters)) > 0


def test_the_dashboards_variables_can_be_filled():
    """Each lists the values of a label that its metric has."""
    queries = [variable["query"]["query"] for variable in DASHBOARD["templating"]["list"][1:]]
    for query in queries:
        name, label = re.fullmatch(r"label_values\((\w+)(?:\{.*\})?, (\w+)\)", query).groups()
        assert label in KNOWN[name] | TARGET_LABELS


def test_every_reason_of_a_miss_has_a_colour_of_its_own():
    """In the panel that stacks them."""
    panel = next(panel for panel in panels() if panel["title"] == "Why tokens were computed again")
    colours = {
        override["matcher"]["options"]: override["properties"][0]["value"]["fixedColor"]
        for override in panel["fieldConfig"]["overrides"]
    }
    assert colours.keys() == set(Reason)
    assert len(set(colours.values())) == len(Reason)


def test_provisioning_files_are_yaml_of_grafanas_version():
    """And the dashboard's provider reads files."""
    for path in sorted((GRAFANA / "provisioning").rglob("*.yml")):
        assert yaml.safe_load(path.read_text())["apiVersion"] == 1
    provider = yaml.safe_load((GRAFANA / "provisioning" / "dashboards" / "warmroute.yml").read_text())
    assert provider["providers"][0]["type"] == "file"


def promtool(*arguments):
    """Run it; fails with what it says."""
    done = subprocess.run(
        ["promtool", *arguments], cwd=PROMETHEUS, capture_output=True, text=True, timeout=30
    )
    assert done.returncode == 0, done.stdout + done.stderr


@needs_promtool
def test_rules_pass_their_unit_tests():
    """Every alert fires when it should, and not in a healthy fleet; the example configuration is valid."""
    promtool("check", "config", "prometheus.yml")
    promtool("test", "rules", "alerts_test.yml")


@needs_promtool
def test_every_query_of_the_dashboard_parses(tmp_path):
    """By Prometheus' own parser, as rules."""
    rules = [
        {"record": f"panel:query:{number}", "expr": expression}
        for number, expression in enumerate(dashboard_expressions())
    ]
    path = tmp_path / "dashboard.yml"
    path.write_text(yaml.safe_dump({"groups": [{"name": "dashboard", "rules": rules}]}))
    promtool("check", "rules", str(path))
