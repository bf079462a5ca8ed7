"""The two text formats, read with the parsers of prometheus-client."""

from __future__ import annotations

import re
from typing import Any, get_args

import pytest
from prometheus_client.openmetrics.parser import text_string_to_metric_families as read_openmetrics
from prometheus_client.parser import text_string_to_metric_families as read_text

from greetsvc.admin.figures import Figures, Histogram
from greetsvc.admin.metrics import REASONS, exposed, wants_open_metrics
from greetsvc.ledger import BOUNDS
from greetsvc.net.tls.transport import TlsFailure
from tests.support.documents import ROOT

# What Prometheus 2.42 sends.
ACCEPT = (
    "application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,"
    "text/plain;version=0.0.4;q=0.5,*/*;q=0.1"
)
FIGURES = Figures(
    greeted={"tcp": 7, "udp": 0},
    refused={"max-connections": 2},
    tls_failed={"tls-alert": 1},
    greeting_seconds=Histogram((1, 2, *[0] * (len(BOUNDS) - 2), 3), 40.0),
    certificates={'odd"name\n': 2e9},
    build={"version": "1.2.3", "python": "3.11", "twisted": "26.10"},
)


def samples(accept: str) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    """Every sample by its name and labels."""
    body, content_type = exposed(FIGURES, accept)
    read: Any = read_openmetrics if content_type.startswith("application/openmetrics-text") else read_text
    found: dict[tuple[str, tuple[tuple[str, str], ...]], float] = {}
    for family in read(body.decode()):
        assert family.documentation
        for sample in family.samples:
            assert sample.name.startswith("greetsvc_")
            found[sample.name, tuple(sorted(sample.labels.items()))] = sample.value
    return found


@pytest.mark.parametrize("accept", [ACCEPT, "", "text/plain"])
def test_every_figure_is_there_in_each_format(accept: str) -> None:
    found = samples(accept)
    assert found["greetsvc_greetings_total", (("transport", "tcp"),)] == 7
    assert found["greetsvc_greetings_total", (("transport", "udp"),)] == 0
    assert found["greetsvc_refusals_total", (("reason", "max-connections"),)] == 2
    assert found["greetsvc_tls_failures_total", (("reason", "tls-alert"),)] == 1
    assert found["greetsvc_certificate_expiry_timestamp_seconds", (("name", 'odd"name\n'),)] == 2e9
    assert found["greetsvc_config_last_reload_successful", ()] == 1
    assert found["greetsvc_workers", ()] == 1
    assert found["greetsvc_build_info", (("python", "3.11"), ("twisted", "26.10"), ("version", "1.2.3"))] == 1


@pytest.mark.parametrize("accept", [ACCEPT, ""])
def test_a_histogram_adds_up(accept: str) -> None:
    found = samples(accept)
    buckets = [value for (name, _), value in found.items() if name == "greetsvc_greeting_duration_seconds_bucket"]
    assert buckets == [1, *[3] * (len(BOUNDS) - 1), 6]
    assert found["greetsvc_greeting_duration_seconds_count", ()] == 6
    assert found["greetsvc_greeting_duration_seconds_sum", ()] == 40


def test_what_can_happen_begins_with_zero() -> None:
    """Prometheus does not see the first case of a series that begins with it."""
    found = samples("")
    assert found["greetsvc_refusals_total", (("reason", "greeter"),)] == 0
    assert found["greetsvc_datagrams_unanswered_total", (("reason", "loop"),)] == 0
    assert found["greetsvc_messages_answered_total", (("transport", "tcp"),)] == 0
    assert found["greetsvc_connections_ended_total", (("reason", "framing"),)] == 0
    assert set(REASONS["tls_failed"]) == set(get_args(TlsFailure))


def test_the_reasons_are_those_of_the_document() -> None:
    table = (ROOT / "docs" / "deploy.md").read_text().partition("| reason | ")[2].partition("\n\n")[0]
    told = {
        name
        for line in table.splitlines()
        for name in re.findall(r"`([a-z-]+)`", line.partition("|")[2].partition("|")[0])
    }
    refused = {reason for which in ("refused", "unanswered", "tls_failed") for reason in REASONS[which]}
    assert refused == told


@pytest.mark.parametrize(
    ("accept", "wanted"),
    [
        (ACCEPT, True),
        ("APPLICATION/OpenMetrics-Text", True),
        ("text/plain, application/openmetrics-text ; version=1.0.0", True),
        ("application/openmetrics-text;q=0", False),
        ("application/openmetrics-text; version=1.0.0; q=0.000", False),
        ("application/openmetrics-text;q=0.1", True),
        ("openmetrics", False),
        ("", False),
        (",;,", False),
    ],
)
def test_openmetrics_is_given_to_those_who_name_it(accept: str, wanted: bool) -> None:
    assert wants_open_metrics(accept) is wanted
    assert exposed(FIGURES, accept)[1].startswith("application/openmetrics") is wanted


def test_the_format_is_the_one_that_is_asked_for() -> None:
    assert exposed(FIGURES, ACCEPT)[1].startswith("application/openmetrics-text; version=1.0.0")
    assert exposed(FIGURES, "*/*")[1].startswith("text/plain; version=0.0.4")
