"""How large a message may be, and the checks of what came from the network."""

from __future__ import annotations

from ebpf_net.v1 import intake_pb2

from intake.columns import MalformedRowsError, Tables, unpack_tables

MOST_MESSAGE_BYTES = 16 << 20
# 9.2 MiB of columns. A column that is absent costs no bytes on the wire but memory here: so no more than this.
MOST_ROWS = 65_536
MOST_ENTITY_BYTES = 4 << 20
MOST_PROCESSES = 65_536
MOST_CGROUPS = 16_384
MOST_ADDRESSES = 1_024
LONGEST_LABEL = 256
LONGEST_COMMAND_LINE = 1_024
# What a row may say at most, so that sums of rows stay within int64 whatever a collector sends.
GREATEST_VALUE = 1 << 48
# Numbers stay within int64, for those who store them.
GREATEST_NUMBER = 1 << 62

_VALUES = (
    *("bytes_sent", "bytes_received", "segments_sent", "segments_received", "packets_sent", "packets_received"),
    *("srtt_sum_us", "connect_sum_us", "latency_sum_us", "bytes"),
)
_CGROUP_LABELS = {field.name for field in intake_pb2.Cgroup.DESCRIPTOR.fields} - {"id"}
_CLOUD_LABELS = [field.name for field in intake_pb2.Cloud.DESCRIPTOR.fields if field.name != "addresses"]
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
        for name in _ENUMERATED.keys() & rows.keys():
            if rows[name].max() > (greatest := _ENUMERATED[name]):
                raise MalformedMessageError(f"column {name} holds {rows[name].max()}: the greatest known is {greatest}")
        for name in rows.keys() & _VALUES:
            if rows[name].max() > GREATEST_VALUE:
                raise MalformedMessageError(f"column {name} holds {rows[name].max()}: a row has at most 2^48")
    return tables


def check_entities(entities: intake_pb2.Entities) -> None:
    """Refuse more entities than a collector can have.

    Raises:
        MalformedMessageError: there are too many.

    """
    for what, found, most in (
        ("processes", entities.processes, MOST_PROCESSES),
        ("retired processes", entities.retired_processes, MOST_PROCESSES),
        ("cgroups", entities.cgroups, MOST_CGROUPS),
        ("retired cgroups", entities.retired_cgroups, MOST_CGROUPS),
    ):
        if len(found) > most:
            raise MalformedMessageError(f"{len(found)} {what} in a message: at most {most} are taken")


def cut_entities(entities: intake_pb2.Entities) -> int:
    """Cut strings that are too long, in place; return how many were."""
    cut = 0
    for process in entities.processes:
        if len(process.command_line) > LONGEST_COMMAND_LINE:
            process.command_line = process.command_line[:LONGEST_COMMAND_LINE]
            cut += 1
        for name in ("name", "service"):
            cut += _cut_label(process, name)
    for cgroup in entities.cgroups:
        for name in _CGROUP_LABELS:
            cut += _cut_label(cgroup, name)
    return cut + cut_host(entities.host) if entities.HasField("host") else cut


def cut_host(host: intake_pb2.Host) -> int:
    """Cut labels that are too long and leave out addresses that are none, in place; return how many were."""
    cut = 0
    for field, value in host.ListFields():
        if isinstance(value, str):
            cut += _cut_label(host, field.name)
    addresses = [address for address in host.addresses if len(address) == 16][:MOST_ADDRESSES]  # noqa: PLR2004
    cut += len(host.addresses) - len(addresses)
    host.addresses[:] = addresses
    for name in _CLOUD_LABELS if host.HasField("cloud") else ():
        cut += _cut_label(host.cloud, name)
    pairs = [pair for pair in host.cloud.addresses if len(pair.public) == len(pair.private) == 16][:MOST_ADDRESSES]  # noqa: PLR2004
    if len(pairs) < len(host.cloud.addresses):
        cut += len(host.cloud.addresses) - len(pairs)
        kept = [intake_pb2.PublicAddress(public=pair.public, private=pair.private) for pair in pairs]
        del host.cloud.addresses[:]
        host.cloud.addresses.extend(kept)
    return cut


def _cut_label(message: intake_pb2.Host | intake_pb2.Cloud | intake_pb2.Process | intake_pb2.Cgroup, name: str) -> int:
    value: str = getattr(message, name)
    if len(value) <= LONGEST_LABEL:
        return 0
    setattr(message, name, value[:LONGEST_LABEL])
    return 1


def fitting(entities: intake_pb2.Entities) -> intake_pb2.Entities:
    """Return *entities*; where a message could not hold them, without command lines and what Docker said."""
    if entities.ByteSize() <= MOST_ENTITY_BYTES:
        return entities
    short = intake_pb2.Entities()
    short.CopyFrom(entities)
    for process in short.processes:
        process.ClearField("command_line")
    for cgroup in short.cgroups:
        for name in _CGROUP_LABELS - {"service", "pod_uid", "container_id", "runtime"}:
            cgroup.ClearField(name)
    return short
