"""The columns of rows on the wire, defined once: name, element type, and how rows of one socket are added up.

The names are the fields of the protobuf message; its comments give units and meaning.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
from ebpf_net.v1 import intake_pb2

if TYPE_CHECKING:
    from collections.abc import Sequence

    from google.protobuf.descriptor import Descriptor

Merge = Literal["key", "last", "sum", "max", "least"]
"""How two rows of the same keys become one: `least` is the smaller of those that are not 0."""

Columns = dict[str, np.ndarray]
"""A table: a column a name, all of one length."""

Tables = dict[str, Columns]
"""The tables of a batch, by their names in `TABLES`; those without rows may be left out."""


@dataclass(frozen=True)
class Column:
    """A column: its name, the numpy dtype of its elements and its rule for merging."""

    name: str
    dtype: np.dtype
    merge: Merge


def _column(name: str, dtype: str, merge: Merge) -> Column:
    return Column(name, np.dtype(dtype), merge)


TCP_COLUMNS = (
    _column("socket", "<u8", "key"),
    _column("process", "<u4", "last"),
    _column("cgroup", "<u8", "last"),
    _column("network_namespace", "<u4", "key"),
    _column("local_address", "V16", "key"),
    _column("remote_address", "V16", "key"),
    _column("local_port", "<u2", "key"),
    _column("remote_port", "<u2", "key"),
    _column("role", "u1", "last"),
    _column("baseline", "u1", "max"),
    _column("bytes_sent", "<u8", "sum"),
    _column("bytes_received", "<u8", "sum"),
    _column("segments_sent", "<u8", "sum"),
    _column("segments_received", "<u8", "sum"),
    _column("retransmits", "<u4", "sum"),
    _column("srtt_sum_us", "<u8", "sum"),
    _column("srtt_count", "<u4", "sum"),
    _column("min_rtt_us", "<u4", "least"),
    _column("connect_sum_us", "<u8", "sum"),
    _column("connect_count", "<u4", "sum"),
    _column("opened", "<u4", "sum"),
    _column("closed", "<u4", "sum"),
    _column("resets_sent", "<u4", "sum"),
    _column("resets_received", "<u4", "sum"),
    _column("syn_timeouts", "<u4", "sum"),
    _column("failed", "<u4", "sum"),
    _column("failure", "u1", "key"),
    _column("age_ms", "<u4", "max"),
)

_SOCKET_COLUMNS = (
    _column("socket", "<u8", "key"),
    _column("process", "<u4", "last"),
    _column("cgroup", "<u8", "last"),
    _column("network_namespace", "<u4", "key"),
    _column("local_address", "V16", "key"),
    _column("remote_address", "V16", "key"),
    _column("local_port", "<u2", "key"),
    _column("remote_port", "<u2", "key"),
)

UDP_COLUMNS = (
    *_SOCKET_COLUMNS,
    _column("baseline", "u1", "max"),
    _column("bytes_sent", "<u8", "sum"),
    _column("bytes_received", "<u8", "sum"),
    _column("packets_sent", "<u8", "sum"),
    _column("packets_received", "<u8", "sum"),
    _column("drops", "<u4", "sum"),
)

DNS_RESULTS = ("noerror", "nodata", "formerr", "servfail", "nxdomain", "notimp", "refused", "other")
DNS_COLUMNS = (
    *_SOCKET_COLUMNS,
    _column("transport", "u1", "key"),
    _column("role", "u1", "key"),
    *(_column(name, "<u4", "sum") for name in ("queries", "retransmits", "timeouts", *DNS_RESULTS)),
    _column("latency_sum_us", "<u8", "sum"),
    _column("latency_count", "<u4", "sum"),
    _column("latency_bin", "<u2", "key"),
)

HTTP_STATUSES = ("status_2xx", "status_3xx", "status_4xx", "status_5xx", "status_other")
HTTP_COLUMNS = (
    *_SOCKET_COLUMNS,
    _column("role", "u1", "key"),
    *(_column(name, "<u4", "sum") for name in ("requests", *HTTP_STATUSES)),
    _column("latency_sum_us", "<u8", "sum"),
    _column("latency_count", "<u4", "sum"),
    _column("latency_bin", "<u2", "key"),
    _column("status", "<u2", "key"),
)

BIN_COLUMNS = (
    *_SOCKET_COLUMNS,
    *(_column(name, "u1", "key") for name in ("transport", "role", "kind")),
    _column("bin", "<u2", "key"),
    _column("count", "<u4", "sum"),
)

DROP_COLUMNS = (
    *(column for column in _SOCKET_COLUMNS if column.merge == "key"),
    _column("transport", "u1", "key"),
    _column("reason", "<u2", "key"),
    _column("packets", "<u4", "sum"),
    _column("bytes", "<u8", "sum"),
)

TABLES = {
    "tcp": TCP_COLUMNS,
    "udp": UDP_COLUMNS,
    "dns": DNS_COLUMNS,
    "http": HTTP_COLUMNS,
    "bins": BIN_COLUMNS,
    "drops": DROP_COLUMNS,
}
"""The columns of each table, by the name that the table has in a Batch."""

Message = (
    intake_pb2.TcpSockets
    | intake_pb2.UdpSockets
    | intake_pb2.DnsSockets
    | intake_pb2.HttpSockets
    | intake_pb2.Bins
    | intake_pb2.Drops
)


class MalformedRowsError(ValueError):
    """Columns that are no table: the message says which column and why."""


def empty_columns(rows: int = 0, table: str = "tcp") -> Columns:
    """Return a table of *rows* rows of zeros."""
    return {column.name: np.zeros(rows, column.dtype) for column in TABLES[table]}


def whole(table: str, columns: Columns) -> Columns:
    """Return a table of which some *columns* are given, in the types of the wire; the others are 0."""
    rows = len(columns["socket"])
    return {
        column.name: columns[column.name].astype(column.dtype)
        if column.name in columns
        else np.zeros(rows, column.dtype)
        for column in TABLES[table]
    }


def stacked(parts: Sequence[Columns]) -> Columns:
    """Return the rows of *parts*, at least one, which all have the same columns, one after the other."""
    first, *others = [part for part in parts if len(part["socket"])] or parts[:1]
    return {name: np.concatenate([part[name] for part in (first, *others)]) for name in first} if others else first


def message_descriptor(table: str) -> Descriptor:
    """Return what protobuf says of a table's message."""
    descriptor: Descriptor = getattr(intake_pb2.Batch(), table).DESCRIPTOR
    return descriptor


def constant(rows: int, dtype: np.dtype, value: int = 0) -> np.ndarray:
    """Return a column of one value in every row; it takes no memory, and cannot be written to."""
    element = np.array(value, dtype).tobytes() if value else bytes(dtype.itemsize)
    return np.ndarray(rows, dtype, element, strides=(0,))


def is_constant(column: np.ndarray) -> bool:
    """Whether a column is one that `constant` made."""
    return column.strides == (0,)


def words(column: np.ndarray) -> np.ndarray:
    """Return a column with addresses as pairs of uint64."""
    if column.dtype.kind != "V":
        return column
    return constant(2 * len(column), np.dtype(np.uint64)) if is_constant(column) else column.view(np.uint64)


def unpack_rows(table: str, message: Message, most_rows: int) -> Columns:
    """Return the table of a message: views of its bytes, read-only; those that are absent are `constant`.

    Raises:
        MalformedRowsError: it has more than *most_rows* rows, or a column whose length is not that of its rows.

    """
    if message.rows > most_rows:
        raise MalformedRowsError(f"{message.rows} rows in a batch: at most {most_rows} are taken")
    columns: Columns = {}
    for column in TABLES[table]:
        data = getattr(message, column.name)
        expected = message.rows * column.dtype.itemsize
        if not data:
            columns[column.name] = constant(message.rows, column.dtype)
        elif len(data) == expected:
            columns[column.name] = np.frombuffer(data, column.dtype)
        else:
            raise MalformedRowsError(f"column {column.name} has {len(data)} bytes: {message.rows} rows need {expected}")
    return columns


def unpack_tables(batch: intake_pb2.Batch, most_rows: int) -> Tables:
    """Return the tables of *batch* that have rows.

    Raises:
        MalformedRowsError: they have more than *most_rows* rows together, or one is no table.

    """
    tables: Tables = {}
    for table in TABLES:
        message = getattr(batch, table)
        if batch.HasField(table):
            columns = unpack_rows(table, message, most_rows)
            if message.rows:
                tables[table] = columns
    if rows_of(batch) > most_rows:
        raise MalformedRowsError(f"{rows_of(batch)} rows in a batch: at most {most_rows} are taken")
    return tables


def rows_of(batch: intake_pb2.Batch) -> int:
    """Return how many rows all tables of *batch* say that they have."""
    return sum(getattr(batch, table).rows for table in TABLES)
