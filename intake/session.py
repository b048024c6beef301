"""The collector's half of a session: what to send, what an answer means, when to give a connection up.

A plain object without I/O: time and chance are passed in, messages are asked for with `next_message`. So a connection
that takes nothing leaves batches in the spool, where they can be merged, instead of in a queue.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from ebpf_net.v1 import intake_pb2

from daemon.version import PROTOCOL_VERSION
from intake.clock import SECOND_NS, Instant
from intake.compression import compress
from intake.limits import MOST_ROWS, fitting

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from intake.columns import Tables
    from intake.spool import Spool

DEFAULT_POLL_INTERVAL_NS = 5 * SECOND_NS
DEFAULT_HEARTBEAT_INTERVAL_NS = 5 * SECOND_NS
# A reducer that says less would make the collector spin.
LEAST_INTERVAL_NS = SECOND_NS // 10
WELCOME_TIMEOUT_NS = 10 * SECOND_NS
# Heartbeats without an answer for so long: the reducer is gone, whatever a proxy between says.
SILENCE_TIMEOUT_NS = 12 * SECOND_NS
FIRST_BACKOFF_NS = SECOND_NS // 2
LONGEST_BACKOFF_NS = 15 * SECOND_NS
# A connection that lasted so long after its welcome ends the growth of the backoff.
STABLE_NS = 10 * SECOND_NS


class ClockOffset:
    """What is added to the collector's clock to get the reducer's, from round trips.

    A sample is off by half its round trip at most, so the shortest one is kept, until another one contradicts it: then
    one of the clocks was set, or they have drifted apart.
    """

    def __init__(self) -> None:
        self.ns = 0
        self._error_ns: float = float("inf")

    def sample(self, sent: Instant, reducer_unix_ns: int, received: Instant) -> None:
        """Take the reducer's clock when it answered what was *sent*."""
        error_ns = (received.monotonic_ns - sent.monotonic_ns) / 2
        offset_ns = reducer_unix_ns - (sent.unix_ns + int(error_ns))
        if error_ns <= self._error_ns or abs(offset_ns - self.ns) > error_ns + self._error_ns:
            self.ns = offset_ns
            self._error_ns = error_ns


class CollectorSession:
    """One run of a collector, over any number of connections.

    Attributes:
        clock_offset: to the reducer's clock.
        poll_interval_ns: what the reducer asked for; 5 s until it has.
        reducer_version: of the reducer last connected to.
        batches_refused: batches that the reducer would not take.

    """

    def __init__(
        self,
        hello: intake_pb2.Hello,
        snapshot: Callable[[], Iterable[intake_pb2.Entities]],
        spool: Spool,
        random: Callable[[], float],
    ) -> None:
        """Make a session.

        Args:
            hello: with kind, version, session_id and host.
            snapshot: gives the entities that unacknowledged batches and later rows may refer to, in as many parts as
                messages are needed. Parts are taken one by one; what changes meanwhile is to be submitted as well.
            spool: for its batches.
            random: gives a number in [0, 1), for the backoff.

        """
        self._hello = hello
        self._snapshot = snapshot
        self._spool = spool
        self._random = random
        self.clock_offset = ClockOffset()
        self.poll_interval_ns = DEFAULT_POLL_INTERVAL_NS
        self.reducer_version = ""
        self.batches_refused = 0
        self._heartbeat_interval_ns = DEFAULT_HEARTBEAT_INTERVAL_NS
        self._failed_attempts = 0
        self._start(Instant(0, 0))

    def _start(self, now: Instant) -> None:
        """Set what lasts as long as a connection."""
        self._connected = now
        self._hello_sent: Instant | None = None
        self._welcomed: Instant | None = None
        self._heartbeat_sent: Instant | None = None
        self._unanswered_since: Instant | None = None
        self._snapshot_due = True
        self._snapshot_parts: Iterator[intake_pb2.Snapshot] = iter(())
        self._sent_up_to = 0

    @property
    def welcomed(self) -> bool:
        """Whether the reducer has welcomed this connection."""
        return self._welcomed is not None

    @property
    def all_sent(self) -> bool:
        """Whether every batch that is kept was handed to this connection."""
        return self.welcomed and self._spool.next_after(self._sent_up_to) is None

    @property
    def acknowledged(self) -> int:
        """The highest number such that no row of the batches up to it is kept any more."""
        return self._spool.acknowledged

    def submit(
        self,
        time_unix_ns: int,
        entities: intake_pb2.Entities,
        tables: Tables,
        statistics: intake_pb2.CollectorStatistics | None,
    ) -> int:
        """Put rows into the spool, as one batch or, where they are more than a batch may hold, several.

        Args:
            time_unix_ns: when the rows were read.
            entities: new ones and retired ones since the last call.
            tables: rows as in `intake.columns`.
            statistics: the collector's own; what concerns the spool is filled in here.

        Returns:
            The number of the last batch.

        """
        for index, part in enumerate(_parts(tables)):
            batch = intake_pb2.Batch(time_unix_ns=time_unix_ns)
            if index == 0:
                batch.entities.CopyFrom(fitting(entities))
                if statistics:
                    batch.statistics.CopyFrom(self._with_spool(statistics))
            self._snapshot_due |= self._spool.append(batch, part)
        return self._spool.highest_number

    def _with_spool(self, statistics: intake_pb2.CollectorStatistics) -> intake_pb2.CollectorStatistics:
        statistics.spool_bytes = self._spool.bytes
        statistics.spool_most_bytes = self._spool.limit
        statistics.spool_rows_merged = self._spool.rows_merged
        statistics.spool_rows_dropped = self._spool.rows_dropped
        statistics.spool_bytes_dropped = self._spool.bytes_dropped
        statistics.batches_refused = self.batches_refused
        return statistics

    def connected(self, now: Instant) -> None:
        """Begin with a new connection."""
        self._start(now)

    def next_message(self, now: Instant) -> bytes | None:
        """Return what is to be sent next on this connection, a serialized FromCollector; None: nothing for now."""
        if self._hello_sent is None:
            self._hello_sent = now
            return self._encoded_hello(now)
        if not self.welcomed:
            return None
        if self.next_heartbeat_ns(now) <= 0:
            return self._heartbeat(now)
        if self._snapshot_due:
            self._snapshot_due = False
            self._spool.forget_without_rows()
            self._snapshot_parts = _snapshots(self._snapshot())
        for snapshot in self._snapshot_parts:
            return compress(intake_pb2.FromCollector(snapshot=snapshot).SerializeToString())
        batch = self._spool.next_after(self._sent_up_to)
        if batch is None:
            return None
        self._sent_up_to = batch.number
        self._spool.sent(batch.number)
        return batch.message

    def next_heartbeat_ns(self, now: Instant) -> int:
        """Return the time until `next_message` has a heartbeat to send."""
        if not self.welcomed:
            return self._heartbeat_interval_ns
        if self._heartbeat_sent is None:
            return 0
        return self._heartbeat_sent.monotonic_ns + self._heartbeat_interval_ns - now.monotonic_ns

    def _encoded_hello(self, now: Instant) -> bytes:
        self._hello.protocol_version = PROTOCOL_VERSION
        self._hello.time_unix_ns = now.unix_ns
        return intake_pb2.FromCollector(hello=self._hello).SerializeToString()

    def _heartbeat(self, now: Instant) -> bytes:
        self._heartbeat_sent = now
        self._unanswered_since = self._unanswered_since or now
        heartbeat = intake_pb2.Heartbeat(
            time_unix_ns=now.unix_ns, clock_offset_ns=self.clock_offset.ns, behind=not self.all_sent
        )
        return intake_pb2.FromCollector(heartbeat=heartbeat).SerializeToString()

    def received(self, message: intake_pb2.FromReducer, now: Instant) -> str | None:
        """Take an answer of the reducer.

        Returns:
            Why a batch was refused, where the answer says so.

        """
        self._unanswered_since = None
        match message.WhichOneof("message"):
            case "welcome":
                self._take_welcome(message.welcome, now)
            case "ack":
                self._spool.acknowledge(message.ack.number)
            case "refusal":
                self.batches_refused += 1
                self._spool.refuse(message.refusal.number)
                # The entities in that batch were not taken either. What has no number may have been a snapshot itself.
                self._snapshot_due |= message.refusal.number > 0
                return f"batch {message.refusal.number}: {message.refusal.reason}"
            case "heartbeat":
                sent = self._heartbeat_sent
                if sent and message.heartbeat.heartbeat_time_unix_ns == sent.unix_ns:
                    self.clock_offset.sample(sent, message.heartbeat.time_unix_ns, now)
        return None

    def _take_welcome(self, welcome: intake_pb2.Welcome, now: Instant) -> None:
        if self.welcomed or self._hello_sent is None:
            return
        self._welcomed = now
        self.reducer_version = welcome.version
        if welcome.poll_interval_ns:
            self.poll_interval_ns = max(welcome.poll_interval_ns, LEAST_INTERVAL_NS)
        if welcome.heartbeat_interval_ns:
            self._heartbeat_interval_ns = max(welcome.heartbeat_interval_ns, LEAST_INTERVAL_NS)
        self.clock_offset.sample(self._hello_sent, welcome.time_unix_ns, now)
        self._spool.acknowledge(welcome.acknowledged)

    def lost(self, now: Instant) -> str | None:
        """Return why the connection is to be given up, though the transport says that it stands; else None."""
        if not self.welcomed:
            waited = now.monotonic_ns - self._connected.monotonic_ns
            return "no welcome within 10 s: is this the reducer?" if waited > WELCOME_TIMEOUT_NS else None
        if self._unanswered_since is None:
            return None
        silence = now.monotonic_ns - self._unanswered_since.monotonic_ns
        most = max(SILENCE_TIMEOUT_NS, 2 * self._heartbeat_interval_ns)
        return f"heartbeats unanswered for {silence // SECOND_NS} s" if silence > most else None

    def disconnected(self, now: Instant) -> int:
        """End the connection; return the nanoseconds to wait before the next one: exponential, with full jitter."""
        if self._welcomed and now.monotonic_ns - self._welcomed.monotonic_ns >= STABLE_NS:
            self._failed_attempts = 0
        longest = min(LONGEST_BACKOFF_NS, FIRST_BACKOFF_NS << min(self._failed_attempts, 32))
        self._failed_attempts += 1
        self._start(now)
        return int(longest * self._random())


def _snapshots(parts: Iterable[intake_pb2.Entities]) -> Iterator[intake_pb2.Snapshot]:
    """Yield *parts* as snapshots, all but the last of them partial; one where there are none."""
    remaining = iter(parts)
    part = next(remaining, intake_pb2.Entities())
    for following in remaining:
        yield intake_pb2.Snapshot(entities=fitting(part), partial=True)
        part = following
    yield intake_pb2.Snapshot(entities=fitting(part))


def _parts(tables: Tables) -> Iterator[Tables]:
    """Yield *tables* as they fit into batches: all in one, or each cut into several."""
    if sum(len(columns["socket"]) for columns in tables.values()) <= MOST_ROWS:
        yield tables
        return
    for table, columns in tables.items():
        for start in range(0, len(columns["socket"]), MOST_ROWS):
            yield {table: {name: column[start : start + MOST_ROWS] for name, column in columns.items()}}
