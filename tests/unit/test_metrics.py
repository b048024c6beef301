from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from reducer.metrics import ENABLED_METRICS, METRICS, documentation
from reducer.series import CONNECT_FAILURES, VALUE_COLUMNS

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
    ],
)
def test_no_point_where_nothing_is_to_be_said(name: str, columns: dict[str, int]) -> None:
    assert points(name, **columns) == {}


def test_failed_connects_are_told_by_reason() -> None:
    columns = {f"failed_{reason}": number for number, reason in enumerate(CONNECT_FAILURES)}
    expected = {reason: number for number, reason in enumerate(CONNECT_FAILURES) if number}
    assert points("tcp.failed_connects", **columns) == expected


def test_number_of_measurements_is_off_by_default() -> None:
    assert {metric.name for metric in METRICS} - {metric.name for metric in ENABLED_METRICS} == {
        "tcp.rtt.num_measurements"
    }


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("tcp.bytes", "tcp_bytes_total"),
        ("tcp.packets", "tcp_packets_total"),
        ("tcp.rtt.average", "tcp_rtt_average_seconds"),
        ("tcp.active", "tcp_active"),
        ("tcp.connect.duration.average", "tcp_connect_duration_average_seconds"),
    ],
)
def test_prometheus_name(name: str, expected: str) -> None:
    assert BY_NAME[name].prometheus_name == expected


def test_documentation_is_up_to_date() -> None:
    written = Path(__file__).parents[2] / "docs" / "metrics.md"
    assert written.read_text() == documentation(), "run: python -m reducer.metrics > docs/metrics.md"
