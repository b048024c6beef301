"""Rows as collectors send them, and what is in them."""

from __future__ import annotations

import ipaddress

import numpy as np
from ebpf_net.v1 import intake_pb2

from intake.columns import TABLES, Columns, Message, empty_columns


def packed(address: str) -> bytes:
    """Return the 16 bytes of an address."""
    ip = ipaddress.ip_address(address)
    return ip.packed if ip.version == 6 else bytes(10) + b"\xff\xff" + ip.packed


def tcp_rows(*rows: dict) -> Columns:
    """Return a table: a dict a row, columns left out are zero; addresses as text."""
    return table_of("tcp", *rows)


def table_of(name: str, *rows: dict) -> Columns:
    """Return a table of this name, as `tcp_rows` does."""
    table = empty_columns(len(rows), name)
    for column in TABLES[name]:
        for index, row in enumerate(rows):
            if column.name in row:
                value = row[column.name]
                table[column.name][index] = np.void(packed(value)) if isinstance(value, str) else value
    return table


def packed_rows(table: str, columns: Columns) -> Message:
    """Return the message of a table, as `intake.batches` writes it: columns that are 0 throughout are left out."""
    message = getattr(intake_pb2.Batch(), table)
    message.rows = len(columns["socket"])
    for column in TABLES[table]:
        data = np.ascontiguousarray(columns[column.name], column.dtype).tobytes()
        if data.strip(b"\0"):
            setattr(message, column.name, data)
    return message


def session_id(number: int) -> bytes:
    """Return a session id."""
    return bytes([number + 1]) * 16
