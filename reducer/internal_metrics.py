"""The reducer's metrics about itself and its collectors, by the OpenTelemetry SDK, in the text format of Prometheus.

The parts of the reducer know nothing of metrics: each has a record of statistics, and the table here says which field
of which record is which metric. A field that ends in `_ns` is a time, and is given in seconds.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol

from ebpf_net.v1 import intake_pb2
from opentelemetry.exporter.prometheus import PrometheusMetricReader
from opentelemetry.metrics import Observation
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.resources import Resource
from prometheus_client import CollectorRegistry, generate_latest

from daemon.version import VERSION

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from opentelemetry.metrics import CallbackOptions

PREFIX = "ebpf_net"
NANOSECOND = 1e-9
# Those that connected last are left out beyond it: the SDK takes 1 ms for each.
MOST_COLLECTORS = 512
# Of a metric: the SDK adds up those beyond 2,000.
MOST_OBSERVATIONS = 1_900


class InternalMetric(NamedTuple):
    """A metric: the value of *field* in the record named *group*."""

    group: str
    field: str
    kind: Literal["counter", "gauge"]
    unit: str
    description: str

    @property
    def name(self) -> str:
        """Name by OpenTelemetry's rules."""
        return ".".join(filter(None, (PREFIX, self.group, self.field.removesuffix("_ns"))))


def _counter(group: str, field: str, unit: str, description: str) -> InternalMetric:
    return InternalMetric(group, field, "counter", unit, description)


def _gauge(group: str, field: str, unit: str, description: str) -> InternalMetric:
    return InternalMetric(group, field, "gauge", unit, description)


TABLE = (
    _gauge("", "up", "", "1: the reducer runs."),
    _gauge("", "connections", "{collector}", "Collectors that are connected."),
    _gauge("", "collectors_omitted", "{collector}", "Collectors that are connected but too many to be told of here."),
    _counter("intake", "messages", "{message}", "Messages received from collectors."),
    _counter("intake", "batches", "{batch}", "Batches taken."),
    _counter("intake", "rows", "{row}", "Rows in the batches taken."),
    _counter("intake", "duplicates", "{batch}", "Batches that came again after a reconnect, and were ignored."),
    _counter("intake", "refused", "{batch}", "Batches and other messages that were refused as malformed."),
    _counter("intake", "rejected", "{connection}", "Connections that were not let in."),
    _counter("intake", "superseded", "{connection}", "Connections whose session another connection took over."),
    _counter("intake", "sessions_forgotten", "{session}", "Disconnected sessions forgotten since there were too many."),
    _counter("intake", "times_clamped", "{batch}", "Batches and heartbeats whose time was not believable."),
    _counter("intake", "strings_cut", "{string}", "Strings that were longer than is kept."),
    _counter("pipeline", "rows", "{row}", "Rows taken into windows."),
    _counter("pipeline", "rows_late", "{row}", "Rows that came after their window, and count in a later one."),
    _counter("pipeline", "rows_loopback", "{row}", "Rows left out since their address is a loopback address."),
    _gauge("pipeline", "rows_open", "{row}", "Rows that wait for the end of their window."),
    _counter("pipeline", "windows", "{window}", "Windows sealed."),
    _gauge("pipeline", "flows", "{flow}", "Flows remembered."),
    _counter("pipeline", "flows_untracked", "{flow}", "Flows forgotten early since there were too many."),
    _counter("pipeline", "ends_unknown", "{end}", "Ends of windows' flows that have no name, by `reason`."),
    _counter("pipeline", "ends_rolled_up", "{end}", "Ends not told apart by address since there were too many."),
    _counter("pipeline", "series_rolled_up", "{series}", "Series added to others since their level had too many."),
    _counter("pipeline", "processes_refused", "{process}", "Processes not named since there were too many."),
    _counter("pipeline", "cgroups_refused", "{cgroup}", "Containers and services not named since there were too many."),
    _gauge("pipeline", "request_balances", "{count}", "Counts of requests that a flow's two ends differ in so far."),
    _counter("pipeline", "request_balances_forgotten", "{count}", "Of these, those forgotten early: they may repeat."),
    _counter("pipeline", "entities_refused", "{entity}", "Pods, services, … not taken since there were too many."),
    _gauge("pipeline", "entities", "{entity}", "Pods, services, nodes and interfaces that are known."),
    _gauge("pipeline", "dns_names", "{address}", "Addresses that are known by a name of the DNS, by machine."),
    _counter("pipeline", "dns_names_refused", "{address}", "Addresses not named since too many came at once."),
    _gauge("pipeline", "sessions", "{session}", "Sessions of collectors that are known."),
    _gauge("pipeline", "window_lag_ns", "s", "Time from the end of the last window until it was sealed."),
    _gauge("queue", "requests", "{request}", "OTLP requests that wait for their export."),
    _gauge("queue", "bytes", "By", "Size of the OTLP requests that wait for their export."),
    _gauge("queue", "most_bytes", "By", "Size from which on the queue drops its oldest windows."),
    _gauge("queue", "windows_unwritten", "{window}", "Windows that the data directory could not take yet."),
    _counter("queue", "windows_dropped", "{window}", "Windows lost since the queue was full."),
    _counter("queue", "points_dropped", "{point}", "Points in the windows lost."),
    _gauge("otlp", "connected", "", "Whether the OTLP receiver took, or refused, the last request."),
    _counter("otlp", "requests_sent", "{request}", "Requests that the OTLP receiver took."),
    _counter("otlp", "requests_refused", "{request}", "Requests that the OTLP receiver will not take; they are lost."),
    _counter("otlp", "requests_failed", "{request}", "Attempts to send that failed; they are made again."),
    _counter("otlp", "points_sent", "{point}", "Points that the OTLP receiver took."),
    _counter("otlp", "points_refused", "{point}", "Points in the requests refused."),
    _counter("otlp", "points_rejected", "{point}", "Points that the OTLP receiver rejected of requests that it took."),
    _counter("otlp", "bytes_sent", "By", "Size of the requests sent, before compression."),
    _gauge("prometheus", "series", "{series}", "Series that Prometheus is given."),
    _counter("prometheus", "rows_untracked", "{row}", "Rows of windows without a series, since there were too many."),
)

COLLECTOR_TABLE = (
    _gauge("collector", "clock_offset_ns", "s", "What is added to the collector's clock to get the reducer's."),
    _counter("collector", "events_lost", "{event}", "Kernel events that found the ring buffer full."),
    _counter("collector", "sockets_untracked", "{socket}", "Sockets not tracked since the table was full."),
    _gauge("collector", "sockets_tracked", "{socket}", "Sockets tracked."),
    _gauge("collector", "processes_tracked", "{process}", "Processes tracked."),
    _gauge("collector", "cgroups_tracked", "{cgroup}", "Containers, pods and services tracked."),
    _counter("collector", "cgroups_untracked", "{cgroup}", "Cgroups not named since there were too many."),
    _counter("collector", "containers_undescribed", "{container}", "Containers that Docker did not describe."),
    _gauge("collector", "poll_duration_ns", "s", "Time that the last poll took."),
    _gauge("collector", "spool_most_bytes", "By", "Size from which on it adds up rows, or drops the oldest batches."),
    _counter("collector", "wire_bytes_sent", "By", "Size of the messages that the collector sent, compressed."),
    _counter("collector", "wire_bytes_received", "By", "Size of the messages that it received."),
    _gauge("collector", "spool_bytes", "By", "Size of the batches that are not acknowledged yet."),
    _counter("collector", "spool_rows_merged", "{row}", "Rows added up since the spool was full."),
    _counter("collector", "spool_rows_dropped", "{row}", "Rows lost since the spool was full."),
    _counter("collector", "spool_bytes_dropped", "By", "Payload counted in the rows lost."),
    _counter("collector", "cpu_time_ns", "s", "Processor time of the collector."),
    _gauge("collector", "resident_bytes", "By", "Resident memory of the collector."),
    _counter(
        "collector", "udp_packets_untracked", "{packet}", "UDP packets not counted since the kernel's table was full."
    ),
    _counter(
        "collector",
        "udp_packets_of_other_peers",
        "{packet}",
        "UDP packets counted without their peer since their socket had too many.",
    ),
    _gauge("collector", "translations_tracked", "{connection}", "Translated connections tracked."),
    _counter(
        "collector",
        "translations_untracked",
        "{connection}",
        "Translated connections not tracked since there were too many.",
    ),
    _counter(
        "collector",
        "translation_overruns",
        "{overrun}",
        "Times that events of translated connections were lost, and all read again.",
    ),
    _counter(
        "collector",
        "translation_messages_unread",
        "{message}",
        "Messages about translated connections of a form that is not known.",
    ),
    _counter(
        "collector", "drops_of_other_flows", "{packet}", "Dropped packets told without their flow: there were too many."
    ),
    _counter("collector", "drops_untracked", "{packet}", "Dropped packets not told since there was no room."),
    _counter("collector", "batches_refused", "{batch}", "Batches that the reducer refused."),
)
"""The metrics of each collector, with the attributes `host` and `kind`."""

FIGURES = {
    "rings": (
        "ring",
        (
            _gauge("collector.ring", "size_bytes", "By", "Size of a ring buffer of the kernel's events."),
            _gauge("collector.ring", "fullest_bytes", "By", "The most that waited in it of late."),
            _counter("collector.ring", "events_lost", "{event}", "Events that found it full."),
        ),
    ),
    "maps": (
        "map",
        (
            _gauge("collector.map", "entries", "{entry}", "Entries of a map in the kernel, counted each minute."),
            _gauge("collector.map", "most_entries", "{entry}", "Entries that it takes."),
        ),
    ),
    "programs": (
        "program",
        (
            _counter("collector.program", "runs", "{run}", "Runs of a program in the kernel, where they are counted."),
            _counter("collector.program", "run_time_ns", "s", "Time that they took."),
        ),
    ),
    "agreements": (
        "measure",
        (
            _counter("collector.agreement", "counted", "", "What the collector's rows add up to."),
            _counter("collector.agreement", "counted_by_kernel", "", "What the kernel counted meanwhile."),
            _gauge("collector.agreement", "ratio", "", "The former by the latter."),
        ),
    ),
}
"""The metrics of each figure in a list of the collectors' statistics, by the list's name; besides `host` and `kind`
they have the attribute that is named here."""


class Collector(Protocol):
    """What is told of a connected collector."""

    host: str
    kind: str
    clock_offset_ns: int
    statistics: intake_pb2.CollectorStatistics | None


@dataclass(frozen=True)
class Snapshot:
    """The reducer's records of statistics by group, such as `intake`; a group that is not there has no metrics."""

    groups: Mapping[str, object]
    collectors: Sequence[Collector]


class InternalMetrics:
    """Serves what *snapshot*, called in the event loop, returns."""

    def __init__(self, snapshot: Callable[[], Snapshot]) -> None:
        self._snapshot = snapshot

    async def render(self) -> bytes:
        """Return the metrics now."""
        return await asyncio.to_thread(render, self._snapshot())


def render(snapshot: Snapshot) -> bytes:
    """Return the metrics of *snapshot* as text.

    The instruments are made anew: the SDK never forgets the attributes of a metric, and takes no more than 2,000.
    """
    registry = CollectorRegistry()
    reader = PrometheusMetricReader(scope_info_enabled=False, registry=registry)
    resource = Resource.create({"service.name": "ebpf-net-reducer", "service.version": VERSION})
    provider = MeterProvider([reader], resource, shutdown_on_exit=False)
    try:
        meter = provider.get_meter("ebpf-net", VERSION)
        create = {"counter": meter.create_observable_counter, "gauge": meter.create_observable_gauge}
        for metric, observations in _observations(snapshot):
            create[metric.kind](metric.name, [_callback(observations)], metric.unit, metric.description)
        return generate_latest(registry)
    finally:
        provider.shutdown()


def _callback(observations: list[Observation]) -> Callable[[CallbackOptions], list[Observation]]:
    return lambda _options: observations


def _observations(snapshot: Snapshot) -> Iterator[tuple[InternalMetric, list[Observation]]]:
    connections = len(snapshot.collectors)
    own = _Own(connections=connections, collectors_omitted=max(0, connections - MOST_COLLECTORS))
    groups = {**snapshot.groups, "": own}
    for metric in TABLE:
        if metric.group in groups:
            yield metric, list(_own_observations(metric, groups[metric.group]))
    collectors = snapshot.collectors[:MOST_COLLECTORS]
    for metric in COLLECTOR_TABLE:
        yield metric, [_of_collector(metric, each) for each in collectors if each.statistics is not None]
    for name, (label, metrics) in FIGURES.items():
        for metric in metrics:
            yield metric, list(islice(_of_figures(metric, name, label, collectors), MOST_OBSERVATIONS))


def _of_figures(
    metric: InternalMetric, name: str, label: str, collectors: Sequence[Collector]
) -> Iterator[Observation]:
    for collector in collectors:
        # A program of the collector may be loaded twice: the last is told.
        figures = {_name_of(figure): figure for figure in getattr(collector.statistics, name, ())}
        for told, figure in figures.items():
            value = _ratio(figure) if metric.field == "ratio" else _value(metric, figure)
            if value is not None:
                yield Observation(value, _attributes(collector) | {label: told})


def _name_of(figure: Any) -> str:
    told: str = figure.measure if isinstance(figure, intake_pb2.Agreement) else figure.name
    return told


def _ratio(agreement: intake_pb2.Agreement) -> float | None:
    """Return nothing where the kernel has counted nothing."""
    return agreement.counted / agreement.counted_by_kernel if agreement.counted_by_kernel else None


def _attributes(collector: Collector) -> dict[str, str]:
    return {"host": collector.host, "kind": collector.kind.removeprefix("COLLECTOR_KIND_").lower()}


def _own_observations(metric: InternalMetric, record: object) -> Iterator[Observation]:
    value = getattr(record, metric.field)
    if isinstance(value, dict):
        yield from (Observation(count, {"reason": reason}) for reason, count in value.items())
    else:
        yield Observation(_value(metric, record))


def _of_collector(metric: InternalMetric, collector: Collector) -> Observation:
    record = collector if hasattr(collector, metric.field) else collector.statistics
    return Observation(_value(metric, record), _attributes(collector))


def _value(metric: InternalMetric, record: object) -> float:
    value: float = getattr(record, metric.field)
    return value * NANOSECOND if metric.field.endswith("_ns") else int(value)


@dataclass(frozen=True)
class _Own:
    connections: int
    collectors_omitted: int
    up: int = 1
