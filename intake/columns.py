"""The columns of rows on the wire, defined once: name, element type, and how rows of one socket are added up.

The names are the fields of the protobuf message; its comments give units and meaning.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
from ebpf_net.v1 import intake_pb2

if TYPE_CHECKING:
    from collections.abc import Mapping

Merge = Literal["key", "last", "sum", "max", "least"]
"""How two rows of the same keys become one: `least` is the smaller of those that are not 0."""

Columns = dict[str, np.ndarray]
"""A table: a column a name, all of one length."""


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
)


class MalformedRowsError(ValueError):
    """Columns that are no table: the message says which column and why."""


def empty_columns(rows: int = 0) -> Columns:
    """Return a table of *rows* rows of zeros."""
    return {column.name: np.zeros(rows, column.dtype) for column in TCP_COLUMNS}


def pack_tcp_sockets(columns: Mapping[str, np.ndarray]) -> intake_pb2.TcpSockets:
    """Return the message of a table; columns that are zero throughout are left out."""
    rows = len(columns["socket"])
    message = intake_pb2.TcpSockets(rows=rows)
    for column in TCP_COLUMNS:
        data = np.ascontiguousarray(columns[column.name], column.dtype).tobytes()
        if data.strip(b"\0"):
            setattr(message, column.name, data)
    return message


def unpack_tcp_sockets(message: intake_pb2.TcpSockets, most_rows: int) -> Columns:
    """Return the table of a message: views of its bytes, read-only.

    Raises:
        MalformedRowsError: it has more than *most_rows* rows, or a column whose length is not that of its rows.

    """
    if message.rows > most_rows:
        raise MalformedRowsError(f"{message.rows} rows in a batch: at most {most_rows} are taken")
    columns: Columns = {}
    for column in TCP_COLUMNS:
        data = getattr(message, column.name)
        expected = message.rows * column.dtype.itemsize
        if data and len(data) != expected:
            raise MalformedRowsError(f"column {column.name} has {len(data)} bytes: {message.rows} rows need {expected}")
        columns[column.name] = np.frombuffer(data or bytes(expected), column.dtype)
    return columns
