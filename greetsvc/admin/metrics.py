"""The figures in the two text formats that Prometheus reads.

Names follow https://prometheus.io/docs/practices/naming/: base units, ``_total`` for counters. No label holds an
address: each peer would be a new time series.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from itertools import accumulate

from prometheus_client import exposition
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    Metric,
)
from prometheus_client.openmetrics import exposition as openmetrics
from prometheus_client.registry import Collector

from greetsvc.admin.figures import Figures, Histogram
from greetsvc.ledger import BOUNDS

__all__ = ["REASONS", "exposed", "metrics", "wants_open_metrics"]

_OPEN_METRICS = "application/openmetrics-text"

REASONS: dict[str, tuple[str, ...]] = {
    "refused": (
        *("max-connections", "max-per-source", "proxy-untrusted", "proxy-header", "proxy-timeout"),
        "greeter",
    ),
    "unanswered": (
        *("port", "own-port", "group", "loop", "budget", "total-budget"),
        *("mark", "too-long", "oversize", "no-address", "greeter"),
    ),
    "tls_failed": (
        *("tls-alert", "tls-certificate", "tls-closed", "tls-hello-size", "tls-timeout", "tls-handshake"),
        "tls-record",
    ),
    "ended_for": ("framing", "encoding", "total", "greeter", "protocol"),
}
"""Reasons that are shown from the start on, with 0: Prometheus does not see the first case of a series that begins
with it. Those that carry the name of an error begin with their first case."""


def exposed(figures: Figures, accept: str = "") -> tuple[bytes, str]:
    """The text and its content type: OpenMetrics where the ``Accept`` header names that, else Prometheus' own."""
    collector = _Collector(figures)
    if wants_open_metrics(accept):
        return openmetrics.generate_latest(collector), openmetrics.CONTENT_TYPE_LATEST  # type: ignore[no-untyped-call]
    return exposition.generate_latest(collector), exposition.CONTENT_TYPE_PLAIN_0_0_4


def wants_open_metrics(accept: str) -> bool:
    """Whether an ``Accept`` header (RFC 9110 12.5.1) names OpenMetrics, and does not exclude it."""
    for one in accept.lower().split(","):
        kind, *parameters = (part.strip() for part in one.split(";"))
        if kind == _OPEN_METRICS:
            return not any(re.fullmatch(r"q=0(\.0*)?", parameter) for parameter in parameters)
    return False


class _Collector(Collector):
    def __init__(self, figures: Figures) -> None:
        self._figures = figures

    def collect(self) -> Iterator[Metric]:
        return metrics(self._figures)


def metrics(figures: Figures) -> Iterator[Metric]:
    """Every metric, with its name, its help and its values."""
    yield _counters("greetsvc_greetings", "Greetings that were sent.", "transport", figures.greeted)
    for name, words, which in (
        ("refusals", "Connections that were not greeted, except where TLS failed.", "refused"),
        ("datagrams_unanswered", "Datagrams that were not answered.", "unanswered"),
        ("tls_failures", "Connections on which TLS failed.", "tls_failed"),
        ("connections_ended", "Connections that were ended because of what the peer sent.", "ended_for"),
    ):
        counted = {**dict.fromkeys(REASONS[which], 0), **getattr(figures, which)}
        yield _counters(f"greetsvc_{name}", words, "reason", counted)
    yield _counters(
        "greetsvc_messages_answered",
        "Messages that were answered on connections that go on.",
        "transport",
        {**dict.fromkeys(figures.greeted, 0), **figures.answered},
    )
    for name, words, value in (
        ("connections_open", "Open connections, lingering ones included.", figures.open),
        ("connections_lingering", "Open connections that wait for their peer to close.", figures.lingering),
        ("connections_limit", "How many connections may be open.", figures.open_allowed),
    ):
        yield GaugeMetricFamily(f"greetsvc_{name}", words, value)
    yield _histogram(
        "greetsvc_greeting_duration_seconds",
        "From the start of a connection, or the arrival of a datagram, until its greeting was sent.",
        figures.greeting_seconds,
    )
    yield _histogram(
        "greetsvc_event_loop_delay_seconds", "How late the event loop called a timer.", figures.loop_delay
    )
    for name, words, value in (
        ("descriptors_used", "Open file descriptors, of the process nearest to its limit.", figures.descriptors.used),
        ("descriptors_limit", "How many file descriptors that process may open.", figures.descriptors.allowed),
        ("memory_bytes", "Resident memory.", figures.memory),
    ):
        yield GaugeMetricFamily(f"greetsvc_{name}", words, value)
    yield CounterMetricFamily("greetsvc_cpu_seconds", "Processor time, user and system.", figures.cpu_seconds)
    expiry = GaugeMetricFamily(
        "greetsvc_certificate_expiry_timestamp_seconds",
        "When the TLS certificate for a name expires, in seconds since 1970.",
        labels=("name",),
    )
    for name, when in sorted(figures.certificates.items()):
        expiry.add_metric((name,), when)
    yield expiry
    reloads = {"ok": 0, "failed": 0, **figures.reloads}
    yield _counters("greetsvc_config_reloads", "Reloads of the settings.", "result", reloads)
    yield GaugeMetricFamily(
        "greetsvc_config_last_reload_successful",
        "Whether the last reload of the settings succeeded, or there was none.",
        figures.reload_ok,
    )
    yield GaugeMetricFamily("greetsvc_workers", "Processes that greet.", figures.workers)
    yield CounterMetricFamily(
        "greetsvc_worker_restarts", "Workers that were replaced because they ended.", figures.workers_restarted
    )
    yield GaugeMetricFamily(
        "greetsvc_start_time_seconds", "When the service started, in seconds since 1970.", figures.started
    )
    yield InfoMetricFamily("greetsvc_build", "The versions of the service, Python and Twisted.", dict(figures.build))


def _counters(name: str, words: str, label: str, values: Mapping[str, int]) -> Metric:
    family = CounterMetricFamily(name, words, labels=(label,))
    for value, count in sorted(values.items()):
        family.add_metric((value,), count)
    return family


def _histogram(name: str, words: str, histogram: Histogram) -> Metric:
    # OpenMetrics wants the bounds as floating-point numbers, so "1.0".
    buckets = zip((*map(str, map(float, BOUNDS)), "+Inf"), accumulate(histogram.counts), strict=True)
    return HistogramMetricFamily(name, words, [*buckets], histogram.total)
