import numpy as np
import pytest
from ebpf_net.v1 import intake_pb2

from intake.clock import SECOND_NS, Instant
from intake.columns import empty_columns
from intake.compression import parse
from intake.limits import MOST_ROWS
from intake.session import ClockOffset, CollectorSession
from intake.spool import Spool

START = Instant(1_700_000_000 * SECOND_NS, 50 * SECOND_NS)


def after(seconds, start=START):
    return Instant(start.unix_ns + int(seconds * SECOND_NS), start.monotonic_ns + int(seconds * SECOND_NS))


def session_with(spool=None, chance=0.5, snapshot=None):
    hello = intake_pb2.Hello(kind=intake_pb2.COLLECTOR_KIND_KERNEL, session_id=bytes(16))
    entities = intake_pb2.Entities(processes=[intake_pb2.Process(id=1)])
    return CollectorSession(
        hello, snapshot or (lambda: [entities]), Spool() if spool is None else spool, lambda: chance
    )


def rows(count=1):
    columns = empty_columns(count)
    columns["socket"][:] = np.arange(1, count + 1)
    return columns


def submit(session, count=1):
    return session.submit(START.unix_ns, intake_pb2.Entities(), {"tcp": rows(count)}, intake_pb2.CollectorStatistics())


def sent(session, now=START):
    """All that the session has to send, as (kind, message)."""
    messages = []
    while data := session.next_message(now):
        message = parse(data)
        kind = message.WhichOneof("message")
        messages.append((kind, getattr(message, kind)))
    return messages


def kinds(messages):
    return [kind for kind, _ in messages]


def welcome(session, now=START, **fields):
    session.received(intake_pb2.FromReducer(welcome=intake_pb2.Welcome(time_unix_ns=now.unix_ns, **fields)), now)


def connect(session, now=START, **fields):
    session.connected(now)
    hello = sent(session, now)
    assert kinds(hello) == ["hello"]
    welcome(session, now, **fields)
    return sent(session, now)


def ack(session, number):
    session.received(intake_pb2.FromReducer(ack=intake_pb2.Ack(number=number)), START)


def test_before_the_welcome_there_is_only_the_hello():
    session = session_with()
    submit(session)
    session.connected(START)
    [(kind, hello)] = sent(session)
    assert (kind, hello.protocol_version, hello.time_unix_ns) == ("hello", 1, START.unix_ns)


def test_after_the_welcome_come_offset_snapshot_and_batches_in_order():
    session = session_with()
    submit(session)
    submit(session)
    messages = connect(session, after(0))
    assert kinds(messages) == ["heartbeat", "snapshot", "batch", "batch"]
    assert messages[0][1].behind
    assert messages[1][1].entities.processes[0].id == 1
    assert [batch.number for kind, batch in messages if kind == "batch"] == [1, 2]
    submit(session)
    assert kinds(sent(session)) == ["batch"]
    assert session.all_sent


def test_a_heartbeat_that_nothing_is_behind_says_so():
    session = session_with()
    connect(session)
    [(_, heartbeat)] = sent(session, after(5))
    assert not heartbeat.behind


def test_what_was_not_acknowledged_is_sent_again():
    session = session_with()
    for _ in range(3):
        submit(session)
    connect(session)
    ack(session, 1)
    session.disconnected(START)
    assert [batch.number for kind, batch in connect(session) if kind == "batch"] == [2, 3]
    session.disconnected(START)
    assert [batch.number for kind, batch in connect(session, acknowledged=2) if kind == "batch"] == [3]
    assert session.acknowledged == 2


def test_a_snapshot_may_come_in_parts():
    parts = [intake_pb2.Entities(retired_pods=[name]) for name in ("a", "b", "c")]
    session = session_with(snapshot=lambda: iter(parts))
    submit(session)
    messages = connect(session)
    assert kinds(messages) == ["heartbeat", "snapshot", "snapshot", "snapshot", "batch"]
    told = [(part.partial, part.entities.retired_pods[0]) for kind, part in messages if kind == "snapshot"]
    assert told == [(True, "a"), (True, "b"), (False, "c")]


def test_parts_of_a_snapshot_are_made_when_they_are_sent_and_anew_for_each_connection():
    made = []

    def parts():
        for number in (1, 2):
            made.append(number)
            yield intake_pb2.Entities()

    session = session_with(snapshot=parts)
    session.connected(START)
    sent(session)
    welcome(session)
    heartbeat, first = (parse(session.next_message(START)) for _ in range(2))
    assert (heartbeat.WhichOneof("message"), first.snapshot.partial, made) == ("heartbeat", True, [1, 2])
    assert parse(session.next_message(after(5))).HasField("heartbeat")
    session.disconnected(START)
    assert [part.partial for kind, part in connect(session) if kind == "snapshot"] == [True, False]
    assert made == [1, 2, 1, 2]


def test_a_snapshot_of_nothing_is_one():
    assert kinds(connect(session_with(snapshot=list))) == ["heartbeat", "snapshot"]


def test_batches_that_only_tell_of_entities_give_way_to_a_snapshot():
    session = session_with()
    session.submit(1, intake_pb2.Entities(retired_pods=["a"]), {}, None)
    submit(session)
    session.submit(1, intake_pb2.Entities(retired_pods=["b"]), {}, None)
    assert [batch.number for kind, batch in connect(session) if kind == "batch"] == [2]
    session.submit(1, intake_pb2.Entities(retired_pods=["c"]), {}, None)
    assert [batch.number for _, batch in sent(session)] == [4]
    session.disconnected(START)
    assert [batch.number for kind, batch in connect(session) if kind == "batch"] == [2]
    ack(session, 2)
    assert (session.acknowledged, len(session._spool), session._spool.bytes) == (4, 0, 0)


def test_a_refused_snapshot_is_not_sent_again():
    session = session_with()
    connect(session)
    refusal = intake_pb2.Refusal(number=0, reason="too many")
    session.received(intake_pb2.FromReducer(refusal=refusal), START)
    assert kinds(sent(session)) == []


def test_a_refused_batch_is_counted_and_not_sent_again():
    session = session_with()
    submit(session)
    submit(session)
    connect(session)
    refusal = intake_pb2.Refusal(number=1, reason="because")
    assert session.received(intake_pb2.FromReducer(refusal=refusal), START) == "batch 1: because"
    assert session.batches_refused == 1
    assert kinds(sent(session)) == ["snapshot"]
    session.disconnected(START)
    assert [batch.number for kind, batch in connect(session) if kind == "batch"] == [2]


def test_more_rows_than_a_batch_holds_become_several():
    session = session_with()
    assert submit(session, MOST_ROWS + 1) == 2
    batches = [batch for kind, batch in connect(session) if kind == "batch"]
    assert [batch.tcp.rows for batch in batches] == [MOST_ROWS, 1]
    assert [batch.HasField("statistics") for batch in batches] == [True, False]


def test_a_batch_without_rows_is_one():
    session = session_with()
    connect(session)
    assert session.submit(1, intake_pb2.Entities(), {}, None) == 1
    assert kinds(sent(session)) == ["batch"]


def test_statistics_tell_of_the_spool():
    session = session_with(Spool(1_000))
    for count in (3, 3, 20, 20, 20, 1_000, 1, 1):
        submit(session, count)
    told = [batch for kind, batch in connect(session) if kind == "batch"][-1].statistics
    assert told.spool_bytes > 0
    assert told.spool_rows_merged > 0
    assert told.spool_rows_dropped > 0
    assert told.spool_bytes_dropped == 0


def test_entities_of_batches_that_made_room_come_with_a_snapshot():
    session = session_with(Spool(3_000, 1_000))
    connect(session)
    for _ in range(40):
        submit(session)
    assert kinds(sent(session))[:2] == ["snapshot", "batch"]


def test_the_welcome_sets_the_intervals():
    session = session_with()
    assert session.poll_interval_ns == 5 * SECOND_NS
    connect(session, poll_interval_ns=SECOND_NS, heartbeat_interval_ns=2 * SECOND_NS)
    assert session.poll_interval_ns == SECOND_NS
    assert kinds(sent(session, after(1.9))) == []
    assert kinds(sent(session, after(2.0))) == ["heartbeat"]
    session.disconnected(START)
    connect(session, poll_interval_ns=1)
    assert session.poll_interval_ns == SECOND_NS // 10


def test_a_clock_set_back_does_not_stop_heartbeats():
    session = session_with()
    connect(session)
    set_back = Instant(START.unix_ns - 3600 * SECOND_NS, START.monotonic_ns + 5 * SECOND_NS)
    assert kinds(sent(session, set_back)) == ["heartbeat"]


def test_the_shortest_round_trip_tells_the_offset():
    offset = ClockOffset()
    offset.sample(START, START.unix_ns + 10 * SECOND_NS, after(2))
    assert offset.ns == 9 * SECOND_NS
    offset.sample(START, START.unix_ns + 9 * SECOND_NS, after(0.1))
    assert offset.ns == int(8.95 * SECOND_NS)
    offset.sample(START, START.unix_ns + 10 * SECOND_NS, after(2))
    assert offset.ns == int(8.95 * SECOND_NS)


def test_a_round_trip_that_contradicts_tells_that_a_clock_was_set():
    offset = ClockOffset()
    offset.sample(START, START.unix_ns, after(0.1))
    offset.sample(START, START.unix_ns + 60 * SECOND_NS, after(1))
    assert offset.ns == int(59.5 * SECOND_NS)


def test_answers_to_heartbeats_correct_the_offset():
    session = session_with()
    session.connected(START)
    sent(session)
    welcome(session, after(2))
    sent(session, after(2))
    reply = intake_pb2.HeartbeatReply(heartbeat_time_unix_ns=after(2).unix_ns, time_unix_ns=after(7).unix_ns)
    session.received(intake_pb2.FromReducer(heartbeat=reply), after(2.2))
    assert session.clock_offset.ns == int(4.9 * SECOND_NS)
    [(_, heartbeat)] = sent(session, after(8))
    assert heartbeat.clock_offset_ns == int(4.9 * SECOND_NS)


def test_without_a_welcome_the_connection_is_given_up():
    session = session_with()
    session.connected(START)
    sent(session)
    assert session.lost(after(10)) is None
    assert "no welcome" in session.lost(after(10.1))


def test_without_answers_the_connection_is_given_up():
    session = session_with()
    connect(session)
    assert session.lost(after(12)) is None
    assert "heartbeats unanswered" in session.lost(after(12.1))
    session.received(intake_pb2.FromReducer(heartbeat=intake_pb2.HeartbeatReply()), after(12))
    assert session.lost(after(60)) is None
    sent(session, after(60))
    assert session.lost(after(72.1))


def test_the_wait_grows_up_to_a_limit_and_is_scattered():
    session = session_with(chance=1.0)
    waits = [session.disconnected(START) / SECOND_NS for _ in range(8)]
    assert waits == [0.5, 1, 2, 4, 8, 15, 15, 15]
    assert session_with(chance=0.0).disconnected(START) == 0


@pytest.mark.parametrize(("lasted", "wait"), [(9, 2), (10, 0.5)])
def test_a_stable_connection_ends_the_growth(lasted, wait):
    session = session_with(chance=1.0)
    session.disconnected(START)
    session.disconnected(START)
    connect(session)
    assert session.disconnected(after(lasted)) == wait * SECOND_NS


def test_a_connection_that_was_never_welcomed_is_not_stable():
    session = session_with(chance=1.0)
    session.disconnected(START)
    session.connected(START)
    assert session.disconnected(after(100)) == SECOND_NS
