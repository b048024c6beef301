"""A window's flows as log records of OTLP, encoded in columns: no Python statement runs once a record.

A record has the body of the reference's, 13 fields with a space between them, names that would not be one field quoted
as in JSON, and as attributes the labels and ports of
both ends, and the metrics of the flow, by their names and in their units. Attributes of one group of metrics, those
that exist for the same flows, are bytes that all records share; the values are scattered into the joined bytes. Field
numbers are those of opentelemetry/proto/logs/v1/logs.proto and common.proto.
"""

from __future__ import annotations

import json
import struct
from itertools import groupby, repeat
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import polars as pl

from daemon.protobuf import FIXED64, attributes, field, head, varint
from reducer.outputs.ends import EncodedEnds
from reducer.outputs.flow_records import PROTOCOLS, FlowRecords, flow_level
from reducer.outputs.flow_values import (
    DROPS,
    LATENCIES,
    QUANTILES,
    drop_reasons_of,
    flow_values,
    latency_column,
)
from reducer.outputs.metric import (
    MICROSECONDS,
    Distribution,
    Instrument,
    Metric,
    Points,
    column,
    counter,
    positive,
)
from reducer.outputs.metrics import METRICS
from reducer.outputs.otlp import MOST_REQUEST_BYTES, SCOPE
from reducer.outputs.request import Request, Signal
from reducer.outputs.resource import RESOURCE
from reducer.outputs.wire_columns import padded_varints

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from reducer.columns.series import FlowLevel, SealedWindow
    from reducer.outputs.conventions import Attribute
    from reducer.outputs.metric import Column

_ATTRIBUTES, _BODY = 6, 5
_SEVERITY_INFO = varint(2 << 3) + varint(9) + field(3, b"INFO")
_VARINT = 0
# Of AnyValue: int_value and double_value.
_VALUE_TAG = {"int": varint(3 << 3 | _VARINT), "double": varint(4 << 3 | FIXED64)}
# An integer takes all ten bytes that a varint may have, so that records have the same length whatever their values.
_VALUE_BYTES = {"int": 10, "double": 8}
_ENVELOPE_BYTES = 32
_BODY_FIELDS = (
    *("source_ip", "source_workload_name", "dest_ip", "dest_workload_name", "tcp_bytes", "tcp_srtt_count"),
    *("tcp_active", "rtt", "tcp_packets", "tcp_retransmits", "tcp_syn_timeouts", "tcp_opened", "tcp_resets"),
)


_BODY_NAMES = ("source_workload_name", "dest_workload_name")
# What a name is quoted for: it would be several fields, none, or what stands for none, or seem quoted.
_NOT_A_FIELD = r'^$|^-$|^"|[\s\pC]'


def _quoted(names: pl.Series) -> pl.Series:
    """Return names as fields of a body: those that would not be one as strings of JSON."""
    told = names.cast(pl.String)
    odd = told.filter(told.str.contains(_NOT_A_FIELD)).unique().to_list()
    return told.replace(odd, [json.dumps(name, ensure_ascii=False) for name in odd]) if odd else told


def _seconds(of_column: str) -> Column:
    return lambda values: values[of_column] / MICROSECONDS


def _flow_metrics() -> Iterator[Metric]:
    """Yield what flows have besides the points of metrics, as metrics."""
    for end in ("source", "dest"):
        port = Points(column(f"{end}_port"), positive(f"{end}_port"))
        yield Metric(f"{end}.port", "1", Instrument.GAUGE, "int", "Port of an end.", (port,))
    for name in DROPS:
        yield counter(name.replace("_", "."), "1", "What was dropped.", name, positive(name))
    names = {metric.sparse.kind: metric.name for metric in METRICS if isinstance(metric.sparse, Distribution)}
    for latency, kind in LATENCIES.items():
        for quantile in QUANTILES:
            of_flow = latency_column(latency, quantile)
            points = Points(_seconds(of_flow), positive(of_flow))
            yield Metric(f"{names[kind]}.{quantile}", "s", Instrument.GAUGE, "double", "A latency.", (points,))


class _Value(NamedTuple):
    """A metric's value among the attributes of a group: where its bytes begin in the group's."""

    points: Points
    number: str
    at: int


class _Group(NamedTuple):
    """The attributes that exist for the same flows."""

    values: list[_Value]
    template: bytes


class FlowLogEncoder:
    """Encodes the flows of windows; keeps the encoded labels of ends from one to the next."""

    def __init__(
        self,
        most_records: int | None = None,
        metrics: Sequence[Metric] = METRICS,
        most_bytes: int = MOST_REQUEST_BYTES,
        resource: bytes = RESOURCE,
    ) -> None:
        self._resource = resource
        self._most_records = most_records
        self._most_bytes = most_bytes - len(resource) - len(SCOPE) - _ENVELOPE_BYTES
        self._records = FlowRecords()
        self._ends = EncodedEnds(_record_attributes)
        self._groups = _groups((*metrics, *_flow_metrics()))
        # What stands before a body, and before a record, of each length.
        self._body_heads: list[bytes] = []
        self._record_heads: list[bytes] = []

    def encode(self, window: SealedWindow) -> list[Request]:
        """Return the requests that hold a record for each flow of *window*; none where there are no flows."""
        self._ends.update(window.ends)
        level = flow_level(window)
        if not len(level.source):
            return []
        values = level.values | flow_values(level)
        pieces = self._pieces(window, level, values)
        lengths = np.array([np.fromiter(map(len, piece), np.int64, len(piece)) for piece in pieces])
        # The head of a record is not part of its length.
        pieces[0] = _heads(self._record_heads, 2, lengths.sum(axis=0))
        lengths[0] = np.fromiter(map(len, pieces[0]), np.int64, len(pieces[0]))
        flat: list[bytes] = [b""] * lengths.size
        for place, piece in enumerate(pieces):
            flat[place :: len(pieces)] = piece
        joined = np.frombuffer(bytearray().join(flat), np.uint8)
        ends = np.cumsum(lengths.T).reshape(-1, len(pieces))
        for place, group in enumerate(self._groups, len(pieces) - len(self._groups)):
            rows = np.flatnonzero(lengths[place])
            if len(rows):
                _scatter(joined, ends[rows, place] - len(group.template), group, values, rows)
        return self._requests(joined.data, ends[:, -1])

    def _pieces(self, window: SealedWindow, level: FlowLevel, values: dict[str, np.ndarray]) -> list[Sequence[bytes]]:
        """Return the parts of the records one after the other, each a list with an element a record."""
        count = len(level.source)
        bodies = list(map(str.encode, self._bodies(window)))
        sizes = np.fromiter(map(len, bodies), np.int64, count)
        times = struct.pack("<BQBQ", 1 << 3 | FIXED64, window.end_ns, 11 << 3 | FIXED64, window.end_ns)
        az_equal = self._ends.az_equal(level.source, level.dest)
        reasons = [_record_attributes((("drops.reason", name),)) for name in window.drop_reasons]
        reasons.append(b"")  # of `NO_REASON`
        groups = [
            list(map((b"", group.template).__getitem__, group.values[0].points.exists(values).tolist()))
            for group in self._groups
        ]
        return [
            [b""] * count,
            [times + _SEVERITY_INFO] * count,
            _heads(self._body_heads, _BODY, sizes),
            bodies,
            list(map(self._ends.source.__getitem__, level.source.tolist())),
            list(map(self._ends.dest.__getitem__, level.dest.tolist())),
            list(map(self._ends.zones.__getitem__, az_equal.tolist())),
            list(map(_PROTOCOLS.get, level.protocol.tolist(), repeat(b""))),
            list(map(reasons.__getitem__, drop_reasons_of(level.bins, count).tolist())),
            *groups,
        ]

    def _bodies(self, window: SealedWindow) -> list[str]:
        rtt_s = pl.col("tcp_srtt_sum_us") / pl.col("tcp_srtt_count").clip(1) / 1e6
        table = self._records.table(window).with_columns(rtt=rtt_s)
        table = table.with_columns(_quoted(table[name]) for name in _BODY_NAMES)
        fields = [pl.col(name).cast(pl.String).fill_null("-") for name in _BODY_FIELDS]
        texts: list[str] = table.select(pl.concat_str(fields, separator=" ")).to_series().to_list()
        return texts

    def _requests(self, records: memoryview, ends: np.ndarray) -> list[Request]:
        requests = []
        begin, first = 0, 0
        while first < len(ends):
            last = int(np.searchsorted(ends, begin + self._most_bytes, "right"))
            last = min(max(last, first + 1), first + (self._most_records or len(ends)))
            end = int(ends[last - 1])
            scope_head = head(2, len(SCOPE) + end - begin)
            request_head = head(1, len(self._resource) + len(scope_head) + len(SCOPE) + end - begin)
            body = b"".join((request_head, self._resource, scope_head, SCOPE, records[begin:end]))
            requests.append(Request(last - first, body, Signal.LOGS))
            begin, first = end, last
        return requests


def _record_attributes(labels: tuple[Attribute, ...]) -> bytes:
    return attributes(_ATTRIBUTES, labels)


_PROTOCOLS = {number: _record_attributes((("protocol", name),)) for number, name in PROTOCOLS.items()}


def _heads(known: list[bytes], number: int, lengths: np.ndarray) -> list[bytes]:
    """Return what stands before each of *lengths* bytes of a field, of a body those of its text as an AnyValue."""
    for length in range(len(known), int(lengths.max()) + 1):
        text = head(1, length) if number == _BODY else b""
        known.append(head(number, len(text) + length) + text)
    return list(map(known.__getitem__, lengths.tolist()))


def _groups(metrics: Sequence[Metric]) -> list[_Group]:
    """Return the attributes of *metrics*, those of the same flows together."""
    points = [(metric, points) for metric in metrics for points in metric.points]
    groups = []
    for _, members in groupby(points, lambda pair: pair[1].exists):
        values, template = [], b""
        for metric, of_metric in members:
            name = ".".join((metric.name, *(value for _, value in of_metric.attributes)))
            size = _VALUE_BYTES[metric.number]
            value = _VALUE_TAG[metric.number] + bytes(size)
            template += field(_ATTRIBUTES, field(1, name.encode()), field(2, value))
            values.append(_Value(of_metric, metric.number, len(template) - size))
        groups.append(_Group(values, template))
    return groups


def _scatter(
    joined: np.ndarray, begins: np.ndarray, group: _Group, values: dict[str, np.ndarray], rows: np.ndarray
) -> None:
    """Write the values of the *rows* that have *group*; its attributes are from *begins* on."""
    for value in group.values:
        number = value.points.value(values)[rows]
        encoded = (
            padded_varints(number, _VALUE_BYTES["int"])
            if value.number == "int"
            else number.astype("<f8").view(np.uint8).reshape(-1, 8)
        )
        joined[(begins + value.at)[:, None] + np.arange(encoded.shape[1])] = encoded
