from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from reducer.columns.value_columns import CONNECT_FAILURES, VALUE_COLUMNS
from reducer.outputs.metrics import ENABLED_METRICS, METRICS, documentation

BY_NAME = {metric.name: metric for metric in METRICS}


def values(**columns: int) -> dict[str, np.ndarray]:
    assert columns.keys() <= set(VALUE_COLUMNS)
    return {name: np.array([columns.get(name, 0)]) for name in VALUE_COLUMNS}


def points(name: str, **columns: int) -> dict[str, float]:
    """Return the points of one series by the value of their own attribute."""
    given = values(**columns)
    found = {}
    for part in BY_NAME[name].points:
        assert part.exists(given).dtype == bool
        if part.exists(given)[0]:
            found["".join(value for _, value in part.attributes)] = part.value(given)[0].item()
    return found


@pytest.mark.parametrize(
    ("name", "columns", "expected"),
    [
        ("tcp.bytes", {"bytes": 7}, 7),
        ("tcp.bytes", {"packets": 1}, 0),
        ("tcp.packets", {"packets": 3}, 3),
        ("tcp.retrans", {"retransmits": 2}, 2),
        ("tcp.retrans", {"bytes": 1}, 0),
        ("tcp.rtt.average", {"srtt_sum_us": 3000, "srtt_count": 2}, 0.0015),
        ("tcp.rtt.num_measurements", {"srtt_count": 2}, 2),
        ("tcp.rtt.min", {"min_rtt_us": 250}, 0.00025),
        ("tcp.active", {"active": 4}, 4),
        ("tcp.active", {"failed_refused": 1}, 0),
        ("tcp.new_sockets", {"opened": 5}, 5),
        ("tcp.new_sockets", {"active": 1}, 0),
        ("tcp.closed_sockets", {"closed": 5}, 5),
        ("tcp.syn_timeouts", {"syn_timeouts": 5}, 5),
        ("tcp.connect.duration.average", {"connect_sum_us": 10_000, "connect_count": 4}, 0.0025),
        ("tcp.resets", {"resets": 2}, 2),
        ("dns.client.duration.average", {"dns_client_sum_us": 10_000, "dns_client_count": 4}, 0.0025),
        ("dns.server.duration.average", {"dns_server_sum_us": 10_000, "dns_server_count": 5}, 0.002),
        ("dns.active_sockets", {"dns_active": 3}, 3),
        ("dns.queries", {"dns_queries": 3}, 3),
        ("dns.retransmits", {"dns_retransmits": 3}, 3),
        ("dns.timeouts", {"dns_queries": 3}, 0),
        ("http.client.duration.average", {"http_client_sum_us": 10_000, "http_client_count": 4}, 0.0025),
        ("http.server.duration.average", {"http_server_sum_us": 10_000, "http_server_count": 5}, 0.002),
        ("http.active_sockets", {"http_active": 3}, 3),
        ("http.requests", {"http_requests": 3}, 3),
        ("tcp.resets", {"closed": 2}, 0),
    ],
)
def test_value(name: str, columns: dict[str, int], expected: float) -> None:
    assert points(name, **columns) == {"": pytest.approx(expected)}


@pytest.mark.parametrize(
    ("name", "columns"),
    [
        ("tcp.rtt.average", {"bytes": 1}),
        ("tcp.rtt.min", {"bytes": 1}),
        ("tcp.connect.duration.average", {"opened": 1}),
        ("tcp.active", {"bytes": 1, "resets": 1}),
        ("tcp.new_sockets", {"bytes": 1}),
        ("tcp.resets", {"bytes": 1}),
        ("tcp.failed_connects", {"opened": 1}),
        ("tcp.bytes", {"dns_queries": 1, "http_requests": 1, "udp_bytes": 1}),
        ("dns.client.duration.average", {"dns_queries": 1, "dns_server_count": 1}),
        ("dns.queries", {"http_requests": 1}),
        ("http.requests", {"dns_queries": 1}),
    ],
)
def test_no_point_where_nothing_is_to_be_said(name: str, columns: dict[str, int]) -> None:
    assert points(name, **columns) == {}


def test_failed_connects_are_told_by_reason() -> None:
    columns = {f"failed_{reason}": number for number, reason in enumerate(CONNECT_FAILURES)}
    expected = {reason: number for number, reason in enumerate(CONNECT_FAILURES) if number}
    assert points("tcp.failed_connects", **columns) == expected


def test_what_is_off_by_default() -> None:
    off = {metric.name for metric in METRICS} - {metric.name for metric in ENABLED_METRICS}
    percentiles = {
        f"{group}.latency.{name}" for group in ("tcp", "dns", "http") for name in ("p50", "p90", "p95", "p99", "max")
    }
    assert off == {"tcp.rtt.num_measurements", "http.responses"} | percentiles


def test_all_metrics_of_the_reference_are_there() -> None:
    tcp = ("bytes", "rtt.num_measurements", "active", "rtt.average", "packets", "retrans", "syn_timeouts")
    dns = ("client.duration.average", "server.duration.average", "active_sockets", "responses", "timeouts")
    http = ("client.duration.average", "server.duration.average", "active_sockets", "status_code")
    groups = {
        "tcp": (*tcp, "new_sockets", "resets"),
        "udp": ("bytes", "packets", "active", "drops"),
        "dns": dns,
        "http": http,
    }
    assert {f"{group}.{name}" for group, names in groups.items() for name in names} <= BY_NAME.keys()


def test_answers_are_told_by_rcode_and_responses_by_class() -> None:
    answers = {"dns_noerror": 1, "dns_nodata": 2, "dns_nxdomain": 3, "dns_servfail": 4}
    assert points("dns.rcodes", **answers) == {"NOERROR": 1, "NODATA": 2, "NXDOMAIN": 3, "SERVFAIL": 4}
    assert points("dns.responses", **answers) == {"": 10}
    statuses = {"http_status_2xx": 1, "http_status_3xx": 2, "http_status_5xx": 4, "http_status_other": 8}
    assert points("http.status_code", **statuses) == {"200": 1, "400": 0, "500": 4, "other": 10}
    assert points("http.status_code", bytes=1) == points("dns.responses", http_requests=1) == {}


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("tcp.bytes", "tcp_bytes_total"),
        ("tcp.packets", "tcp_packets_total"),
        ("tcp.rtt.average", "tcp_rtt_average_seconds"),
        ("tcp.active", "tcp_active"),
        ("tcp.connect.duration.average", "tcp_connect_duration_average_seconds"),
        ("tcp.rtt", "tcp_rtt_seconds"),
        ("tcp.latency.p90", "tcp_latency_p90"),
        ("drops.bytes", "drops_bytes_total"),
    ],
)
def test_prometheus_name(name: str, expected: str) -> None:
    assert BY_NAME[name].prometheus_name == expected


def test_documentation_is_up_to_date() -> None:
    written = Path(__file__).parents[2] / "docs" / "metrics.md"
    assert written.read_text() == documentation(), "run: python -m reducer.outputs.metrics > docs/metrics.md"
