"""What the encoder `otlp_log` calls things: the events and attributes of each table and entity, defined once.

Names are those of OpenTelemetry's semantic conventions where these have one. Every other column or field is an
attribute of its own name: `ebpf_net.`, its table or entity, its name in intake.proto, which gives its meaning and unit.
"""

from __future__ import annotations

import math
import socket
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, NamedTuple

from ebpf_net.v1 import intake_pb2

from intake.addresses import ADDRESS_BYTES, address_text
from intake.clock import SECOND_NS
from intake.columns import TABLES

if TYPE_CHECKING:
    from collections.abc import Callable

    from google.protobuf.descriptor import FieldDescriptor
    from google.protobuf.message import Message

Value = str | int | float | bool | list[str]
Attributes = list[tuple[str, Value]]
"""Names and values; an attribute that is 0, empty or false is left out."""

_LONGEST_TEXT = 1_024
_NO_ADDRESS = bytes(ADDRESS_BYTES)


class ColumnAttributes(NamedTuple):
    """What a column of a table becomes.

    Attributes:
        column: its name.
        names: of the attributes, for what is written of them.
        values: gives the attributes of an element; None: the element is the value of the one attribute.

    """

    column: str
    names: tuple[str, ...]
    values: Callable[[Any], Attributes] | None = None


class RowEvent(NamedTuple):
    """What the rows of a table, or those of them with one value of `kind`, become.

    Attributes:
        name: of the event.
        table: of the rows.
        constants: attributes that all have.
        columns: the others.
        kind: the value, where it matters.

    """

    name: str
    table: str
    constants: Attributes
    columns: tuple[ColumnAttributes, ...]
    kind: int | None = None


class EntityEvent(NamedTuple):
    """What an entity becomes: the event's name, and the names of fields that are not `ebpf_net.ENTITY.FIELD`."""

    name: str
    entity: str
    message: type[Message]
    names: dict[str, str]

    def name_of(self, field: str) -> str:
        """Return the name of the attribute of a field."""
        return self.names.get(field, f"ebpf_net.{self.entity}.{field}")


def _address_text(packed: bytes) -> str:
    """Return an address as text; an empty one where it stands for none."""
    return "" if packed == _NO_ADDRESS or len(packed) != ADDRESS_BYTES else address_text(packed)


def _column(name: str, column: str) -> ColumnAttributes:
    return ColumnAttributes(column, (name,))


def _choice(name: str, column: str, choices: dict[int, str]) -> ColumnAttributes:
    return ColumnAttributes(column, (name,), lambda value: [(name, choices.get(value, ""))])


def _address(name: str, column: str) -> ColumnAttributes:
    return ColumnAttributes(column, (name,), lambda packed: [(name, _address_text(packed))])


def _flag(table: str, column: str) -> ColumnAttributes:
    name = f"ebpf_net.{table}.{column}"
    return ColumnAttributes(column, (name,), lambda value: [(name, bool(value))])


def _local_address(name: str, column: str) -> ColumnAttributes:
    def values(packed: bytes) -> Attributes:
        text = _address_text(packed)
        return [(name, text), ("network.type", text and ("ipv6" if ":" in text else "ipv4"))]

    return ColumnAttributes(column, (name, "network.type"), values)


def _latency_bounds(column: str, first: int) -> ColumnAttributes:
    """Return the bounds of the bin that is the column's value less *first*; none where it is less than that."""
    names = ("ebpf_net.latency.from_s", "ebpf_net.latency.to_s")

    def values(value: int) -> Attributes:
        return [(name, latency_s(value - first + i)) for i, name in enumerate(names) if value >= first]

    return ColumnAttributes(column, names, values)


def latency_s(number: int) -> float:
    """Return the least latency of a bin (BinKind in intake.proto), seconds."""
    return math.exp2(number / 8 - 30)


_STATUS_CODE = "http.response.status_code"
_TRANSPORTS = {socket.IPPROTO_TCP: "tcp", socket.IPPROTO_UDP: "udp"}
_ROLES = {int(intake_pb2.ROLE_CONNECTOR): "client", int(intake_pb2.ROLE_ACCEPTOR): "server"}
_FAILURES = {
    number: name.removeprefix("CONNECT_FAILURE_").lower()
    for name, number in intake_pb2.ConnectFailure.items()
    if number
}
# Not attributes of the row itself: what these refer to has its own.
PROCESS_COLUMN, CGROUP_COLUMN = "process", "cgroup"
_COLUMNS = {
    "socket": _column("ebpf_net.socket.cookie", "socket"),
    "network_namespace": _column("ebpf_net.network_namespace.inode", "network_namespace"),
    "local_address": _local_address("network.local.address", "local_address"),
    "remote_address": _address("network.peer.address", "remote_address"),
    "local_port": _column("network.local.port", "local_port"),
    "remote_port": _column("network.peer.port", "remote_port"),
    "role": _choice("ebpf_net.role", "role", _ROLES),
    "transport": _choice("network.transport", "transport", _TRANSPORTS),
    "failure": _choice("error.type", "failure", _FAILURES),
    "latency_bin": _latency_bounds("latency_bin", 1),
    "status": _column(_STATUS_CODE, "status"),
}
_DROP_COLUMNS = _COLUMNS | {
    "local_address": _local_address("source.address", "local_address"),
    "remote_address": _address("destination.address", "remote_address"),
    "local_port": _column("source.port", "local_port"),
    "remote_port": _column("destination.port", "remote_port"),
}
_TCP: Attributes = [("network.transport", "tcp")]
_DNS: Attributes = [("network.protocol.name", "dns")]
_HTTP: Attributes = [*_TCP, ("network.protocol.name", "http")]


def _own(table: str, column: str) -> ColumnAttributes:
    return _flag(table, column) if column == "baseline" else _column(f"ebpf_net.{table}.{column}", column)


def _row_event(
    name: str,
    table: str,
    constants: Attributes,
    columns: dict[str, ColumnAttributes] = _COLUMNS,
    *,
    kind: int | None = None,
    left_out: tuple[str, ...] = (),
) -> RowEvent:
    """Return the event of a table: constants take the place of the columns of the same name."""
    attributes = (columns.get(each.name) or _own(table, each.name) for each in TABLES[table])
    given = {name for name, _ in constants}
    not_own = {PROCESS_COLUMN, CGROUP_COLUMN, *left_out}
    own = tuple(each for each in attributes if each.column not in not_own and not given & set(each.names))
    return RowEvent(name, table, constants, own, kind)


_BINS = {"bin": _latency_bounds("bin", 0), "count": _column("ebpf_net.count", "count")}
_STATUS = _BINS | {"bin": _column(_STATUS_CODE, "bin")}

ROW_EVENTS = (
    _row_event("ebpf_net.tcp", "tcp", _TCP),
    _row_event("ebpf_net.udp", "udp", [("network.transport", "udp")]),
    _row_event("ebpf_net.dns", "dns", _DNS),
    _row_event("ebpf_net.http", "http", _HTTP),
    *(
        _row_event(name, "bins", constants, _COLUMNS | bins, kind=kind, left_out=("kind",))
        for name, constants, bins, kind in (
            ("ebpf_net.dns.latency", _DNS, _BINS, intake_pb2.BIN_KIND_DNS_LATENCY),
            ("ebpf_net.http.latency", _HTTP, _BINS, intake_pb2.BIN_KIND_HTTP_LATENCY),
            ("ebpf_net.http.status", _HTTP, _STATUS, intake_pb2.BIN_KIND_HTTP_STATUS),
        )
    ),
    _row_event("ebpf_net.drop", "drops", [], _DROP_COLUMNS),
)

_PROCESS = EntityEvent(
    "ebpf_net.process",
    "process",
    intake_pb2.Process,
    {
        "pid": "process.pid",
        "start_time_unix_ns": "process.creation.time",
        "name": "process.executable.name",
        "command_line": "process.command_line",
        "parent_pid": "process.parent_pid",
    },
)
_CGROUP = EntityEvent(
    "ebpf_net.cgroup",
    "cgroup",
    intake_pb2.Cgroup,
    {
        "pod_uid": "k8s.pod.uid",
        "container_id": "container.id",
        "runtime": "container.runtime.name",
        "container_name": "container.name",
        "image": "container.image.name",
        "kubernetes_container": "k8s.container.name",
        "kubernetes_pod": "k8s.pod.name",
        "kubernetes_namespace": "k8s.namespace.name",
        "ecs_task_family": "aws.ecs.task.family",
        "ecs_task_version": "aws.ecs.task.revision",
    },
)
_HOST = EntityEvent(
    "ebpf_net.host",
    "host",
    intake_pb2.Host,
    {
        "name": "host.name",
        "environment": "deployment.environment.name",
        "zone": "cloud.availability_zone",
        "addresses": "host.ip",
        "os": "os.name",
        "os_version": "os.version",
    },
)
_CLOUD = EntityEvent(
    "ebpf_net.host",
    "cloud",
    intake_pb2.Cloud,
    {
        "provider": "cloud.provider",
        "zone": "cloud.availability_zone",
        "instance_id": "host.id",
        "instance_type": "host.type",
        "account": "cloud.account.id",
    },
)
_DNS_NAME = EntityEvent(
    "ebpf_net.dns.name",
    "dns_name",
    intake_pb2.DnsName,
    {"name": "dns.question.name", "addresses": "dns.answers"},
)
_STATISTICS = EntityEvent("ebpf_net.collector", "collector", intake_pb2.CollectorStatistics, {})
_RING = EntityEvent("ebpf_net.collector.ring", "ring", intake_pb2.Ring, {})
_MAP = EntityEvent("ebpf_net.collector.map", "map", intake_pb2.BpfMap, {})
_PROGRAM = EntityEvent("ebpf_net.collector.program", "program", intake_pb2.BpfProgram, {})
_AGREEMENT = EntityEvent("ebpf_net.collector.agreement", "agreement", intake_pb2.Agreement, {})
_FIGURES = (_RING, _MAP, _PROGRAM, _AGREEMENT)
ENTITY_EVENTS = (_PROCESS, _CGROUP, _HOST, _CLOUD, _DNS_NAME, _STATISTICS, *_FIGURES)
_BY_MESSAGE = {event.message.DESCRIPTOR.name: event for event in ENTITY_EVENTS}

# Of the collector's statistics, what is told in records of its own.
FIGURES = ("rings", "maps", "programs", "agreements")
# What only the wire needs; a process's cgroup and a drop's reason are told by what they are.
REFERENCES = {"Cgroup.id", "Process.cgroup", *(f"CollectorStatistics.{name}" for name in FIGURES)}
# Of a process, what each row of it tells.
PROCESS_FIELDS = frozenset({"id", "pid", "name", "service"})
DROP_REASON = "ebpf_net.drops.reason"


def event_of(message: Message) -> EntityEvent:
    """Return the event of an entity, or of the collector's statistics."""
    return _BY_MESSAGE[message.DESCRIPTOR.name]


def attributes_of(message: Message, only: frozenset[str] | None = None) -> Attributes:
    """Return the attributes of an entity: of all its fields that are set, or of some."""
    event = event_of(message)
    found: Attributes = []
    for field, value in message.ListFields():
        if f"{message.DESCRIPTOR.name}.{field.name}" not in REFERENCES and (only is None or field.name in only):
            found += _attributes_of_field(event.name_of(field.name), field, value)
    return found


def _attributes_of_field(name: str, field: FieldDescriptor, value: Any) -> Attributes:
    match field.message_type.name if field.message_type else field.name:
        case "image":
            return _image(_bounded(value))
        case "Cloud":
            return attributes_of(value)
        case "start_time_unix_ns":
            value = _time_text(value)
        case "addresses":
            value = [_address_text(each) for each in value]
        case "Interface":
            value = [f"{each.name}={_address_text(address)}" for each in value for address in each.addresses]
        case "PublicAddress":
            value = [f"{_address_text(each.public)}={_address_text(each.private)}" for each in value]
    return [(name, _bounded(value))]


def _time_text(unix_ns: int) -> str:
    moment = datetime.fromtimestamp(unix_ns // SECOND_NS, UTC)
    return f"{moment:%Y-%m-%dT%H:%M:%S}.{unix_ns % SECOND_NS:09d}Z"


def _image(image: str) -> Attributes:
    """Return the name of an image and its tag; what is a digest stays with the name."""
    name, colon, tag = image.rpartition(":")
    if not colon or "/" in tag or "@" in name or name == "sha256":
        return [("container.image.name", image)]
    return [("container.image.name", name), ("container.image.tags", [tag])]


def _bounded(value: Any) -> Any:
    return value[:_LONGEST_TEXT] if isinstance(value, str) else value


def resource_attributes(host: intake_pb2.Host, version: str, machine: str, session_id: bytes) -> Attributes:
    """Return the attributes of the resource that all records are of."""
    named = {name: value for name, value in attributes_of(host) if not isinstance(value, list)}
    return [
        ("service.name", "kernel-collector"),
        ("service.version", version),
        ("service.instance.id", session_id.hex()),
        ("host.arch", {"x86_64": "amd64", "aarch64": "arm64"}.get(machine, machine)),
        ("os.type", "linux"),
        *((name, value) for name, value in named.items() if not name.startswith("ebpf_net.")),
    ]
