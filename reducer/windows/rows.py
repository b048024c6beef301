"""Rows of all protocols in one form, so that they are matched and named in one way.

Everywhere an owner as `process` stands for process and cgroup. Rows of TCP and UDP sockets have the columns of a TCP
row, their protocol, and what only other protocols count; what a protocol has not is zero, and takes no memory. Rows of
DNS, HTTP, bins and drops keep their own columns, with the protocol of their flow.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from intake.columns import BIN_COLUMNS, DNS_COLUMNS, DROP_COLUMNS, HTTP_COLUMNS, TCP_COLUMNS, Column, constant

if TYPE_CHECKING:
    from intake.columns import Columns

IPPROTO_TCP: Final = 6
IPPROTO_UDP: Final = 17

_PROTOCOL = Column("protocol", np.dtype("u1"), "key")
_OWNER = Column("process", np.dtype("<u4"), "last")
ROW_COLUMNS = (
    *(column for column in TCP_COLUMNS if column.name not in ("cgroup", "age_ms")),
    _PROTOCOL,
    Column("drops", np.dtype("<u4"), "sum"),
    Column("time", np.dtype("<i8"), "least"),  # see `times`; of rows that became one, the first's
)


def _owned(columns: tuple[Column, ...]) -> tuple[Column, ...]:
    told = (column for column in columns if column.name not in ("process", "cgroup", "transport"))
    return (*told, _OWNER, _PROTOCOL)


SOCKETS: Final = "sockets"
TABLES = {
    SOCKETS: ROW_COLUMNS,
    "dns": _owned(DNS_COLUMNS),
    "http": _owned(HTTP_COLUMNS),
    "bins": _owned(BIN_COLUMNS),
    "drops": _owned(DROP_COLUMNS),
}
"""The columns of a window's rows, by table."""

TABLE_OF = {"tcp": SOCKETS, "udp": SOCKETS, "dns": "dns", "http": "http", "bins": "bins", "drops": "drops"}
"""The table of a window that the rows of each of the wire's tables go to."""

_PROTOCOLS = {"tcp": IPPROTO_TCP, "udp": IPPROTO_UDP, "http": IPPROTO_TCP}
# What tables of the wire call by another name, by the name here.
_NAMES = {"segments_sent": "packets_sent", "segments_received": "packets_received", "protocol": "transport"}


def uniform_rows(table: str, columns: Columns) -> Columns:
    """Return the rows of one of the wire's tables with the columns of its table in `TABLES`."""
    rows = len(columns["socket"])
    uniform = {}
    for column in TABLES[TABLE_OF[table]]:
        told = columns.get(column.name)
        if told is None:
            told = columns.get(_NAMES.get(column.name, ""))
        uniform[column.name] = constant(rows, column.dtype) if told is None else told
    if table in _PROTOCOLS:
        uniform["protocol"] = constant(rows, _PROTOCOL.dtype, _PROTOCOLS[table])
    return uniform


def times(columns: Columns, batch_ns: int) -> np.ndarray:
    """Return when the connections of rows opened or failed, where these say so, else the time of their batch, int64."""
    age_ms = columns.get("age_ms")
    if age_ms is None or not age_ms.any():
        return constant(len(columns["socket"]), np.dtype(np.int64), batch_ns)
    return np.asarray(batch_ns - age_ms.astype(np.int64) * 1_000_000)


def no_rows(table: str = SOCKETS) -> Columns:
    """Return a table without rows."""
    return {column.name: np.empty(0, column.dtype) for column in TABLES[table]}
