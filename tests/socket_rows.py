"""The rows that a table of sockets makes of records, for tests of what it is made of."""

from __future__ import annotations

import numpy as np

from intake.columns import TCP_COLUMNS
from kernel_collector.bpf.records import TcpRecordKind
from tests.tcp_records import tcp_records

START = 1_000_000
LIVE, CONNECT, ESTABLISHED, LISTENING, CLOSED, RESET_SENT = TcpRecordKind
SERVER = {"local_port": 80, "remote_port": 40_000}


def rows_of(table, *records, processes=None, now=0):
    """The rows of an update, as mappings without the columns that are 0."""
    ids = np.array(processes or [0] * len(records), np.uint32)
    columns = table.update(tcp_records(*records), ids, now)
    return as_rows(columns)


def as_rows(columns):
    assert {name: column.dtype for name, column in columns.items()} == {c.name: c.dtype for c in TCP_COLUMNS}
    return [
        {name: column[i].item() for name, column in columns.items() if column[i].item() not in (0, bytes(16))}
        for i in range(len(columns["socket"]))
    ]


def at(microseconds):
    return START + 1 + microseconds * 1000
