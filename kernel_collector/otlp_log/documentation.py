"""Writes docs/otlp-log.md: names are those of attributes.py, meanings and units those of intake.proto's comments."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from intake.columns import TABLES, message_descriptor
from kernel_collector.otlp_log.attributes import DROP_REASON, ENTITY_EVENTS, REFERENCES, ROW_EVENTS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from kernel_collector.otlp_log.attributes import ColumnAttributes

DOCUMENTATION = """# The encoder otlp_log

With `EBPF_NET_INTAKE_ENCODER=otlp_log` a collector needs no reducer: it sends all that it would have told it to an
OpenTelemetry Collector, or to whatever takes OTLP logs, as log records, by HTTP and protobuf, to `/v1/logs` at
`EBPF_NET_INTAKE_HOST:EBPF_NET_INTAKE_PORT`.

- Every five seconds a record for each socket and peer that did something, one for the collector itself, and one for
  each process, container and service that is new, or of which more is known now.
- What a record is about is its event name; its body is empty, its severity INFO. A row tells its process and container
  by attributes of its own, so that it can be understood by itself.
- Counters count from the record of the same socket before. An attribute that is 0, empty or false is left out.
- Requests of at most 1 MiB, compressed by gzip to a twentieth of it, are sent one after the other. One that the
  receiver cannot take now (no connection, no answer within 10 s, status 429, 502, 503, 504) waits, in 16 MiB of memory
  at most, and is sent again after a pause that grows to 15 s, or as long as the receiver says (`Retry-After`, up to a
  minute). Beyond 16 MiB the oldest are lost, and counted (`ebpf_net.collector.spool_rows_dropped`,
  `spool_bytes_dropped`). Any other status loses the request (`batches_refused`), and is logged.
- `--intake-tls-ca` and the other `--intake-tls-*` switch on TLS, `--intake-token-file` sends `Authorization: Bearer …`.

Attributes of the resource: `service.name` (`kernel-collector`), `service.version`, `service.instance.id`, `host.name`,
`host.arch`, `host.id`, `host.type`, `os.type`, `os.name`, `os.version`, `deployment.environment.name`,
`cloud.provider`, `cloud.availability_zone`, `cloud.account.id`, as far as they are known.

Attributes of all records of sockets, besides those below: of the process `process.pid`, `process.executable.name`,
`ebpf_net.process.id` and `ebpf_net.process.service`; of the container or service all those of `ebpf_net.cgroup`.

The file is made by `python -m kernel_collector.otlp_log.documentation` from the names in
`kernel_collector/otlp_log/attributes.py` and the comments in `proto/ebpf_net/v1/intake.proto`.
{sections}"""
# Of what the wire has in another form.
_MEANINGS = {
    "network.local.address": "Address of this end.",
    "network.peer.address": "Address of the other end; left out where peers are not told apart.",
    "network.local.port": "Port of this end.",
    "network.peer.port": "Port of the other end.",
    "source.address": "Address that the packet came from.",
    "destination.address": "Address that the packet was for.",
    "source.port": "Port that the packet came from.",
    "destination.port": "Port that the packet was for.",
    "network.type": "`ipv4` or `ipv6`.",
    "network.transport": "`tcp` or `udp`.",
    "ebpf_net.role": "`client`: this end connected, or asks; `server`: it accepted, or answers.",
    "error.type": "Why connects failed: `refused`, `timed_out`, `unreachable`, `reset`, `cancelled`, `no_local_port`, "
    "`other`.",
    "ebpf_net.latency.from_s": "Least latency that is counted here, seconds; absent: they have records of their own.",
    "ebpf_net.latency.to_s": "Least latency that is not any more, seconds.",
    "http.response.status_code": "Status of the responses counted here; absent: they have records of their own.",
    "ebpf_net.count": "How many there were.",
    DROP_REASON: "The kernel's reason, by its name there, e.g. `TCP_INVALID_SEQUENCE`; else its number.",
    "process.creation.time": "RFC 3339, with nanoseconds.",
    "container.image.name": "Without its tag, which is in `container.image.tags` (string[]).",
    "host.ip": "Addresses that others can reach.",
    "dns.answers": "Addresses that the name was answered with.",
    "ebpf_net.host.interfaces": "NAME=ADDRESS for each.",
    "ebpf_net.cloud.addresses": "PUBLIC=PRIVATE for each.",
}
_WIRE_TYPE = re.compile(r"^u\d+(: |$)")
_FIELD = re.compile(r"^  (?:repeated )?\w+ (\w+) = \d+;$")
_MESSAGES = {table: message_descriptor(table).name for table in TABLES}


def documentation(proto: str) -> str:
    """Return the text of docs/otlp-log.md, from the text of intake.proto."""
    meanings = dict(_meanings(proto))
    rows: dict[str, list[tuple[str, str, str]]] = {}
    for row_event in ROW_EVENTS:
        constants = [(name, "string", f"`{value}`") for name, value in row_event.constants]
        table = row_event.table
        rows[row_event.name] = constants + [
            (name, _type_of_column(table, column, name), _meaning(meanings, table, column.column, name))
            for column in row_event.columns
            for name in column.names
        ]
    for event in ENTITY_EVENTS:
        rows.setdefault(event.name, []).extend(
            (
                name,
                _type_of_field(field),
                _MEANINGS.get(name) or meanings.get((event.message.DESCRIPTOR.name, field.name), ""),
            )
            for field in event.message.DESCRIPTOR.fields
            for name in (event.name_of(field.name),)
            if f"{event.message.DESCRIPTOR.name}.{field.name}" not in REFERENCES and field.name != "cloud"
        )
    return DOCUMENTATION.format(sections="".join(_section(name, attributes) for name, attributes in rows.items()))


def _section(event: str, attributes: list[tuple[str, str, str]]) -> str:
    lines = "\n".join(f"| `{name}` | {type_} | {meaning} |" for name, type_, meaning in attributes)
    return f"\n## {event}\n\n| attribute | type | meaning |\n|---|---|---|\n{lines}\n"


def _meaning(meanings: dict[tuple[str, str], str], table: str, column: str, name: str) -> str:
    own = meanings.get((_MESSAGES[table], column), "")
    told = meanings[("TcpSockets", column)] if own.startswith("As in TcpSockets") else own
    told = _WIRE_TYPE.sub("", told)
    return _MEANINGS.get(name) or told[:1].upper() + told[1:]


def _type_of_column(table: str, column: ColumnAttributes, name: str) -> str:
    if column.values is None:
        return "string" if name == DROP_REASON else "int"
    dtype = {each.name: each.dtype for each in TABLES[table]}[column.column]
    value = dict(column.values(bytes([1] * 16) if dtype.kind == "V" else 1))[name]
    if isinstance(value, bool):
        return "bool"
    return "double" if isinstance(value, float) else "string"


def _type_of_field(field: Any) -> str:
    if field.type in {field.TYPE_BYTES, field.TYPE_MESSAGE}:
        return "string[]"
    return "string" if field.type == field.TYPE_STRING or field.name == "start_time_unix_ns" else "int"


def _meanings(proto: str) -> Iterator[tuple[tuple[str, str], str]]:
    """Yield for message and field what the comment before it says; one of columns is for all that follow it as well.

    Where it tells types, it tells them one column after the other.
    """
    message, parts = "", [""]
    lines: list[str] = []
    for line in proto.splitlines():
        if line.startswith("message "):
            message, lines, parts = line.split()[1], [], [""]
        elif line.startswith("  //"):
            lines.append(line.removeprefix("  // "))
        elif found := _FIELD.match(line):
            if lines:
                parts = re.split(r"; (?=u\d+: )", " ".join(lines))
            elif message in _MESSAGES.values():
                parts = parts[1:] or parts
            else:
                parts = [""]
            lines = []
            yield (message, found[1]), parts[0]


if __name__ == "__main__":
    sys.stdout.write(documentation((Path(__file__).parents[2] / "proto/ebpf_net/v1/intake.proto").read_text()))
