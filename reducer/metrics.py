"""The table of flow metrics: what each is called, counts and means; every output and docs/metrics.md follow it."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Literal

import numpy as np

from intake.columns import DNS_RESULTS
from reducer.series import CONNECT_FAILURES, DNS_RESULTS_AS_COLUMNS, VALUE_COLUMNS

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    Values = Mapping[str, np.ndarray]
    Column = Callable[[Values], np.ndarray]

MICROSECONDS = 1e6
# Units (UCUM) that Prometheus spells out at the end of a name.
PROMETHEUS_UNITS = {"By": "bytes", "s": "seconds"}


class Instrument(Enum):
    """COUNTER is a monotonic sum over the window (delta); GAUGE is a reading."""

    COUNTER = "counter"
    GAUGE = "gauge"


@dataclass(frozen=True)
class Points:
    """The points of a metric that have the same attributes of its own: at most one a series.

    Attributes:
        value: from the value columns of the series to int64 or float64, a row a series.
        exists: from the same to bool: the series that have a point; the others' values mean nothing.
        attributes: what these points have besides the labels of their series.

    """

    value: Column
    exists: Column
    attributes: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True)
class Metric:
    """A metric: `unit` by UCUM, `number` the type of its values; those not `enabled` are left out by default."""

    name: str
    unit: str
    instrument: Instrument
    number: Literal["int", "double"]
    description: str
    points: tuple[Points, ...]
    enabled: bool = True

    @property
    def prometheus_name(self) -> str:
        """The name by the rules of Prometheus: unit spelt out, `_total` for a counter."""
        name = self.name.replace(".", "_")
        unit = PROMETHEUS_UNITS.get(self.unit)
        if unit and not name.endswith(f"_{unit}"):
            name += f"_{unit}"
        return f"{name}_total" if self.instrument is Instrument.COUNTER else name


def _column(name: str) -> Column:
    return lambda values: values[name]


def _positive(name: str) -> Column:
    return lambda values: values[name] > 0


def _mean_seconds(total: str, count: str) -> Column:
    return lambda values: values[total] / values[count].clip(min=1) / MICROSECONDS


def _any(*names: str) -> Column:
    return lambda values: np.any([values[name] != 0 for name in names], axis=0)


def _has_connections(values: Values) -> np.ndarray:
    some = values["active"] + values["opened"] + values["closed"] + values["syn_timeouts"]
    for reason in CONNECT_FAILURES:
        some = some + values[f"failed_{reason}"]
    exists: np.ndarray = some > 0
    return exists


def _reset_or_has_connections(values: Values) -> np.ndarray:
    exists: np.ndarray = (values["resets"] > 0) | _has_connections(values)
    return exists


def _counter(name: str, unit: str, description: str, column: str, exists: Column) -> Metric:
    return Metric(name, unit, Instrument.COUNTER, "int", description, (Points(_column(column), exists),))


def _seconds(name: str, description: str, value: Column, exists: Column) -> Metric:
    return Metric(name, "s", Instrument.GAUGE, "double", description, (Points(value, exists),))


def _any_of_group(group: str) -> Column:
    return _any(*(name for name in VALUE_COLUMNS if name.startswith(f"{group}_")))


_UDP, _DNS, _HTTP = (_any_of_group(group) for group in ("udp", "dns", "http"))
_TCP = _any(*(name for name in VALUE_COLUMNS if not name.startswith(("udp_", "dns_", "http_"))))


def _total(columns: tuple[str, ...]) -> Column:
    return lambda values: np.sum([values[name] for name in columns], axis=0)


def _active(group: str, description: str, exists: Column) -> Metric:
    points = (Points(_column(f"{group}_active"), exists),)
    return Metric(f"{group}.active_sockets", "{socket}", Instrument.GAUGE, "int", description, points)


# The classes that the reference has, of which 3xx is none.
_HTTP_CLASSES = {
    "200": ("http_status_2xx",),
    "400": ("http_status_4xx",),
    "500": ("http_status_5xx",),
    "other": ("http_status_3xx", "http_status_other"),
}

METRICS = (
    _counter(
        "tcp.bytes", "By", "Payload that the source sent, each byte once however often it was sent.", "bytes", _TCP
    ),
    _counter(
        "tcp.packets", "{packet}", "Segments that the source sent, those without payload as well.", "packets", _TCP
    ),
    _counter("tcp.retrans", "{packet}", "Segments that the source sent again.", "retransmits", _TCP),
    _seconds(
        "tcp.rtt.average",
        "Smoothed round trip time (RFC 6298) as the source measured it: mean of the readings of its sockets.",
        _mean_seconds("srtt_sum_us", "srtt_count"),
        _positive("srtt_count"),
    ),
    Metric(
        "tcp.rtt.num_measurements",
        "{measurement}",
        Instrument.GAUGE,
        "int",
        "Readings that tcp.rtt.average is the mean of.",
        (Points(_column("srtt_count"), _positive("srtt_count")),),
        enabled=False,
    ),
    _seconds(
        "tcp.rtt.min",
        "Least round trip time that the source's kernel saw lately (tcp_min_rtt_wlen).",
        lambda values: values["min_rtt_us"] / MICROSECONDS,
        _positive("min_rtt_us"),
    ),
    Metric(
        "tcp.active",
        "{socket}",
        Instrument.GAUGE,
        "int",
        "Connections that opened, moved data or ended in the window.",
        (Points(_column("active"), _has_connections),),
    ),
    _counter("tcp.new_sockets", "{socket}", "Connections that were established.", "opened", _has_connections),
    _counter("tcp.closed_sockets", "{socket}", "Established connections that ended.", "closed", _has_connections),
    _counter(
        "tcp.syn_timeouts", "{packet}", "SYNs sent again for want of an answer.", "syn_timeouts", _has_connections
    ),
    Metric(
        "tcp.failed_connects",
        "{connection}",
        Instrument.COUNTER,
        "int",
        "Connections that were not established, by `reason`: " + ", ".join(CONNECT_FAILURES) + ".",
        tuple(
            Points(_column(f"failed_{reason}"), _positive(f"failed_{reason}"), (("reason", reason),))
            for reason in CONNECT_FAILURES
        ),
    ),
    _seconds(
        "tcp.connect.duration.average",
        "Mean time from the first SYN to the established connection.",
        _mean_seconds("connect_sum_us", "connect_count"),
        _positive("connect_count"),
    ),
    _counter("tcp.resets", "{connection}", "Connections that the source reset.", "resets", _reset_or_has_connections),
    _counter("udp.bytes", "By", "Payload that the source sent, without headers.", "udp_bytes", _UDP),
    _counter(
        "udp.packets",
        "{packet}",
        "Datagrams that the source sent: those that GSO and GRO join one by one, one cut into fragments as one.",
        "udp_packets",
        _UDP,
    ),
    Metric(
        "udp.active",
        "{socket}",
        Instrument.GAUGE,
        "int",
        "Pairs of sockets in which the source sent in the window: a socket counts with each of its peers.",
        (Points(_column("udp_active"), _UDP),),
    ),
    _counter(
        "udp.drops",
        "{packet}",
        "Datagrams that reached the destination's socket and were dropped there, for want of room mostly (sk_drops).",
        "udp_drops",
        _UDP,
    ),
    _seconds(
        "dns.client.duration.average",
        "Mean time from query to answer as the source, which asked, measured it.",
        _mean_seconds("dns_client_sum_us", "dns_client_count"),
        _positive("dns_client_count"),
    ),
    _seconds(
        "dns.server.duration.average",
        "Mean time from query to answer as the destination, which answered, measured it.",
        _mean_seconds("dns_server_sum_us", "dns_server_count"),
        _positive("dns_server_count"),
    ),
    _active(
        "dns", "Sockets of the source that asked in the window; of the destination where only that is told of.", _DNS
    ),
    _counter(
        "dns.queries", "{query}", "Queries of the source; one that is sent again counts once.", "dns_queries", _DNS
    ),
    _counter("dns.retransmits", "{query}", "Queries that the source sent again.", "dns_retransmits", _DNS),
    _counter("dns.timeouts", "{query}", "Queries that had no answer in time.", "dns_timeouts", _DNS),
    Metric(
        "dns.responses",
        "{response}",
        Instrument.COUNTER,
        "int",
        "Answers to the source, whatever they say.",
        (Points(_total(DNS_RESULTS_AS_COLUMNS), _DNS),),
    ),
    Metric(
        "dns.rcodes",
        "{response}",
        Instrument.COUNTER,
        "int",
        f"Answers to the source by `rcode`: {', '.join(name.upper() for name in DNS_RESULTS)}; NODATA is NOERROR "
        "without an answer of the type that was asked for.",
        tuple(
            Points(_column(column), _positive(column), (("rcode", name.upper()),))
            for name, column in zip(DNS_RESULTS, DNS_RESULTS_AS_COLUMNS, strict=True)
        ),
    ),
    _seconds(
        "http.client.duration.average",
        "Mean time from request to response as the source, which asked, measured it.",
        _mean_seconds("http_client_sum_us", "http_client_count"),
        _positive("http_client_count"),
    ),
    _seconds(
        "http.server.duration.average",
        "Mean time from request to response as the destination, which answered, measured it.",
        _mean_seconds("http_server_sum_us", "http_server_count"),
        _positive("http_server_count"),
    ),
    _active(
        "http", "Sockets of the source that asked in the window; of the destination where only that is told of.", _HTTP
    ),
    _counter("http.requests", "{request}", "Requests of the source.", "http_requests", _HTTP),
    Metric(
        "http.status_code",
        "{response}",
        Instrument.COUNTER,
        "int",
        "Responses to the source by class, `status_code`: 200 (2xx), 400 (4xx), 500 (5xx), other.",
        tuple(
            Points(_total(columns), _HTTP, (("status_code", status_class),))
            for status_class, columns in _HTTP_CLASSES.items()
        ),
    ),
)

ENABLED_METRICS = tuple(metric for metric in METRICS if metric.enabled)


DOCUMENTATION = """\
# Metrics of flows

Made from `reducer/metrics.py` by `python -m reducer.metrics > docs/metrics.md`.

Every point belongs to a window and to a series: from one end (`source.*`) to another (`dest.*`). Bytes, packets,
retransmits, resets and round trip times are on the series of the end that sent or measured them; connections are
on the series from the connecting end to the accepting end, and only there.

OTLP: a counter is a monotonic sum with delta temporality; the window is the time of every point, also of gauges.
Prometheus: counters run since the reducer's start, or since the series was last forgotten (10 windows without
data); gauges are those of the last window.

| metric | in Prometheus | type | unit | what it is |
|---|---|---|---|---|
{rows}

A series has a point of a metric only where there is something to say: of connections where one opened, closed,
failed or was active, of times where one was measured, of `tcp.failed_connects` for each reason that occurred.

UDP: bytes are payload; neither IP nor UDP headers count. What reached a socket counts as received, what it dropped
included. Where a socket has more than 4096 peers between two polls, those beyond are one peer with the address `::`;
what these send or receive counts once more where a collector is at their end. The kernel does not tell whose datagrams
a socket dropped: where it has several peers, `udp.drops` is on the series from `::`.

## Labels

Each end's labels have the prefix `source.` or `dest.`, in Prometheus `source_` or `dest_`; empty ones are left
out. Besides: `aggregation`, the level of the series (`az` for an end told by workload and zone, `id` for one told by
host and address in it as well: `az_az`, `az_id`, `id_az`, `id_id`), and `az_equal`, `true` or `false`, where the
availability zones of both ends are known.

| label | what it is |
|---|---|
| `workload.name` | task of Nomad or ECS, container, service, process, or the host's label `service`; `DNS` at port 53 |
| `resolution_type` | what named it: `NOMAD`, `CONTAINER`, `PROCESS`, `INSTANCE_METADATA`; `IP` where no collector is |
| `process.name` | name of the process that owns the socket |
| `container.name` | name of the container, as Kubernetes, ECS or Docker gave it |
| `image_version` | tag or digest of the container's image; of a task of ECS the version of the task |
| `namespace.name` | namespace of the container, else the host's label |
| `environment` | the host's label; `(no agent)` where no collector is |
| `availability_zone` | the host's label `zone`, else what the cloud says |
| `id`, `ip` | host and address of the end; only of `id` ends |
| `pod` | name of the pod, where Docker tells it; only of `id` ends |
"""


def documentation() -> str:
    """Return the text of docs/metrics.md."""
    return DOCUMENTATION.format(rows="\n".join(map(_documentation_row, METRICS)))


def _documentation_row(metric: Metric) -> str:
    cells = (
        f"`{metric.name}`",
        f"`{metric.prometheus_name}`",
        f"{metric.instrument.value}, {metric.number}",
        f"`{metric.unit}`",
        metric.description + ("" if metric.enabled else " Off by default."),
    )
    return f"| {' | '.join(cells)} |"


if __name__ == "__main__":
    sys.stdout.write(documentation())
