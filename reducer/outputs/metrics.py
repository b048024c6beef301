"""The table of flow metrics: what each is called, counts and means; every output and docs/metrics.md follow it."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from intake.columns import DNS_RESULTS
from reducer.columns.cells import CellKind
from reducer.columns.value_columns import (
    CONNECT_FAILURES,
    DNS_RESULTS_AS_COLUMNS,
    NOT_OF_TCP,
    VALUE_COLUMNS,
    ZONE_COLUMNS,
)
from reducer.outputs.metric import (
    MICROSECONDS,
    Codes,
    Instrument,
    Metric,
    Points,
    Quantile,
    any_of,
    average,
    column,
    counter,
    gauge,
    histogram,
    positive,
    total,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

_OTHER_GROUPS = ("udp", "dns", "http")
MILLISECONDS = 1e3
_UDP, _DNS, _HTTP = (
    any_of(*(name for name in VALUE_COLUMNS if name.startswith(f"{group}_"))) for group in _OTHER_GROUPS
)
_TCP = any_of(*(name for name in VALUE_COLUMNS if not name.startswith(NOT_OF_TCP)))
_CROSS_ZONE, _SAME_ZONE = ZONE_COLUMNS
_FAILED = tuple(f"failed_{reason}" for reason in CONNECT_FAILURES)
_CONNECTIONS = any_of("active", "opened", "closed", "syn_timeouts", *_FAILED)
_CONNECTIONS_OR_RESETS = any_of("active", "opened", "closed", "syn_timeouts", *_FAILED, "resets")
# The classes that the reference has, of which 3xx is none.
_HTTP_CLASSES = {
    "200": ("http_status_2xx",),
    "400": ("http_status_4xx",),
    "500": ("http_status_5xx",),
    "other": ("http_status_3xx", "http_status_other"),
}
_ASKED = "Sockets of the source that asked in the window; of the destination where only that is told of."
_PERCENTILES = {"p50": 0.5, "p90": 0.9, "p95": 0.95, "p99": 0.99, "max": 1.0}
_LATENCIES = {
    "tcp": (CellKind.TCP_RTT, "tcp.rtt"),
    "dns": (CellKind.DNS_CLIENT, "dns.client.duration"),
    "http": (CellKind.HTTP_CLIENT, "http.client.duration"),
}


def _percentiles(group: str) -> Iterator[Metric]:
    kind, of = _LATENCIES[group]
    for name, share in _PERCENTILES.items():
        what = "The greatest" if name == "max" else f"The time that {share:.0%} are below"
        description = f"{what} of the readings of {of} in the window, to within 4.4%."
        quantile = Quantile(kind, share, MILLISECONDS)
        yield Metric(
            f"{group}.latency.{name}", "ms", Instrument.GAUGE, "double", description, sparse=quantile, enabled=False
        )


def _counts(name: str, unit: str, description: str, *points: Points) -> Metric:
    return Metric(name, unit, Instrument.COUNTER, "int", description, points)


def _dropped(name: str, unit: str, description: str, kind: CellKind) -> Metric:
    reasons = Codes(kind, "reason", lambda reason, names: names[reason])
    return Metric(name, unit, Instrument.COUNTER, "int", description, sparse=reasons)


METRICS = (
    counter(
        "tcp.bytes", "By", "Payload that the source sent, each byte once however often it was sent.", "bytes", _TCP
    ),
    counter(
        "tcp.packets", "{packet}", "Segments that the source sent, those without payload as well.", "packets", _TCP
    ),
    counter("tcp.retrans", "{packet}", "Segments that the source sent again.", "retransmits", _TCP),
    average(
        "tcp.rtt.average",
        "Smoothed round trip time (RFC 6298) as the source measured it: mean of the readings of its sockets.",
        "srtt_sum_us",
        "srtt_count",
    ),
    Metric(
        "tcp.rtt.num_measurements",
        "{measurement}",
        Instrument.GAUGE,
        "int",
        "Readings that tcp.rtt.average is the mean of.",
        (Points(column("srtt_count"), positive("srtt_count")),),
        enabled=False,
    ),
    Metric(
        "tcp.rtt.min",
        "s",
        Instrument.GAUGE,
        "double",
        "Least round trip time that the source's kernel saw lately (tcp_min_rtt_wlen).",
        (Points(lambda values: values["min_rtt_us"] / MICROSECONDS, positive("min_rtt_us")),),
    ),
    histogram(
        "tcp.rtt",
        "Smoothed round trip times as the source measured them; those of a socket between two polls by their mean.",
        CellKind.TCP_RTT,
        "srtt_sum_us",
    ),
    *_percentiles("tcp"),
    gauge(
        "tcp.active",
        "{socket}",
        "Connections that opened, failed to, moved data or ended in the window.",
        "active",
        _CONNECTIONS,
    ),
    counter("tcp.new_sockets", "{socket}", "Connections that were established.", "opened", _CONNECTIONS),
    counter("tcp.closed_sockets", "{socket}", "Established connections that ended.", "closed", _CONNECTIONS),
    counter("tcp.syn_timeouts", "{packet}", "SYNs sent again for want of an answer.", "syn_timeouts", _CONNECTIONS),
    _counts(
        "tcp.failed_connects",
        "{connection}",
        f"Connections that were not established, by `reason`: {', '.join(CONNECT_FAILURES)}.",
        *(
            Points(column(name), positive(name), (("reason", reason),))
            for name, reason in zip(_FAILED, CONNECT_FAILURES, strict=True)
        ),
    ),
    average(
        "tcp.connect.duration.average",
        "Mean time from the first SYN to the established connection.",
        "connect_sum_us",
        "connect_count",
    ),
    histogram(
        "tcp.connect.duration",
        "Times from the first SYN to the established connection.",
        CellKind.TCP_CONNECT,
        "connect_sum_us",
    ),
    counter("tcp.resets", "{connection}", "Connections that the source reset.", "resets", _CONNECTIONS_OR_RESETS),
    counter("udp.bytes", "By", "Payload that the source sent, without headers.", "udp_bytes", _UDP),
    counter(
        "udp.packets",
        "{packet}",
        "Datagrams that the source sent: those that GSO and GRO join one by one, one cut into fragments as one.",
        "udp_packets",
        _UDP,
    ),
    gauge(
        "udp.active",
        "{socket}",
        "Pairs of sockets in which the source sent in the window: a socket counts with each of its peers.",
        "udp_active",
        _UDP,
    ),
    counter(
        "udp.drops",
        "{packet}",
        "Datagrams that reached the destination's socket and were dropped there, for want of room mostly (sk_drops).",
        "udp_drops",
        _UDP,
    ),
    average(
        "dns.client.duration.average",
        "Mean time from query to answer as the source, which asked, measured it.",
        "dns_client_sum_us",
        "dns_client_count",
    ),
    average(
        "dns.server.duration.average",
        "Mean time from query to answer as the destination, which answered, measured it.",
        "dns_server_sum_us",
        "dns_server_count",
    ),
    histogram(
        "dns.client.duration",
        "Times from query to answer as the source, which asked, measured them.",
        CellKind.DNS_CLIENT,
        "dns_client_sum_us",
    ),
    histogram(
        "dns.server.duration",
        "Times from query to answer as the destination, which answered, measured them.",
        CellKind.DNS_SERVER,
        "dns_server_sum_us",
    ),
    *_percentiles("dns"),
    gauge("dns.active_sockets", "{socket}", _ASKED, "dns_active", _DNS),
    counter(
        "dns.queries", "{query}", "Queries of the source; one that is sent again counts once.", "dns_queries", _DNS
    ),
    counter("dns.retransmits", "{query}", "Queries that the source sent again.", "dns_retransmits", _DNS),
    counter("dns.timeouts", "{query}", "Queries that had no answer in time.", "dns_timeouts", _DNS),
    _counts(
        "dns.responses",
        "{response}",
        "Answers to the source, whatever they say.",
        Points(total(DNS_RESULTS_AS_COLUMNS), _DNS),
    ),
    _counts(
        "dns.rcodes",
        "{response}",
        f"Answers to the source by `rcode`: {', '.join(name.upper() for name in DNS_RESULTS)}; NODATA is NOERROR "
        "without an answer of the type that was asked for.",
        *(
            Points(column(name), positive(name), (("rcode", result.upper()),))
            for result, name in zip(DNS_RESULTS, DNS_RESULTS_AS_COLUMNS, strict=True)
        ),
    ),
    average(
        "http.client.duration.average",
        "Mean time from request to response as the source, which asked, measured it.",
        "http_client_sum_us",
        "http_client_count",
    ),
    average(
        "http.server.duration.average",
        "Mean time from request to response as the destination, which answered, measured it.",
        "http_server_sum_us",
        "http_server_count",
    ),
    histogram(
        "http.client.duration",
        "Times from request to response as the source, which asked, measured them.",
        CellKind.HTTP_CLIENT,
        "http_client_sum_us",
    ),
    histogram(
        "http.server.duration",
        "Times from request to response as the destination, which answered, measured them.",
        CellKind.HTTP_SERVER,
        "http_server_sum_us",
    ),
    *_percentiles("http"),
    gauge("http.active_sockets", "{socket}", _ASKED, "http_active", _HTTP),
    counter("http.requests", "{request}", "Requests of the source.", "http_requests", _HTTP),
    _counts(
        "http.status_code",
        "{response}",
        "Responses to the source by class, `status_code`: 200 (2xx), 400 (4xx), 500 (5xx), other.",
        *(
            Points(total(columns), _HTTP, (("status_code", status_class),))
            for status_class, columns in _HTTP_CLASSES.items()
        ),
    ),
    Metric(
        "http.responses",
        "{response}",
        Instrument.COUNTER,
        "int",
        "Responses to the source by their exact `status_code`, `other` where it is none.",
        sparse=Codes(CellKind.HTTP_STATUS, "status_code", lambda code, _: str(code) if code else "other"),
        enabled=False,
    ),
    _dropped(
        "drops.packets",
        "{packet}",
        "Packets from the source that a kernel on the way dropped, by its `reason` (SKB_DROP_REASON_*).",
        CellKind.DROPPED_PACKETS,
    ),
    _dropped(
        "drops.bytes",
        "By",
        "Size of these packets, headers included, from the network header on, by `reason`.",
        CellKind.DROPPED_BYTES,
    ),
    counter(
        "zone.cross.bytes",
        "By",
        "Payload of TCP and UDP that the source sent to a destination in another availability zone.",
        _CROSS_ZONE,
        positive(_CROSS_ZONE),
    ),
    counter(
        "zone.same.bytes",
        "By",
        "Payload of TCP and UDP that the source sent to a destination in its own availability zone.",
        _SAME_ZONE,
        positive(_SAME_ZONE),
    ),
)

ENABLED_METRICS = tuple(metric for metric in METRICS if metric.enabled)


DOCUMENTATION = """\
# Metrics of flows

Made from `reducer/outputs/metrics.py` by `python -m reducer.outputs.metrics > docs/metrics.md`.

Every point belongs to a window and to a series: from one end (`source.*`) to another (`dest.*`). Bytes, packets,
retransmits, resets, drops and round trip times are on the series of the end that sent or measured them; connections are
on the series from the connecting end to the accepting end, DNS and HTTP on that from who asks to who answers, and only
there.

OTLP: a counter is a monotonic sum, a histogram an exponential one of scale 3, both with delta temporality; the window
is the time of every point, also of gauges. A series that a window no more has gets one point of 0 for each counter and
gauge that it had in the window before (histograms, percentiles, and counters by exact code or reason of a drop have
none), and no points after that. With `OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE=cumulative`, for receivers that
take no deltas, counters and histograms run as they do for Prometheus, and are told in each window.

Prometheus: counters and histograms run since the reducer's start, or since the series was last forgotten (10 windows
without data); gauges are those of the last window. Buckets are bounded by powers of four, from 2^-16 s to 16 s. Who
scrapes by protobuf gets native histograms of schema 3 as well, with eight buckets to a doubling.

| metric | in Prometheus | type | unit | what it is |
|---|---|---|---|---|
{rows}

A series has a point of a metric only where there is something to say: of connections where one opened, closed,
failed or was active, of times where one was measured, of `tcp.failed_connects` for each reason that occurred.

Latencies are kept in bins of which eight make a doubling: quantiles, least and greatest are within 4.4%, counts and
sums exact. `--enable-percentile-latencies` gives those off by default that are called `latency`.

DNS and HTTP: a request is counted once, by the end that asked where a collector is, else by the one that answered;
each latency is that of the end in its name. `drops` are the kernels' own, on whatever machine; what a socket dropped
for want of room is in `udp.drops`. Where a packet did not tell its flow, both ends are unknown.

Traffic between zones: `sum(rate(zone_cross_bytes_total{{aggregation="az_az"}}[5m]))`; each level has all the traffic,
so sums are over one of them. An end whose zone is not known, of which only the organisation is known, or that a cloud
has in a region and not in one zone (load balancers), has a part in neither of the two;
series that are rolled up keep theirs.

UDP: bytes are payload; neither IP nor UDP headers count. What reached a socket counts as received, what it dropped
included. Where a socket has more than 4096 peers between two polls, those beyond are one peer with the address `::`;
what these send or receive counts once more where a collector is at their end. The kernel does not tell whose datagrams
a socket dropped: where it has several peers, `udp.drops` is on the series from `::`.

## Labels

Each end's labels have the prefix `source.` or `dest.`, in Prometheus `source_` or `dest_`; empty ones are left
out. Besides: `aggregation`, the level of the series (`az` for an end told by workload and zone, `id` for one told by
host and address in it as well: `az_az`, `az_id`, `id_az`, `id_id`), and `az_equal`, `true` or `false`, where the
availability zones of both ends are known, not `(unknown)`.

| label | what it is |
|---|---|
| `workload.name` | what it is: pod's controller, task, container, service, process; see [naming](reducer.md#naming) |
| `workload.uid` | uid of the pod's controller, the Kubernetes service or node |
| `resolution_type` | what named it: `K8S_CONTAINER`, `CONTAINER`, `NOMAD`, `PROCESS`, `IP`, …; see the same |
| `process.name` | name of the process that owns the socket |
| `container.name` | name of the container, as Kubernetes, ECS or Docker gave it |
| `image_version` | tag or digest of the container's image; of a task of ECS the version of the task |
| `namespace.name` | namespace of the pod, task, container or service, else the host's label |
| `environment` | the host's label, or that of who told of the cluster; `(no agent)` where no collector is |
| `availability_zone` | the host's label `zone`, else what the cloud says; of an address its organisation |
| `id`, `ip` | host and address of the end; only of `id` ends |
| `pod` | name of the pod; only of `id` ends |
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
