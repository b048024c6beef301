"""Rows of both ends of a connection, and a pipeline to put them into."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ebpf_net.v1 import intake_pb2

from intake.clock import SECOND_NS
from reducer.columns.value_columns import ZONE_COLUMNS
from reducer.pipeline import Pipeline
from tests.rows import session_id, table_of

if TYPE_CHECKING:
    from reducer.columns.series import SealedWindow

CLIENT, SERVER = "10.0.0.1", "10.0.0.2"
WINDOW_NS, GRACE_NS, POLL_NS = 30 * SECOND_NS, 2 * SECOND_NS, 5 * SECOND_NS


def connector_row(**values) -> dict:
    """Return the client's row of a connection from 10.0.0.1:40000 to 10.0.0.2:80."""
    row = {
        "socket": 1,
        "process": 1,
        "network_namespace": 7,
        "local_address": CLIENT,
        "local_port": 40000,
        "remote_address": SERVER,
        "remote_port": 80,
        "role": intake_pb2.ROLE_CONNECTOR,
    }
    return row | values


def acceptor_row(**values) -> dict:
    """Return the server's row of the same connection."""
    row = {
        "socket": 2,
        "process": 2,
        "network_namespace": 7,
        "local_address": SERVER,
        "local_port": 80,
        "remote_address": CLIENT,
        "remote_port": 40000,
        "role": intake_pb2.ROLE_ACCEPTOR,
    }
    return row | values


def query_row(**values) -> dict:
    """Return the client's row of queries over UDP from 10.0.0.1:40000 to port 53 of 10.0.0.2."""
    return connector_row(socket=11, remote_port=53, transport=17) | values


def answer_row(**values) -> dict:
    """Return the server's row of the same queries."""
    return acceptor_row(socket=12, local_port=53, transport=17) | values


class Feed:
    """A pipeline with sessions 0, 1, ... on hosts host-0, host-1, ...; time runs from 0."""

    def __init__(self, levels=("az_az",), **options) -> None:
        self.pipeline = Pipeline(WINDOW_NS, GRACE_NS, POLL_NS, levels, **options)
        self.pipeline.next_due(0)
        self.numbers: dict[int, int] = {}

    def session(
        self,
        number: int,
        *names: str,
        host: intake_pb2.Host | None = None,
        kind: int = intake_pb2.COLLECTOR_KIND_KERNEL,
        at_s: float = 0,
    ) -> None:
        """Say hello with processes 1, 2, ... of these names."""
        default = intake_pb2.Host(name=f"host-{number}", zone=f"zone-{number}", environment="prod", namespace="shop")
        self.pipeline.hello(session_id(number), host or default, kind)
        processes = [intake_pb2.Process(id=index, name=name) for index, name in enumerate(names, 1)]
        told = intake_pb2.Entities(processes=processes)
        self.pipeline.snapshot(session_id(number), told, int(at_s * SECOND_NS))
        self.numbers.setdefault(number, 0)

    def snapshot(self, number: int, at_s: float, *, partial: bool = False, **entities) -> None:
        """Give a snapshot of a session."""
        told = intake_pb2.Entities(**entities)
        self.pipeline.snapshot(session_id(number), told, int(at_s * SECOND_NS), partial=partial)

    def close(self, number: int, at_s: float) -> None:
        """End the connection of a session."""
        self.pipeline.closed(session_id(number), int(at_s * SECOND_NS))

    def take(
        self,
        number: int,
        at_s: float,
        *rows: dict,
        entities: intake_pb2.Entities | None = None,
        **others: tuple[dict, ...],
    ) -> None:
        """Give the TCP rows, and those of other tables by name, of a batch, the next of its session."""
        self.numbers[number] += 1
        batch = intake_pb2.Batch(number=self.numbers[number], entities=entities)
        time_ns = int(at_s * SECOND_NS)
        tables = {name: table_of(name, *told) for name, told in {"tcp": rows, **others}.items() if told}
        self.pipeline.take(session_id(number), batch.number, time_ns, batch, tables)

    def seal(self, index: int = 0, *, heard: tuple[int, ...] = ()) -> SealedWindow | None:
        """Seal the window *index*; the collectors of *heard* have spoken after its end."""
        end_ns = (index + 1) * WINDOW_NS
        for number in heard:
            self.pipeline.heard(session_id(number), end_ns)
        return self.pipeline.seal(end_ns + GRACE_NS + POLL_NS)


def series_of(window: SealedWindow | None, level: int = 0, *, label: str = "workload.name") -> dict:
    """Return the values that are not 0, but for those by zone, by the labels of source and dest."""
    assert window is not None
    found: dict[tuple, dict[str, int]] = {}
    for row in range(len(window.levels[level].source)):
        of = window.levels[level]
        ends = tuple(dict(window.ends.labels[end[row]]).get(label) for end in (of.source, of.dest))
        told = {name: column for name, column in of.values.items() if name not in ZONE_COLUMNS}
        values = {name: int(column[row]) for name, column in told.items() if column[row]}
        before = found.setdefault(ends, {})
        for name, value in values.items():
            before[name] = before.get(name, 0) + value
    return found
