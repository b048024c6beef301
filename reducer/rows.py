"""Rows of all protocols in one form, so that they are matched, balanced and named in one way.

A row has the columns of a TCP row, but an owner as `process` stands for process and cgroup; its protocol; and what only
other protocols count. What a protocol has not is zero, and takes no memory.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from intake.columns import TCP_COLUMNS, Column

if TYPE_CHECKING:
    from intake.columns import Columns

IPPROTO_TCP: Final = 6
IPPROTO_UDP: Final = 17

ROW_COLUMNS = (
    *(column for column in TCP_COLUMNS if column.name != "cgroup"),
    Column("protocol", np.dtype("u1"), "key"),
    Column("drops", np.dtype("<u4"), "sum"),
)
PROTOCOLS = {"tcp": IPPROTO_TCP, "udp": IPPROTO_UDP}
# What other tables call by another name, by the name in `ROW_COLUMNS`.
_NAMES = {"segments_sent": "packets_sent", "segments_received": "packets_received"}


def uniform_rows(table: str, columns: Columns) -> Columns:
    """Return the rows of one of the wire's tables with `ROW_COLUMNS`."""
    rows = len(columns["socket"])
    uniform = {}
    for column in ROW_COLUMNS:
        told = columns.get(column.name)
        if told is None:
            told = columns.get(_NAMES.get(column.name, ""))
        uniform[column.name] = np.broadcast_to(np.zeros((), column.dtype), rows) if told is None else told
    uniform["protocol"] = np.broadcast_to(np.uint8(PROTOCOLS[table]), rows)
    return uniform


def no_rows() -> Columns:
    """Return a table without rows."""
    return {column.name: np.empty(0, column.dtype) for column in ROW_COLUMNS}
