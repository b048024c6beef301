"""A batch as it goes on the wire, written column by column into the compressor: it is never whole in memory."""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from ebpf_net.v1 import intake_pb2

from daemon.protobuf import field, head, varint
from intake.columns import TABLES, message_descriptor
from intake.compression import LEAST_BYTES, LEVEL

if TYPE_CHECKING:
    from intake.columns import Columns, Tables


class Encoded(NamedTuple):
    """A serialized FromCollector, and how many bytes it has before compression."""

    message: bytes
    length: int


def encoded(batch: intake_pb2.Batch, tables: Tables) -> Encoded:
    """Return *batch* with the rows of *tables*, compressed as `intake.compression.compress` does it.

    Columns that are zero throughout are left out.
    """
    parts: list[bytes | memoryview] = [batch.SerializeToString()]
    for table, columns in tables.items():
        if len(columns["socket"]):
            fields = _fields(table, columns)
            parts += [head(intake_pb2.Batch.DESCRIPTOR.fields_by_name[table].number, _length(fields)), *fields]
    parts.insert(0, head(intake_pb2.FromCollector.BATCH_FIELD_NUMBER, _length(parts)))
    length = _length(parts)
    if length < LEAST_BYTES:
        return Encoded(b"".join(parts), length)
    compressor = zlib.compressobj(LEVEL)
    content = [*map(compressor.compress, parts), compressor.flush()]
    return Encoded(field(intake_pb2.FromCollector.COMPRESSED_FIELD_NUMBER, *content), length)


def _fields(table: str, columns: Columns) -> list[bytes | memoryview]:
    """Return the serialized message of a table, in parts."""
    numbers = {field.name: field.number for field in message_descriptor(table).fields}
    parts: list[bytes | memoryview] = [varint(numbers["rows"] << 3) + varint(len(columns["socket"]))]
    for column in TABLES[table]:
        elements = np.ascontiguousarray(columns[column.name], column.dtype).view(np.uint8)
        if elements.any():
            parts += [head(numbers[column.name], len(elements)), elements.data]
    return parts


def _length(parts: list[bytes | memoryview]) -> int:
    return sum(map(len, parts))
