"""docs/metrics.md has every metric with its labels, and the alerts use metrics and labels that there are."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest
import yaml
from prometheus_client import Counter, Gauge, Histogram
from prometheus_client.metrics import MetricWrapperBase

from sagellm_control.client.pools import Pools
from sagellm_control.gateway import metrics as of_gateways
from sagellm_control.keeper import metrics as of_keepers
from sagellm_control.scheduler import metrics as of_schedulers
from sagellm_control.store.inspect import PoolDepth
from sagellm_control.wire.priority import RequestPriority
from sagellm_control.wire.states import Outcome
from sagellm_workers import metrics as of_workers

from ..architecture.sources import ROOT

PREFIX = "sagellm_control_"
PAGE = (ROOT / "docs/metrics.md").read_text()
GROUPS = yaml.safe_load((ROOT / "deploy/prometheus/alerts.yml").read_text())["groups"]
RULES = [rule for group in GROUPS for rule in group["rules"]]
ENDED = {"overloaded", "displaced", "queue_ttl_exceeded", "deadline_exceeded", "poison_request", "engine_error"}
"""Codes with which only requests end that were taken: those are counted by their outcome."""
CODES = (set(re.findall(r"`(\w+)`", (ROOT / "docs/http.md").read_text())) - ENDED) | set(map(str, Outcome))


class OnePool(Pools):
    """Has looked at one pool."""

    def __init__(self) -> None:
        self._depths = {
            "pool": PoolDepth(
                pool="pool",
                queued={priority.label: 0 for priority in RequestPriority},
                waiting=0,
                engines=1,
                open_engines=1,
                counters={},
                backlog={},
                settings={},
            )
        }


def metrics() -> Iterator[tuple[str, str, tuple[str, ...]]]:
    """Name, kind and labels of each."""
    for module in (of_gateways, of_schedulers, of_keepers, of_workers):
        for metric in vars(module).values():
            if isinstance(metric, Counter | Gauge | Histogram):
                family = next(iter(metric.describe()))
                name = f"{family.name}_total" if isinstance(metric, Counter) else family.name
                yield name.removeprefix(PREFIX), family.type, labels_of(metric)
    for family in of_gateways.PoolCollector(OnePool()).collect():
        yield family.name.removeprefix(PREFIX), family.type, tuple(family.samples[0].labels)


def labels_of(metric: MetricWrapperBase) -> tuple[str, ...]:
    return tuple(metric._labelnames)  # pyright: ignore[reportPrivateUsage]


METRICS = {name: (kind, labels) for name, kind, labels in metrics()}


def test_each_stands_in_one_row_with_its_labels() -> None:
    rows = {
        name: tuple(re.findall(r"`(\w+)`", labels))
        for names, labels in re.findall(r"^\| (`\w+`(?:, `\w+`)*) \|([^|]*)\|", PAGE, re.MULTILINE)
        for name in re.findall(r"`(\w+)`", names)
    }
    assert rows == {name: labels for name, (_, labels) in METRICS.items()}


def test_a_histogram_is_said_to_be_one() -> None:
    said = set(re.findall(r"^\| `(\w+)` \| [^|]* \| histogram: ", PAGE, re.MULTILINE))
    assert said == {name for name, (kind, _) in METRICS.items() if kind == "histogram"}


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule["alert"])
def test_an_alert_asks_for_what_there_is(rule: dict[str, str]) -> None:
    uses = re.findall(rf"{PREFIX}(\w+?)(?:_bucket|_sum|_count)?(?:\{{([^}}]*)\}}|\b)", rule["expr"])
    assert uses
    for name, matchers in uses:
        for label, values in re.findall(r'(\w+)(?:=~|!=|=)"([^"]*)"', matchers):
            assert label in METRICS[name][1]
            if label == "outcome":
                assert all(any(re.fullmatch(value, code) for code in CODES) for value in values.split("|"))
            if label == "priority":
                assert values in {priority.label for priority in RequestPriority}
    labels = {"le"}.union(*(METRICS[name][1] for name, _ in uses))
    for grouped in re.findall(r"by \(([^)]*)\)", rule["expr"]):
        assert labels.issuperset(grouped.split(", "))
