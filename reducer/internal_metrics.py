"""The table of the reducer's metrics about itself and its collectors; internal_export.py gives them to others.

The parts of the reducer know nothing of metrics: each has a record of statistics, and the table here says which field
of which record is which metric. A field that ends in `_ns` is a time, and is given in seconds unless its unit says
otherwise. Names are the reference's where it has the metric.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import islice
from operator import attrgetter
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Protocol

from ebpf_net.v1 import intake_pb2

from daemon.version import VERSION
from intake.clock import NANOSECOND_S, SECOND_NS
from intake.statistics import CLOUDS, KUBERNETES, PROCESS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

PREFIX = "ebpf_net"
# Those that connected last are left out beyond it.
MOST_COLLECTORS = 10_000
# Of all collectors together, of one kind.
MOST_FIGURES = 100_000
# The reference takes a collector for lost after that long without a word.
MOST_SILENCE_NS = 30 * SECOND_NS

Attributes = tuple[tuple[str, str], ...]


class InternalMetric(NamedTuple):
    """A metric: the value of *field* in the records of *group*; *called* where its name does not follow from these."""

    group: str
    field: str
    kind: Literal["counter", "gauge"]
    unit: str
    description: str
    called: str = ""

    @property
    def name(self) -> str:
        """Name by OpenTelemetry's rules."""
        return ".".join(filter(None, (PREFIX, self.called or self.group, "" if self.called else self._plain)))

    @property
    def _plain(self) -> str:
        return self.field.removesuffix("_ns")


class Family(NamedTuple):
    """The points of a metric: one for each of *holders*, which is the same object for metrics of the same group."""

    metric: InternalMetric
    holders: Sequence[Attributes]
    values: Sequence[float]


def _counter(group: str, field: str, unit: str, description: str, called: str = "") -> InternalMetric:
    return InternalMetric(group, field, "counter", unit, description, called)


def _gauge(group: str, field: str, unit: str, description: str, called: str = "") -> InternalMetric:
    return InternalMetric(group, field, "gauge", unit, description, called)


TABLE = (
    _gauge("", "up", "", "1: the reducer of this version runs."),
    _gauge("", "connections", "{collector}", "Collectors that are connected."),
    _gauge("", "collectors_omitted", "{collector}", "Collectors that are connected but too many to be told of here."),
    _counter("intake", "messages", "{message}", "Messages received from collectors."),
    _counter("intake", "batches", "{batch}", "Batches taken."),
    _counter("intake", "rows", "{row}", "Rows in the batches taken."),
    _counter("intake", "rows_of_twins", "{row}", "Rows left out: of a machine's second collector."),
    _counter("intake", "duplicates", "{batch}", "Batches that came again after a reconnect, and were ignored."),
    _counter("intake", "refused", "{batch}", "Batches and other messages that were refused as malformed."),
    _counter("intake", "rejected", "{connection}", "Connections that were not let in."),
    _counter("intake", "disconnects", "{connection}", "Connections of collectors that have ended.", "disconnects"),
    _counter("intake", "superseded", "{connection}", "Connections whose session another connection took over."),
    _counter("intake", "sessions_forgotten", "{session}", "Disconnected sessions forgotten since there were too many."),
    _counter("intake", "times_clamped", "{batch}", "Batches and heartbeats whose time was not believable."),
    _counter("intake", "strings_cut", "{string}", "Strings that were longer than is kept."),
    _counter("pipeline", "rows", "{row}", "Rows taken into windows."),
    _counter("pipeline", "rows_late", "{row}", "Rows that came after their window, and count in a later one."),
    _counter("pipeline", "rows_refused", "{row}", "Rows left out: a window's would add up to more than 2^56."),
    _counter("pipeline", "rows_loopback", "{row}", "Rows left out since their address is a loopback address."),
    _gauge("pipeline", "rows_open", "{row}", "Rows that wait for the end of their window."),
    _counter("pipeline", "windows", "{window}", "Windows sealed."),
    _gauge("pipeline", "flows", "{flow}", "Flows remembered."),
    _counter("pipeline", "flows_untracked", "{flow}", "Flows forgotten early since there were too many."),
    _counter("pipeline", "balances_cut", "{count}", "Counts that a flow's two ends differed in beyond belief."),
    _counter("pipeline", "addresses_unwatched", "{address}", "Machines' addresses whose flows may count again."),
    _counter("pipeline", "flows_of_docker_proxy", "{flow}", "Flows of docker-proxy to containers, which are left out."),
    _counter("pipeline", "ends_unknown", "{end}", "Ends of windows' flows that have no name, by `reason`."),
    _counter("pipeline", "ends_rolled_up", "{end}", "Ends not told apart by address since there were too many."),
    _counter("pipeline", "series_rolled_up", "{series}", "Series added to others since their level had too many."),
    _counter("pipeline", "flows_without_ports", "{flow}", "Flows told without ports, since there were too many."),
    _counter("pipeline", "processes_refused", "{process}", "Processes not named since there were too many."),
    _counter("pipeline", "cgroups_refused", "{cgroup}", "Containers and services not named since there were too many."),
    _gauge("pipeline", "request_balances", "{count}", "Counts of requests that a flow's two ends differ in so far."),
    _counter("pipeline", "request_balances_forgotten", "{count}", "Of these, those forgotten early: they may repeat."),
    _counter("pipeline", "receivers_forgotten", "{flow}", "Flows to many whose chosen receiver was forgotten early."),
    _counter("pipeline", "bytes_of_both", "By", "Payload of directions of flows that both ends told of."),
    _counter("pipeline", "bytes_apart", "By", "What both ends of these differed by when the flow was over."),
    _counter("pipeline", "entities_refused", "{entity}", "Pods, services, … not taken: too many, or without a uid."),
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
    _counter("otlp_grpc", "requests_sent", "{request}", "Requests that the OTLP receiver took."),
    _counter("otlp_grpc", "requests_failed", "{request}", "Attempts to send that failed; they are made again."),
    _counter("otlp_grpc", "requests_refused", "{request}", "Requests that the receiver will not take; they are lost."),
    _counter("otlp_grpc", "points_sent", "{point}", "Points that the receiver took.", "otlp_grpc.metrics_sent"),
    _counter("otlp_grpc", "points_refused", "{point}", "Points in those lost.", "otlp_grpc.metrics_failed"),
    _counter("otlp_grpc", "points_rejected", "{point}", "Points that it rejected of requests that it took."),
    _counter("otlp_grpc", "bytes_sent", "By", "Size of the requests sent, before compression."),
    _counter("otlp_grpc", "bytes_refused", "By", "Size of the requests lost.", "otlp_grpc.bytes_failed"),
    _counter("flow_files", "windows_written", "{window}", "Windows of flows written to files."),
    _gauge("flow_files", "windows_waiting", "{window}", "Windows of flows that wait to be written."),
    _counter("flow_files", "windows_dropped", "{window}", "Windows of flows lost since they could not be written."),
    _counter("flow_files", "flows_written", "{flow}", "Flows written to files."),
    _counter("flow_files", "flows_dropped", "{flow}", "Flows in the windows lost."),
    _gauge("prometheus", "series", "{series}", "Series that Prometheus is given."),
    _counter(
        "prometheus", "series_forgotten", "{series}", "Idle series that were forgotten early to make room for new ones."
    ),
    _counter("prometheus", "rows_untracked", "{row}", "Rows of windows without a series, since there were too many."),
)

SESSION_TABLE = (
    _gauge(
        "session",
        "connected",
        "{connection}",
        "1 for each collector that is connected, with what it says of itself.",
        "pipeline_agent_connections",
    ),
    _gauge("session", "unhealthy", "", "0: the collector was heard of in the last 30 s; else 1.", "collector_health"),
    _gauge("session", "silent_ns", "ns", "Since the collector's last message.", "time_since_last_message_ns"),
    _gauge(
        "session",
        "clock_offset_ns",
        "ns",
        "What is added to the collector's clock to get the reducer's.",
        "clock_offset_ns",
    ),
)
"""The metrics of each connection of a collector, with the attributes `host` and `kind`."""

COLLECTOR_TABLE = (
    _counter("collector", "events_lost", "{event}", "Kernel events that found the ring buffer full."),
    _counter("collector", "sockets_untracked", "{socket}", "Sockets not tracked since the table was full."),
    _gauge("collector", "sockets_tracked", "{socket}", "Sockets tracked."),
    _gauge("collector", "processes_tracked", "{process}", "Processes tracked."),
    _counter("collector", "processes_untracked", "{process}", "Processes not named since there were too many."),
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
    *(InternalMetric("collector", *each) for each in (*PROCESS, *KUBERNETES, *CLOUDS)),
    _counter(
        "collector", "udp_packets_untracked", "{packet}", "UDP packets not counted since the kernel's table was full."
    ),
    _counter(
        "collector",
        "udp_packets_of_other_peers",
        "{packet}",
        "UDP packets counted without their peer since their socket had too many.",
    ),
    _counter("collector", "dns_messages_malformed", "{message}", "DNS messages that are none."),
    _counter("collector", "dns_messages_untracked", "{message}", "DNS messages not counted since there were too many."),
    _counter("collector", "dns_answers_unmatched", "{answer}", "DNS answers to no open query: late, or sent again."),
    _counter("collector", "dns_answers_unread", "{answer}", "DNS answers not read since there were too many."),
    _counter("collector", "dns_streams_lost", "{time}", "Times that the DNS messages of a connection were lost."),
    _gauge("collector", "dns_queries_open", "{query}", "DNS queries without an answer yet."),
    _gauge("collector", "dns_addresses_named", "{address}", "Addresses whose DNS name is known."),
    _counter(
        "collector", "dns_addresses_forgotten", "{address}", "DNS names forgotten before their time, being too many."
    ),
    _counter("collector", "http_sockets_untracked", "{packet}", "HTTP packets not counted for want of memory."),
    _counter("collector", "http_heads_unknown", "{head}", "Other things where an HTTP message was expected."),
    _counter("collector", "http_requests_untimed", "{request}", "HTTP requests without latency: too many unanswered."),
    _counter("collector", "http_packets_cut", "{packet}", "Packets with too many HTTP messages to follow them all."),
    _counter("collector", "http_statuses_untold", "{response}", "HTTP responses whose status is told by class alone."),
    _counter("collector", "http_places_taken", "{socket}", "HTTP sockets that cost more: their first place was taken."),
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
"""The metrics that each collector tells of itself, with the attributes `host` and `kind`."""

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
    about: Attributes
    clock_offset_ns: int
    heard_unix_ns: int
    statistics: intake_pb2.CollectorStatistics | None


@dataclass(frozen=True)
class Snapshot:
    """The reducer's records of statistics by group, such as `intake`; a group that is not there has no metrics.

    A group may be a mapping from attributes to records. A field may be a mapping from reasons to values.
    Metrics whose names are not `wanted` are left out.
    """

    groups: Mapping[str, object]
    collectors: Sequence[Collector]
    time_unix_ns: int = 0
    wanted: Callable[[str], bool] = bool  # true of every name


def families(snapshot: Snapshot) -> Iterator[Family]:
    """Yield the wanted metrics of *snapshot* that have points."""
    return (family for family in _all_families(snapshot) if snapshot.wanted(family.metric.name))


def _all_families(snapshot: Snapshot) -> Iterator[Family]:
    by_name = {(collector.host, collector.kind): collector for collector in snapshot.collectors}
    connected = list(by_name.values())[:MOST_COLLECTORS]
    own = _Own(connections=len(snapshot.collectors), collectors_omitted=len(snapshot.collectors) - len(connected))
    groups = {name: group if isinstance(group, dict) else {(): group} for name, group in snapshot.groups.items()}
    groups[""] = {(("module", "reducer"), ("version", VERSION)): own}
    yield from _families(TABLE, {name: (list(group), list(group.values())) for name, group in groups.items()})
    names = [_name(collector) for collector in connected]
    sessions = [_Session(snapshot.time_unix_ns, collector) for collector in connected]
    about = [(*name, *collector.about) for name, collector in zip(names, connected, strict=True)]
    yield from _families(SESSION_TABLE[:1], {"session": (about, sessions)})
    yield from _families(SESSION_TABLE[1:], {"session": (names, sessions)})
    telling = [collector for collector in connected if collector.statistics is not None]
    told = ([_name(collector) for collector in telling], [collector.statistics for collector in telling])
    yield from _families(COLLECTOR_TABLE, {"collector": told})
    for name, (label, metrics) in FIGURES.items():
        figures = list(islice(_figures(name, label, telling), MOST_FIGURES))
        group = ([holder for holder, _ in figures], [figure for _, figure in figures])
        for metric in metrics:
            yield from (
                _ratios(metric, figures) if metric.field == "ratio" else _families([metric], {metric.group: group})
            )


def _families(
    table: Sequence[InternalMetric], groups: Mapping[str, tuple[Sequence[Attributes], Sequence[object]]]
) -> Iterator[Family]:
    for metric in table:
        holders, records = groups.get(metric.group, ((), ()))
        if holders:
            values = list(map(attrgetter(metric.field), records))
            if isinstance(values[0], dict):
                told = [
                    (holder, *item) for holder, value in zip(holders, values, strict=True) for item in value.items()
                ]
                holders = [(*holder, ("reason", reason)) for holder, reason, _ in told]
                values = [count for _, _, count in told]
            scaled = [value * NANOSECOND_S for value in values] if metric.unit == "s" else list(map(int, values))
            if scaled:
                yield Family(metric, holders, scaled)


def _figures(name: str, label: str, collectors: Sequence[Collector]) -> Iterator[tuple[Attributes, Any]]:
    for collector in collectors:
        holder = _name(collector)
        # A program of the collector may be loaded twice: the last is told.
        by_name = {_name_of(figure): figure for figure in getattr(collector.statistics, name)}
        for told, figure in by_name.items():
            yield (*holder, (label, told)), figure


def _name_of(figure: Any) -> str:
    told: str = figure.measure if isinstance(figure, intake_pb2.Agreement) else figure.name
    return told


def _ratios(metric: InternalMetric, agreements: Sequence[tuple[Attributes, Any]]) -> Iterator[Family]:
    """Yield how each agrees, nothing where the kernel has counted nothing."""
    counted = [(holder, each.counted / each.counted_by_kernel) for holder, each in agreements if each.counted_by_kernel]
    if counted:
        yield Family(metric, [holder for holder, _ in counted], [ratio for _, ratio in counted])


def _name(collector: Collector) -> Attributes:
    kind = collector.kind.removeprefix("COLLECTOR_KIND_").lower()
    return (("host", collector.host), ("kind", kind))


@dataclass(frozen=True)
class _Own:
    connections: int
    collectors_omitted: int
    up: int = 1


class _Session:
    """What is told of a connection at a time."""

    connected = 1

    def __init__(self, now_unix_ns: int, collector: Collector) -> None:
        self.silent_ns = max(0, now_unix_ns - collector.heard_unix_ns)
        self.unhealthy = int(self.silent_ns > MOST_SILENCE_NS)
        self.clock_offset_ns = collector.clock_offset_ns
