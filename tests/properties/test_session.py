"""Whatever is cut, sent again, delivered late or twice, and whoever restarts: each row is counted once, or as lost."""

from __future__ import annotations

from collections import deque

from ebpf_net.v1 import intake_pb2
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from intake.clock import SECOND_NS, Instant
from intake.columns import empty_columns, unpack_rows
from intake.compression import parse
from intake.session import CollectorSession
from intake.spool import Spool
from reducer.session import Stream
from reducer.sessions import ReducerSessions, RejectedError

SESSION_ID = bytes(range(16))
# A row is a bit of its own in one of these columns, so that a sum tells which rows are in it and how often.
SUMS = ("bytes_sent", "bytes_received", "segments_sent", "segments_received", "srtt_sum_us", "connect_sum_us")
BITS = 40
SPOOL_BYTES = 6_000
MERGED_BYTES = 2_000
POISON = 9  # no role


def mask_of(tables) -> int:
    """The rows in *tables* as a set of bits; the sum of a column is where it belongs, carries and all."""
    return sum(int(table[name].sum()) << (BITS + 8) * i for table in tables for i, name in enumerate(SUMS))


def bit_of(row: int) -> int:
    return 1 << (BITS + 8) * (row // BITS) + row % BITS


class ModelPipeline:
    """Batches in an open window until they are sealed; checks that a row's process is known when it comes."""

    def __init__(self):
        self.open: deque[tuple[int, int]] = deque()
        self.processes: set[int] | None = None
        self.refused: set[int] = set()
        self.heard_ns = 0
        self.greeted = False

    def hello(self, session, host, kind):
        self.greeted = True

    def snapshot(self, session, entities, now_ns, *, partial):
        self.processes = {process.id for process in entities.processes}

    def take(self, session, number, event_time_ns, batch, tables):
        assert self.greeted
        assert self.processes is not None, "a batch came before the snapshot"
        self.processes |= {process.id for process in batch.entities.processes}
        tcp = tables.get("tcp")
        if tcp is not None:
            assert set(tcp["process"].tolist()) <= self.processes | self.refused, "a row came before its process"
        self.open.append((number, mask_of([tcp]) if tcp is not None else 0))

    def heard(self, session, event_time_ns):
        self.heard_ns = max(self.heard_ns, event_time_ns)

    def forget(self, session):
        pass

    def closed(self, session, now_ns):
        pass


class Connection:
    """Two queues of messages under way."""

    def __init__(self):
        self.superseded = False
        self.stream = Stream(self.supersede)
        self.up: deque[bytes] = deque()
        self.down: deque[intake_pb2.FromReducer] = deque()

    def supersede(self):
        self.superseded = True


class Sessions(RuleBasedStateMachine):
    def __init__(self):
        super().__init__()
        self.now = Instant(1_700_000_000 * SECOND_NS, 0)
        self.spool = Spool(SPOOL_BYTES, MERGED_BYTES)
        hello = intake_pb2.Hello(kind=intake_pb2.COLLECTOR_KIND_KERNEL, session_id=SESSION_ID)
        self.collector = CollectorSession(hello, self.entities, self.spool, lambda: 0.5)
        self.connection: Connection | None = None
        self.zombies: list[Connection] = []
        self.processes = 0
        self.referred: dict[int, int] = {}  # process to the last batch that refers to it
        self.rows = 0
        self.exported = 0
        self.dropped = 0
        self.refused_by_reducer = 0
        self.start_reducer({})

    def start_reducer(self, safe):
        self.pipeline = ModelPipeline()
        self.reducer = ReducerSessions(self.pipeline, 30 * SECOND_NS, SECOND_NS)
        self.reducer.restore(safe)

    def entities(self):
        """As a collector must: processes that live, and those that rows without acknowledgement refer to."""
        done = self.collector.acknowledged
        ids = [id_ for id_, number in self.referred.items() if number > done or id_ > self.processes - 4]
        return [intake_pb2.Entities(processes=[intake_pb2.Process(id=id_) for id_ in ids])]

    def spooled(self) -> int:
        return mask_of(unpack_rows("tcp", parse(batch.message).batch.tcp, 1_000) for batch in self.spool.pending())

    @rule(batches=st.lists(st.lists(st.integers(1, 4), max_size=4), min_size=1, max_size=12), poison=st.integers(0, 40))
    def submit(self, batches, poison):
        for i, sockets in enumerate(batches):
            if self.rows + len(sockets) <= BITS * len(SUMS):
                self.submit_one(sockets, poison=i == poison)

    def submit_one(self, sockets, *, poison):
        self.processes += 1
        new = intake_pb2.Entities(processes=[intake_pb2.Process(id=self.processes)])
        columns = empty_columns(len(sockets))
        columns["socket"][:] = sockets
        columns["process"][:] = [max(self.processes + 1 - socket, 1) for socket in sockets]  # new and old
        columns["role"][:] = POISON if poison else 1
        before = self.spooled()
        bits = 0
        for i in range(len(sockets)):
            columns[SUMS[self.rows // BITS]][i] = 1 << self.rows % BITS
            bits |= bit_of(self.rows)
            self.rows += 1
        self.referred[self.processes] = self.spool.highest_number + 1
        number = self.collector.submit(self.now.unix_ns, new, {"tcp": columns}, intake_pb2.CollectorStatistics())
        self.referred |= dict.fromkeys(columns["process"].tolist(), number)
        lost = (before | bits) & ~self.spooled()
        self.dropped |= lost

    @precondition(lambda self: self.connection is None)
    @rule()
    def connect(self):
        self.connection = Connection()
        self.collector.connected(self.now)

    @precondition(lambda self: self.connection is not None)
    @rule(most=st.integers(1, 20))
    def send(self, most):
        for _ in range(most):
            message = self.collector.next_message(self.now)
            if message is None:
                return
            self.connection.up.append(message)

    @precondition(lambda self: self.connection is not None)
    @rule(most=st.integers(1, 20), twice=st.booleans())
    def deliver_up(self, most, twice):
        for _ in range(most):
            if self.connection.up:
                message = self.connection.up.popleft()
                self.to_reducer(self.connection, message)
                if twice and self.connection.stream.session:
                    self.to_reducer(self.connection, message)

    @precondition(lambda self: self.connection is not None)
    @rule(most=st.integers(1, 20))
    def deliver_down(self, most):
        for _ in range(most):
            if self.connection.down:
                self.to_collector(self.connection.down.popleft())

    @rule(rounds=st.integers(1, 4))
    def exchange(self, rounds):
        """What mostly happens: messages come through."""
        if self.connection is None:
            self.connect()
        for _ in range(rounds):
            self.send(20)
            self.deliver_up(20, twice=False)
            self.deliver_down(20)

    @precondition(lambda self: self.zombies)
    @rule()
    def deliver_late(self):
        """What the reducer still gets from a connection that the collector has given up."""
        zombie = self.zombies[0]
        if zombie.up:
            self.to_reducer(zombie, zombie.up.popleft())
        else:
            self.reducer.closed(zombie.stream, self.now.unix_ns)
            self.zombies.pop(0)

    @precondition(lambda self: self.connection is not None)
    @rule(noticed=st.booleans())
    def cut(self, noticed):
        assert 0 <= self.collector.disconnected(self.now) <= 15 * SECOND_NS
        if noticed:
            self.reducer.closed(self.connection.stream, self.now.unix_ns)
        else:
            self.zombies.append(self.connection)
        self.connection = None

    @rule(most=st.integers(1, 10))
    def seal(self, most):
        number = self.seal_open(most)
        for session in self.reducer.safe({SESSION_ID: number} if number else {}):
            if self.connection and session.stream is self.connection.stream:
                self.connection.down.append(intake_pb2.FromReducer(ack=intake_pb2.Ack(number=session.safe)))

    @rule(durable=st.booleans())
    def restart_reducer(self, durable):
        """A crash: what was open is gone. Without a data directory only if no acknowledgement was under way."""
        sessions = self.reducer._connected | self.reducer._disconnected
        safe = sessions[SESSION_ID].safe if sessions else 0
        if not durable and self.collector.acknowledged < safe:
            return
        if self.connection:
            self.collector.disconnected(self.now)
            self.connection = None
        self.zombies = []
        self.start_reducer({SESSION_ID: safe} if durable and safe else {})

    @rule(seconds=st.integers(1, 40))
    def wait(self, seconds):
        self.now = Instant(self.now.unix_ns + seconds * SECOND_NS, self.now.monotonic_ns + seconds * SECOND_NS)

    def to_reducer(self, connection, message):
        refused = self.reducer.counters.refused
        try:
            answer = self.reducer.received(connection.stream, message, self.now.unix_ns)
        except RejectedError:
            if not connection.superseded:
                raise
            return
        if answer is not None:
            connection.down.append(answer)
        if self.reducer.counters.refused > refused:
            batch = parse(message).batch
            self.refused_by_reducer |= mask_of([unpack_rows("tcp", batch.tcp, 1_000)])
            self.pipeline.refused |= {process.id for process in batch.entities.processes}

    def to_collector(self, answer):
        before = self.spooled()
        refused = self.collector.batches_refused
        self.collector.received(answer, self.now)
        gone = before & ~self.spooled()
        if self.collector.batches_refused > refused:
            assert not gone & ~self.refused_by_reducer
        else:
            assert not gone & ~(self.exported | self.refused_by_reducer), "acknowledged before it was safe"

    def seal_open(self, most) -> int:
        number = 0
        for _ in range(min(most, len(self.pipeline.open))):
            number, mask = self.pipeline.open.popleft()
            self.exported += mask
        return number

    @invariant()
    def spool_is_bounded(self):
        assert self.spool.bytes <= SPOOL_BYTES
        assert self.spool.bytes == sum(batch.size for batch in self.spool.pending())

    @invariant()
    def drops_are_counted(self):
        payload = sum((self.dropped >> (BITS + 8) * column) & (1 << BITS) - 1 for column in (0, 1))
        assert self.spool.bytes_dropped == payload

    @invariant()
    def nothing_counts_twice(self):
        submitted = sum(bit_of(row) for row in range(self.rows))
        assert not self.exported & ~submitted

    def teardown(self):
        """Let all that is under way arrive: then each row was exported once, or is counted as dropped or refused."""
        self.zombies = []
        if self.connection is not None:
            self.cut(noticed=True)
        for _ in range(3):
            self.exchange(30)
            self.seal(1_000)
        self.exchange(1)
        submitted = sum(bit_of(row) for row in range(self.rows))
        assert submitted & ~(self.exported | self.dropped | self.refused_by_reducer) == 0
        assert not self.exported & ~submitted
        assert not self.spooled() & ~self.refused_by_reducer


TestSessions = Sessions.TestCase
TestSessions.settings = settings(max_examples=200, stateful_step_count=60, deadline=None)
