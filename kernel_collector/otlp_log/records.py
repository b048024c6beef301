"""Rows and entities as OTLP log records, encoded in columns: no Python statement runs once a row.

All records of a table are one matrix of bytes: a row a record, side by side the bytes of each attribute, as wide as
the widest of them needs; and a mask of the same shape that tells which bytes are there. What the mask leaves, row after
row, goes on the wire. A number is a varint as long as the column's greatest value needs, padded as protobuf allows.
"""

from __future__ import annotations

import functools
import gzip
import os
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import AnyValue, ArrayValue, InstrumentationScope, KeyValue
from opentelemetry.proto.logs.v1.logs_pb2 import SEVERITY_NUMBER_INFO, LogRecord, ResourceLogs, ScopeLogs
from opentelemetry.proto.resource.v1.resource_pb2 import Resource

from daemon.protobuf import LENGTH_DELIMITED, field, head
from daemon.version import VERSION
from kernel_collector.otlp_log.attributes import (
    CGROUP_COLUMN,
    DROP_REASON,
    FIGURES,
    PROCESS_COLUMN,
    PROCESS_FIELDS,
    ROW_EVENTS,
    attributes_of,
    event_of,
    resource_attributes,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from ebpf_net.v1 import intake_pb2
    from google.protobuf.message import Message

    from intake.columns import Columns, Tables
    from kernel_collector.otlp_log.attributes import Attributes, RowEvent, Value

MOST_REQUEST_BYTES = 1 << 20
# Of which the matrices are made at once: a few megabytes.
_ROWS_AT_ONCE = 1_024
_GZIP_LEVEL = 1
# Of a record's length: enough for 2 MiB.
_LENGTH_BYTES = 3
_GREATEST = (1 << 63) - 1
_SCOPE = ScopeLogs(scope=InstrumentationScope(name="ebpf-net", version=VERSION)).SerializeToString()
_LOG_RECORDS = ScopeLogs.DESCRIPTOR.fields_by_name["log_records"].number
_ATTRIBUTES = LogRecord.DESCRIPTOR.fields_by_name["attributes"].number
_SCOPE_LOGS = ResourceLogs.DESCRIPTOR.fields_by_name["scope_logs"].number
_RESOURCE_LOGS = ExportLogsServiceRequest.DESCRIPTOR.fields_by_name["resource_logs"].number

Block = tuple[np.ndarray, np.ndarray]
"""Bytes and mask, both of the shape (rows, width)."""


class Request(NamedTuple):
    """An ExportLogsServiceRequest, compressed by gzip; how many records, and what is counted when it is lost."""

    body: bytes
    records: int
    rows: int
    payload_bytes: int


class LogRecords:
    """Makes requests of what a collector submits; keeps what rows refer to from one call to the next.

    Args:
        host: of the resource; it may come to say more.
        session_id: of this run of the collector.

    """

    def __init__(self, host: intake_pb2.Host, session_id: bytes) -> None:
        self._host = host
        self._session_id = session_id
        self._processes: dict[int, bytes] = {}
        self._process_cgroups: dict[int, int] = {}
        self._cgroups: dict[int, bytes] = {}
        self._drop_reasons: dict[int, str] = {}

    def encode(
        self,
        time_unix_ns: int,
        entities: intake_pb2.Entities,
        tables: Tables,
        statistics: intake_pb2.CollectorStatistics | None,
    ) -> Iterator[Request]:
        """Yield the requests that hold all this; arguments as for `CollectorSession.submit`."""
        self._refer(entities)
        packer = _Packer(self._resource())
        moment = LogRecord(
            time_unix_nano=time_unix_ns, observed_time_unix_nano=time_unix_ns, severity_number=SEVERITY_NUMBER_INFO
        )
        told = [*entities.processes, *entities.cgroups, *entities.dns_names]
        told += [entities.host] if entities.HasField("host") else []
        for message in told:
            yield from packer.add(_entity_record(moment, message))
        for event in ROW_EVENTS:
            for rows in _slices(_rows_of(event, tables.get(event.table))):
                yield from packer.add(_joined(self._blocks(event, rows, moment)), rows)
        if statistics:
            for message in (statistics, *(figure for name in FIGURES for figure in getattr(statistics, name))):
                yield from packer.add(_entity_record(moment, message))
        yield from packer.finish()
        self._forget(entities)

    def _resource(self) -> bytes:
        attributes = resource_attributes(self._host, VERSION, os.uname().machine, self._session_id)
        return ResourceLogs(resource=Resource(attributes=_key_values(attributes))).SerializeToString()

    def _refer(self, entities: intake_pb2.Entities) -> None:
        for process in entities.processes:
            self._processes[process.id] = encoded(attributes_of(process, PROCESS_FIELDS))
            self._process_cgroups[process.id] = process.cgroup
        for cgroup in entities.cgroups:
            self._cgroups[cgroup.id] = encoded(attributes_of(cgroup))
        self._drop_reasons.update((reason.number, reason.name) for reason in entities.drop_reasons)

    def _forget(self, entities: intake_pb2.Entities) -> None:
        for number in entities.retired_processes:
            self._processes.pop(number, None)
            self._process_cgroups.pop(number, None)
        for number in entities.retired_cgroups:
            self._cgroups.pop(number, None)

    def _blocks(self, event: RowEvent, rows: Columns, moment: LogRecord) -> Iterator[Block]:
        count = len(rows["socket"])
        shared = LogRecord(event_name=event.name, attributes=_key_values(event.constants))
        shared.MergeFrom(moment)
        yield _looked_up([shared.SerializeToString()], np.zeros(count, np.intp))
        if PROCESS_COLUMN in rows:
            yield self._process_block(rows[PROCESS_COLUMN])
            yield self._cgroup_block(rows[PROCESS_COLUMN], rows[CGROUP_COLUMN])
        for column in event.columns:
            values = rows[column.column]
            if column.names == (DROP_REASON,):
                yield _by_value(values, lambda n: [(DROP_REASON, self._drop_reasons.get(n, str(n)))])
            elif column.values:
                yield _by_value(values, column.values)
            else:
                yield _numbers(column.names[0], values)

    def _process_block(self, processes: np.ndarray) -> Block:
        known, which = np.unique(processes, return_inverse=True)
        return _looked_up([self._processes.get(number, b"") for number in known.tolist()], which)

    def _cgroup_block(self, processes: np.ndarray, cgroups: np.ndarray) -> Block:
        """Look up the sockets' own cgroups; where nothing is known of one, that of the process."""
        known, which = np.unique(processes, return_inverse=True)
        of_process = np.array([self._process_cgroups.get(number, 0) for number in known.tolist()], np.uint64)[which]
        told = np.fromiter(self._cgroups, np.uint64, len(self._cgroups))
        known, which = np.unique(np.where(np.isin(cgroups, told), cgroups, of_process), return_inverse=True)
        return _looked_up([self._cgroups.get(number, b"") for number in known.tolist()], which)


class _Packer:
    """Fills requests up to a size with records, one after the other."""

    def __init__(self, resource: bytes) -> None:
        self._resource = resource
        self._clear()

    def _clear(self) -> None:
        self._parts: list[bytes] = []
        self._size = self._records = self._rows = self._payload_bytes = 0

    def add(self, records: tuple[bytes, np.ndarray], rows: Columns | None = None) -> Iterator[Request]:
        """Add encoded *records*, which end where the array says, of *rows* if given; yield what is full."""
        data, ends = records
        payload = _payload(rows, len(ends))
        begin, first = 0, 0
        while first < len(ends):
            last = int(np.searchsorted(ends, begin + MOST_REQUEST_BYTES - self._size, "right"))
            if last <= first and self._parts:
                yield from self.finish()
                continue
            last = max(last, first + 1)
            end = int(ends[last - 1])
            self._parts.append(data[begin:end])
            self._size += end - begin
            self._records += last - first
            self._rows += last - first if rows else 0
            self._payload_bytes += int(payload[first:last].sum())
            begin, first = end, last

    def finish(self) -> Iterator[Request]:
        """Yield what is left."""
        if self._parts:
            scope_size = len(_SCOPE) + self._size
            scope_head = head(_SCOPE_LOGS, scope_size)
            request_head = head(_RESOURCE_LOGS, len(self._resource) + len(scope_head) + scope_size)
            body = b"".join((request_head, self._resource, scope_head, _SCOPE, *self._parts))
            compressed = gzip.compress(body, _GZIP_LEVEL, mtime=0)
            yield Request(compressed, self._records, self._rows, self._payload_bytes)
            self._clear()


def _payload(rows: Columns | None, count: int) -> np.ndarray:
    if rows and "bytes_sent" in rows:
        return rows["bytes_sent"] + rows["bytes_received"]
    return np.zeros(count, np.uint64)


def _rows_of(event: RowEvent, rows: Columns | None) -> Columns | None:
    if rows is None or event.kind is None:
        return rows
    chosen = rows["kind"] == event.kind
    return {name: column[chosen] for name, column in rows.items()}


def _slices(rows: Columns | None) -> Iterator[Columns]:
    for start in range(0, len(rows["socket"]) if rows else 0, _ROWS_AT_ONCE):
        yield {name: column[start : start + _ROWS_AT_ONCE] for name, column in (rows or {}).items()}


def encoded(attributes: Attributes) -> bytes:
    """Return attributes as they stand in an encoded LogRecord, without those that are 0, empty or false."""
    return b"".join(_key_value(name, value) for name, value in attributes if value)


def _key_value(name: str, value: Value) -> bytes:
    # Most are strings, some of them one a row: a message for each would take five times as long.
    any_value = field(1, value.encode()) if isinstance(value, str) else _any_value(value).SerializeToString()
    return field(_ATTRIBUTES, _key(name), field(2, any_value))


@functools.cache
def _key(name: str) -> bytes:
    return field(1, name.encode())


def _key_values(attributes: Iterable[tuple[str, Value]]) -> Iterator[KeyValue]:
    return (KeyValue(key=name, value=_any_value(value)) for name, value in attributes if value)


def _any_value(value: Value) -> AnyValue:
    match value:
        case bool():
            return AnyValue(bool_value=value)
        case str():
            return AnyValue(string_value=value)
        case int():
            return AnyValue(int_value=min(value, _GREATEST))
        case float():
            return AnyValue(double_value=value)
        case _:
            return AnyValue(array_value=ArrayValue(values=[_any_value(each) for each in value]))


def _entity_record(moment: LogRecord, message: Message) -> tuple[bytes, np.ndarray]:
    record = LogRecord(event_name=event_of(message).name, attributes=_key_values(attributes_of(message)))
    record.MergeFrom(moment)
    data = record.SerializeToString()
    data = head(_LOG_RECORDS, len(data)) + data
    return data, np.array([len(data)])


def _joined(blocks: Iterable[Block]) -> tuple[bytes, np.ndarray]:
    """Return the records whose parts *blocks* are, one after the other, and where each ends, int64."""
    matrices, masks = zip(*blocks, strict=True)
    content = np.concatenate(masks, axis=1)
    lengths = content.sum(axis=1)
    tag = np.full((len(lengths), 1), _LOG_RECORDS << 3 | LENGTH_DELIMITED, np.uint8)
    prefix = np.concatenate((tag, _varints(lengths, _LENGTH_BYTES)), axis=1)
    records = np.concatenate((prefix, *matrices), axis=1)
    mask = np.concatenate((np.ones(prefix.shape, np.bool_), content), axis=1)
    return records[mask].tobytes(), np.cumsum(lengths + prefix.shape[1])


def _varints(numbers: np.ndarray, width: int) -> np.ndarray:
    """Return numbers as varints of *width* bytes each, padded by bytes of no value."""
    shifts = np.arange(0, 7 * width, 7, dtype=np.uint64)
    parts = (numbers.astype(np.uint64)[:, None] >> shifts & np.uint64(0x7F)).astype(np.uint8)
    parts[:, :-1] |= 0x80
    return parts


def _numbers(name: str, values: np.ndarray) -> Block:
    """Return the attribute *name* with each of *values*, absent where it is 0."""
    numbers = np.minimum(values.astype(np.uint64), np.uint64(_GREATEST))
    width = max(1, -(-int(numbers.max()).bit_length() // 7))
    # The value is an attribute's last part, so one of this width shows what stands before it.
    matrix = np.tile(np.frombuffer(encoded([(name, 1 << 7 * (width - 1))]), np.uint8), (len(numbers), 1))
    matrix[:, -width:] = _varints(numbers, width)
    return matrix, np.broadcast_to((numbers != 0)[:, None], matrix.shape)


def _by_value(column: np.ndarray, attributes: Callable[[Any], Attributes]) -> Block:
    """Return the attributes of each element, made once for each different one."""
    if column.dtype.kind != "V":
        known, which = np.unique(column, return_inverse=True)
        return _looked_up([encoded(attributes(value)) for value in known.tolist()], which)
    # Bytes that compare; their zeros at the end are put back.
    known, which = np.unique(np.ascontiguousarray(column).view(f"S{column.dtype.itemsize}"), return_inverse=True)
    padded = (value.ljust(column.dtype.itemsize, b"\0") for value in known.tolist())
    return _looked_up([encoded(attributes(value)) for value in padded], which)


def _looked_up(parts: list[bytes], which: np.ndarray) -> Block:
    """Return for each element of *which* the part of that index."""
    width = max(map(len, parts))
    matrix = np.frombuffer(b"".join(part.ljust(width, b"\0") for part in parts), np.uint8).reshape(len(parts), width)
    mask = np.arange(width) < np.fromiter(map(len, parts), np.int64, len(parts))[:, None]
    return matrix[which], mask[which]
