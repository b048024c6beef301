"""The reducer's half of the sessions: takes each batch of each collector once, and says which are safe.

A plain object without I/O: messages and the time are passed in, answers are returned.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from ebpf_net.v1 import intake_pb2
from google.protobuf.message import DecodeError

from daemon.version import PROTOCOL_VERSION, VERSION
from intake.columns import rows_of
from intake.compression import parse
from intake.limits import (
    GREATEST_NUMBER,
    LONGEST_LABEL,
    MalformedMessageError,
    check_entities,
    checked_rows,
    cut,
)
from reducer.session import HEARTBEAT_INTERVAL_NS, MOST_AHEAD_NS, MOST_BEHIND_NS, Session, Stream
from reducer.twins import Twins

if TYPE_CHECKING:
    from collections.abc import Iterator

    from intake.columns import Tables

# Each collector's each run is one; one that is over costs about 300 bytes.
MOST_SESSIONS = 65_536
SESSION_ID_BYTES = 16


class Pipeline(Protocol):
    """What the sessions give what they take to. No method raises for what the limits let pass."""

    def hello(self, session: bytes, host: intake_pb2.Host, kind: int) -> None:
        """Note the host of a session, and the kind of its collector."""

    def snapshot(self, session: bytes, entities: intake_pb2.Entities, now_ns: int, *, partial: bool) -> None:
        """Replace the entities of a session; where it is *partial*, more snapshots follow that add to it."""

    def take(self, session: bytes, number: int, event_time_ns: int, batch: intake_pb2.Batch, tables: Tables) -> None:
        """Take a batch, its rows as views of its bytes; the time is by the reducer's clock."""

    def heard(self, session: bytes, event_time_ns: int) -> None:
        """Note that the collector has told all until then."""

    def closed(self, session: bytes, now_ns: int) -> None:
        """Note that the session has no connection any more."""

    def forget(self, session: bytes) -> None:
        """Note that the session is known no more: there are too many."""


class RejectedError(Exception):
    """A stream that cannot go on.

    Attributes:
        status: the name of the gRPC status code.
        reason: for the collector's log.

    """

    def __init__(self, status: str, reason: str) -> None:
        super().__init__(reason)
        self.status = status
        self.reason = reason


@dataclass(slots=True)
class IntakeCounters:
    """What the intake did since the start."""

    messages: int = 0
    batches: int = 0
    rows: int = 0
    rows_of_twins: int = 0
    duplicates: int = 0
    refused: int = 0
    rejected: int = 0
    disconnects: int = 0
    superseded: int = 0
    sessions_forgotten: int = 0
    times_clamped: int = 0
    strings_cut: int = 0


@dataclass(slots=True)
class ReducerSessions:
    """All sessions.

    Attributes:
        pipeline: takes what they send.
        window_ns: told to the collectors.
        poll_interval_ns: how often the collectors are to read their counters.
        heartbeat_interval_ns: how often they are to send a heartbeat.
        most_sessions: beyond it the session that was disconnected first is forgotten; should it come back without
            its numbers in the data directory, what it sends again counts again.
        counters: since the start.
        twins: those that watch the same.

    """

    pipeline: Pipeline
    window_ns: int
    poll_interval_ns: int
    heartbeat_interval_ns: int = HEARTBEAT_INTERVAL_NS
    most_sessions: int = MOST_SESSIONS
    counters: IntakeCounters = field(default_factory=IntakeCounters)
    twins: Twins = field(default_factory=Twins)
    _connected: dict[bytes, Session] = field(default_factory=dict)
    _disconnected: dict[bytes, Session] = field(default_factory=dict)

    def restore(self, safe: dict[bytes, int]) -> None:
        """Know the sessions of before the start by the numbers of their batches that are safe."""
        for session, number in safe.items():
            self._disconnected[session] = Session(session, taken=number, safe=number)
        self._forget_beyond_limit()

    def connected(self) -> Iterator[Session]:
        """Yield the sessions that have a connection."""
        yield from self._connected.values()

    def __len__(self) -> int:
        return len(self._connected) + len(self._disconnected)

    def received(self, stream: Stream, data: bytes, now_unix_ns: int) -> intake_pb2.FromReducer | None:
        """Take a message, a serialized FromCollector; return the answer to it, if any.

        Raises:
            RejectedError: the stream is to be closed.

        """
        self.counters.messages += 1
        session = stream.session
        if session is None:
            return self._hello(stream, data, now_unix_ns)
        if session.stream is not stream:
            raise RejectedError("ABORTED", "another connection took this session over")
        session.heard_unix_ns = now_unix_ns
        number = 0
        try:
            message = parse(data)
            match message.WhichOneof("message"):
                case "batch":
                    number = message.batch.number
                    return self._batch(session, message.batch, now_unix_ns)
                case "heartbeat":
                    return self._heartbeat(session, message.heartbeat, now_unix_ns)
                case "snapshot":
                    self._snapshot(session, message.snapshot, now_unix_ns)
                    return None
                case other:
                    raise MalformedMessageError(f"a message of kind {other} is of no use here")  # noqa: TRY301
        except DecodeError:
            return self._refusal(0, "not a message of this protocol")
        except MalformedMessageError as error:
            return self._refusal(number, str(error))

    def closed(self, stream: Stream, now_unix_ns: int) -> None:
        """Note that a connection has ended."""
        session = stream.session
        self.counters.disconnects += session is not None
        if session is not None and session.stream is stream:
            session.stream = None
            self.pipeline.closed(session.id, now_unix_ns)
            self.twins.disconnected(session)
            self._disconnected[session.id] = self._connected.pop(session.id)
            self._forget_beyond_limit()

    def safe(self, numbers: dict[bytes, int]) -> list[Session]:
        """Note up to which number the batches of each session are safe; return the connected ones that gained."""
        gained = []
        for session_id, number in numbers.items():
            session = self._connected.get(session_id) or self._disconnected.get(session_id)
            if session is not None and number > session.safe:
                session.safe = number
                if session.stream is not None:
                    gained.append(session)
        return gained

    def _hello(self, stream: Stream, data: bytes, now_unix_ns: int) -> intake_pb2.FromReducer:
        hello = self._checked_hello(data)
        session = self._connected.get(hello.session_id)
        if session is not None and session.stream is not None:
            self.counters.superseded += 1
            session.stream.superseded()
        else:
            session = self._disconnected.pop(hello.session_id, None) or Session(hello.session_id)
            self._connected[session.id] = session
        self.counters.strings_cut += cut(hello.host)
        host = intake_pb2.Host()
        host.CopyFrom(hello.host)  # what is a part of the hello would keep all of it in memory
        session.stream, stream.session = stream, session
        session.host = host.name
        session.kind = intake_pb2.CollectorKind.Name(hello.kind)
        session.about = _about(hello)
        session.heard_unix_ns = now_unix_ns
        self.twins.connected(session, host.watches)
        self._forget_beyond_limit()
        self.pipeline.hello(session.id, host, hello.kind)
        welcome = intake_pb2.Welcome(
            version=VERSION,
            window_ns=self.window_ns,
            poll_interval_ns=self.poll_interval_ns,
            heartbeat_interval_ns=self.heartbeat_interval_ns,
            hello_time_unix_ns=hello.time_unix_ns,
            time_unix_ns=now_unix_ns,
            acknowledged=session.safe,
        )
        return intake_pb2.FromReducer(welcome=welcome)

    def _checked_hello(self, data: bytes) -> intake_pb2.Hello:
        try:
            message = intake_pb2.FromCollector.FromString(data)
        except DecodeError as error:
            raise RejectedError("INVALID_ARGUMENT", "the first message is none of this protocol") from error
        hello = message.hello
        if message.WhichOneof("message") != "hello":
            raise RejectedError("INVALID_ARGUMENT", "the first message must be a Hello")
        if hello.protocol_version != PROTOCOL_VERSION:
            raise RejectedError(
                "FAILED_PRECONDITION",
                f"the collector speaks version {hello.protocol_version} of the protocol, this reducer ({VERSION}) "
                f"version {PROTOCOL_VERSION}: run the same release of both",
            )
        if len(hello.session_id) != SESSION_ID_BYTES:
            raise RejectedError("INVALID_ARGUMENT", f"session_id has {len(hello.session_id)} bytes: it must have 16")
        if hello.kind not in intake_pb2.CollectorKind.values():
            raise RejectedError("INVALID_ARGUMENT", f"kind {hello.kind} of collector is not known")
        if len(self._connected) >= self.most_sessions and hello.session_id not in self._connected:
            raise RejectedError("RESOURCE_EXHAUSTED", f"this reducer takes {self.most_sessions} collectors")
        return hello

    def _batch(self, session: Session, batch: intake_pb2.Batch, now_unix_ns: int) -> intake_pb2.FromReducer | None:
        if 0 < batch.number <= session.taken:
            self.counters.duplicates += 1
            if batch.number <= session.safe:
                return intake_pb2.FromReducer(ack=intake_pb2.Ack(number=session.safe))
            return None
        tables = checked_rows(batch)
        self.counters.strings_cut += cut(batch.entities)
        _correct_times(batch.entities, session.clock_offset_ns)
        time_ns = self._event_time(session, batch.time_unix_ns, now_unix_ns)
        if self.twins.is_left_out(session, time_ns, now_unix_ns):
            # What it says of processes and cgroups is kept: its rows count as soon as the other one is gone.
            self.counters.rows_of_twins += rows_of(batch)
            tables = {}
        self.pipeline.take(session.id, batch.number, time_ns, batch, tables)
        session.taken = batch.number
        if batch.HasField("statistics"):
            session.statistics = intake_pb2.CollectorStatistics()
            session.statistics.CopyFrom(batch.statistics)  # a part of the batch would keep all of it in memory
            self.counters.strings_cut += cut(session.statistics)
        self.counters.batches += 1
        self.counters.rows += rows_of(batch)
        return None

    def _heartbeat(self, session: Session, heartbeat: intake_pb2.Heartbeat, now_unix_ns: int) -> intake_pb2.FromReducer:
        session.clock_offset_ns = heartbeat.clock_offset_ns
        if not heartbeat.behind:
            self.pipeline.heard(session.id, self._event_time(session, heartbeat.time_unix_ns, now_unix_ns))
        reply = intake_pb2.HeartbeatReply(heartbeat_time_unix_ns=heartbeat.time_unix_ns, time_unix_ns=now_unix_ns)
        return intake_pb2.FromReducer(heartbeat=reply)

    def _snapshot(self, session: Session, snapshot: intake_pb2.Snapshot, now_unix_ns: int) -> None:
        check_entities(snapshot.entities)
        self.counters.strings_cut += cut(snapshot.entities)
        _correct_times(snapshot.entities, session.clock_offset_ns)
        self.pipeline.snapshot(session.id, snapshot.entities, now_unix_ns, partial=snapshot.partial)

    def _refusal(self, number: int, reason: str) -> intake_pb2.FromReducer:
        self.counters.refused += 1
        return intake_pb2.FromReducer(refusal=intake_pb2.Refusal(number=number, reason=reason))

    def _event_time(self, session: Session, time_unix_ns: int, now_unix_ns: int) -> int:
        """Return a collector's time by the reducer's clock; the present where that is not believable."""
        time_ns = time_unix_ns + session.clock_offset_ns
        if now_unix_ns - MOST_BEHIND_NS <= time_ns <= now_unix_ns + MOST_AHEAD_NS:
            return time_ns
        self.counters.times_clamped += 1
        return now_unix_ns

    def _forget_beyond_limit(self) -> None:
        while len(self) > self.most_sessions and self._disconnected:
            forgotten = next(iter(self._disconnected))
            del self._disconnected[forgotten]
            self.pipeline.forget(forgotten)
            self.counters.sessions_forgotten += 1


def _correct_times(entities: intake_pb2.Entities, clock_offset_ns: int) -> None:
    """Turn the times of pods, which are by the clocks of the collector's cluster, into the reducer's, in place."""
    for pod in entities.pods if clock_offset_ns else ():
        pod.start_time_unix_ns = _shifted(pod.start_time_unix_ns, clock_offset_ns)
        pod.end_time_unix_ns = _shifted(pod.end_time_unix_ns, clock_offset_ns)


def _shifted(time_ns: int, by_ns: int) -> int:
    """Return a time shifted; 0, which is no time, stays so, and nothing else becomes it."""
    return min(max(time_ns + by_ns, 1), GREATEST_NUMBER) if time_ns else 0


def _about(hello: intake_pb2.Hello) -> tuple[tuple[str, str], ...]:
    """Return what a collector says of itself, for its metrics, none empty."""
    host = hello.host
    told = {"version": hello.version[:LONGEST_LABEL], "environment": host.environment, "zone": host.zone}
    told |= {"kernel": host.kernel_version, "os": host.os, "os_version": host.os_version, "cloud": host.cloud.provider}
    return tuple((name, value) for name, value in told.items() if value)
