"""How large a message may be, and the checks of what came from the network."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

import numpy as np
from ebpf_net.v1 import intake_pb2
from google.protobuf.message import Message

from intake.addresses import ADDRESS_BYTES
from intake.columns import MalformedRowsError, Tables, is_constant, unpack_tables

if TYPE_CHECKING:
    from collections.abc import MutableMapping

    from google.protobuf.descriptor import FieldDescriptor

MOST_MESSAGE_BYTES = 16 << 20
# 9.2 MiB of columns. A column that is absent costs no bytes on the wire but memory here: so no more than this.
MOST_ROWS = 65_536
MOST_ENTITY_BYTES = 4 << 20
MOST_PROCESSES = 65_536
MOST_CGROUPS = 16_384
# Entities of any other kind in a message.
MOST_ENTITIES = 65_536
# Addresses, ports, containers, labels of a host or an entity.
MOST_PARTS = 1_024
# Rings, maps, programs and measures in the statistics of a collector.
MOST_FIGURES = 64
# Of a machine; more are a mistake.
MOST_PUBLIC_ADDRESSES = 64
LONGEST_LABEL = 256
LONGEST_COMMAND_LINE = 1_024
# What a row, and all rows of a batch together, may say at most, so that no sum of many batches leaves int64.
GREATEST_VALUE = 1 << 48
GREATEST_SUM = 1 << 50
# Numbers stay within int64, for those who store them.
GREATEST_NUMBER = 1 << 62

_MOST_FRAME_BYTES = 4  # of a message in another: its number and length

_VALUES = {
    *("bytes_sent", "bytes_received", "segments_sent", "segments_received", "packets_sent", "packets_received"),
    *("srtt_sum_us", "connect_sum_us", "latency_sum_us", "bytes"),
}
_CGROUP_LABELS = {field.name for field in intake_pb2.Cgroup.DESCRIPTOR.fields} - {"id"}
_MOST = {"cgroups": MOST_CGROUPS, "retired_cgroups": MOST_CGROUPS}
# Of what a message of this kind holds.
_MOST_OF = {"Entities": MOST_ENTITIES, "CollectorStatistics": MOST_FIGURES, "Cloud": MOST_PUBLIC_ADDRESSES}
# Messages whose numbers are all figures, no ids.
_FIGURES = {"CollectorStatistics"} | {
    field.message_type.name for field in intake_pb2.CollectorStatistics.DESCRIPTOR.fields if field.message_type
}
_MAPS = {
    field.name
    for field in intake_pb2.Pod.DESCRIPTOR.fields
    if field.message_type and field.message_type.GetOptions().map_entry
}
_ENUMERATED = {
    "role": max(intake_pb2.Role.values()),
    "failure": max(intake_pb2.ConnectFailure.values()),
    "baseline": 1,
    "kind": max(intake_pb2.BinKind.values()),
}


class MalformedMessageError(ValueError):
    """A message that cannot be taken; the text says why."""


def checked_rows(batch: intake_pb2.Batch) -> Tables:
    """Return the tables of *batch* that have rows.

    Raises:
        MalformedMessageError: its number, entities or rows are not within the limits, or the rows are no table.

    """
    if not 0 < batch.number <= GREATEST_NUMBER:
        raise MalformedMessageError(f"batch number {batch.number} is not from 1 to 2^62")
    check_entities(batch.entities)
    try:
        tables = unpack_tables(batch, MOST_ROWS)
    except MalformedRowsError as error:
        raise MalformedMessageError(str(error)) from error
    for rows in tables.values():
        present = {name for name, column in rows.items() if not is_constant(column)}  # the others are 0
        for name in _ENUMERATED.keys() & present:
            if rows[name].max() > (greatest := _ENUMERATED[name]):
                raise MalformedMessageError(f"column {name} holds {rows[name].max()}: the greatest known is {greatest}")
        for name in present & _VALUES:
            if rows[name].max() > GREATEST_VALUE:
                raise MalformedMessageError(f"column {name} holds {rows[name].max()}: a row has at most 2^48")
            if (told := rows[name].sum(dtype=np.float64)) > GREATEST_SUM:
                raise MalformedMessageError(f"column {name} adds up to {told:.4g}: a batch has at most 2^50")
    return tables


def check_entities(entities: intake_pb2.Entities) -> None:
    """Refuse more entities than a collector can have.

    Raises:
        MalformedMessageError: there are too many.

    """
    for field, found in entities.ListFields():
        most = _MOST.get(field.name, MOST_ENTITIES)
        if not isinstance(found, Message) and len(found) > most:
            what = field.name.replace("_", " ")
            raise MalformedMessageError(f"{len(found)} {what} in a message: at most {most} are taken")


def cut(message: Message) -> int:
    """Cut strings, lists and numbers that are too long or large, and leave out addresses that are none, in place.

    So in the messages within it. Interfaces of a host, of which the reducer makes nothing, go.

    Returns:
        How many were cut or left out.

    """
    found = 0
    if isinstance(message, intake_pb2.Host):
        message.ClearField("interfaces")
    for field, value in message.ListFields():
        if isinstance(value, str):
            found += _cut_text(message, field.name, value)
        elif isinstance(value, Message):
            found += cut(value)
        elif not isinstance(value, int):
            found += _cut_list(field, value)
        elif value > GREATEST_NUMBER and (field.name.endswith("_time_unix_ns") or message.DESCRIPTOR.name in _FIGURES):
            setattr(message, field.name, GREATEST_NUMBER)
            found += 1
    return found


def _cut_text(message: Message, name: str, value: str) -> int:
    longest = LONGEST_COMMAND_LINE if name == "command_line" else LONGEST_LABEL
    if len(value) <= longest:
        return 0
    # Of a name of the DNS the end tells more: the domain.
    setattr(message, name, value[-longest:] if isinstance(message, intake_pb2.DnsName) else value[:longest])
    return 1


def _cut_list(field: FieldDescriptor, values: Any) -> int:
    if field.name in _MAPS:
        return _cut_map(values)
    parts = field.message_type
    most = _MOST_OF.get(field.containing_type.name, MOST_PARTS) if field.containing_type else MOST_PARTS
    if parts is None:
        return _keep(values, [value for value in values if _fits(field, value)][:most])
    if parts is intake_pb2.PublicAddress.DESCRIPTOR:
        return _keep(values, [each for each in values if len(each.public) == len(each.private) == ADDRESS_BYTES][:most])
    excess = max(0, len(values) - most)
    if excess:
        del values[most:]
    return excess + sum(map(cut, values))


def _fits(field: FieldDescriptor, value: Any) -> bool:
    if field.type == field.TYPE_BYTES:
        return len(value) == ADDRESS_BYTES
    return field.type != field.TYPE_STRING or len(value) <= LONGEST_LABEL


def _cut_map(labels: MutableMapping[str, str]) -> int:
    told = list(labels.items())
    kept = [(name, text) for name, text in told if len(name) <= LONGEST_LABEL >= len(text)][:MOST_PARTS]
    if len(kept) < len(told):
        labels.clear()
        labels.update(kept)
    return len(told) - len(kept)


def _keep(values: Any, kept: list[Any]) -> int:
    """Let a list of a message hold what is *kept* of it alone; return how many are not."""
    left_out: int = len(values) - len(kept)
    if left_out:
        copies = [copy.copy(value) for value in kept]
        del values[:]
        values.extend(copies)
    return left_out


def fitting(entities: intake_pb2.Entities) -> intake_pb2.Entities:
    """Return *entities*; where a message could not hold them, without command lines and what Docker said.

    Of the names of the DNS as many as find room then, those from the end on.
    """
    if entities.ByteSize() <= MOST_ENTITY_BYTES:
        return entities
    short = intake_pb2.Entities()
    short.CopyFrom(entities)
    for process in short.processes:
        process.ClearField("command_line")
    for cgroup in short.cgroups:
        for name in _CGROUP_LABELS - {"service", "pod_uid", "container_id", "runtime"}:
            cgroup.ClearField(name)
    if short.ByteSize() > MOST_ENTITY_BYTES:
        _keep_last_names(short)
    return short


def _keep_last_names(entities: intake_pb2.Entities) -> None:
    """Keep of the names of the DNS as many as find room, from the end on."""
    names = list(entities.dns_names)
    del entities.dns_names[:]
    room = MOST_ENTITY_BYTES - entities.ByteSize()
    kept = len(names)
    while kept and (room := room - names[kept - 1].ByteSize() - _MOST_FRAME_BYTES) >= 0:
        kept -= 1
    entities.dns_names.extend(names[kept:])
