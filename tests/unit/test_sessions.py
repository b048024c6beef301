import os
from pathlib import Path

import numpy as np
import pytest
from ebpf_net.v1 import intake_pb2

from intake.clock import SECOND_NS
from intake.columns import empty_columns
from reducer.session import Stream
from reducer.sessions import ReducerSessions, RejectedError
from tests.rows import packed_rows

NOW = 1_700_000_000 * SECOND_NS
ID = bytes(range(16))


class Recorder:
    def __init__(self):
        self.calls = []
        self.pods = []

    def hello(self, session, host, kind):
        self.calls.append(("hello", session, host.name))

    def snapshot(self, session, entities, now_ns, *, partial):
        self.calls.append(("snapshot", session, len(entities.processes), now_ns, partial))
        self.pods += [(pod.start_time_unix_ns, pod.end_time_unix_ns) for pod in entities.pods]

    def take(self, session, number, event_time_ns, batch, tables):
        self.calls.append(("take", session, number, event_time_ns, len(tables["tcp"]["socket"]) if tables else None))
        self.pods += [(pod.start_time_unix_ns, pod.end_time_unix_ns) for pod in batch.entities.pods]

    def heard(self, session, event_time_ns):
        self.calls.append(("heard", session, event_time_ns))

    def closed(self, session, now_ns):
        self.calls.append(("closed", session, now_ns))

    def forget(self, session):
        self.calls.append(("forget", session))

    def of(self, kind):
        return [call[2:] for call in self.calls if call[0] == kind]


@pytest.fixture
def pipeline():
    return Recorder()


@pytest.fixture
def sessions(pipeline):
    return ReducerSessions(pipeline, 30 * SECOND_NS, 5 * SECOND_NS)


def give(sessions, stream, **message):
    answer = sessions.received(stream, intake_pb2.FromCollector(**message).SerializeToString(), NOW)
    return answer and (answer.WhichOneof("message"), getattr(answer, answer.WhichOneof("message")))


def hello(sessions, session_id=ID, superseded=lambda: None, **fields):
    stream = Stream(superseded)
    fields = {"protocol_version": 1, "kind": 1, "session_id": session_id, "host": {"name": "h"}} | fields
    kind, welcome = give(sessions, stream, hello=intake_pb2.Hello(**fields))
    assert kind == "welcome"
    return stream, welcome


def batch(number, rows=1, time=NOW, **fields):
    columns = empty_columns(rows)
    columns["socket"][:] = np.arange(1, rows + 1)
    return intake_pb2.Batch(number=number, time_unix_ns=time, tcp=packed_rows("tcp", columns), **fields)


def test_a_hello_is_welcomed(sessions, pipeline):
    _, welcome = hello(sessions, time_unix_ns=77)
    assert (welcome.window_ns, welcome.poll_interval_ns) == (30 * SECOND_NS, 5 * SECOND_NS)
    assert (welcome.hello_time_unix_ns, welcome.time_unix_ns, welcome.acknowledged) == (77, NOW, 0)
    assert pipeline.calls == [("hello", ID, "h")]
    assert [(session.host, session.kind) for session in sessions.connected()] == [("h", "COLLECTOR_KIND_KERNEL")]


@pytest.mark.parametrize(
    ("message", "status", "told"),
    [
        ({"hello": {"protocol_version": 2, "session_id": ID, "kind": 1}}, "FAILED_PRECONDITION", "speaks version 2"),
        ({"hello": {"protocol_version": 1, "session_id": b"short", "kind": 1}}, "INVALID_ARGUMENT", "5 bytes"),
        ({"hello": {"protocol_version": 1, "session_id": ID, "kind": 99}}, "INVALID_ARGUMENT", "kind 99"),
        ({"heartbeat": {}}, "INVALID_ARGUMENT", "first message must be a Hello"),
    ],
)
def test_a_stream_that_cannot_go_on_is_rejected(sessions, pipeline, message, status, told):
    with pytest.raises(RejectedError, match=told) as raised:
        give(sessions, Stream(lambda: None), **message)
    assert raised.value.status == status
    assert not pipeline.calls


def test_a_first_message_that_cannot_be_parsed_is_rejected(sessions):
    with pytest.raises(RejectedError, match="none of this protocol"):
        sessions.received(Stream(lambda: None), b"\xff\xff", NOW)


def test_a_batch_is_taken_once(sessions, pipeline):
    stream, _ = hello(sessions)
    for number in (1, 2, 2, 1, 5):
        assert give(sessions, stream, batch=batch(number, rows=3)) is None
    assert [call[0] for call in pipeline.of("take")] == [1, 2, 5]
    counters = sessions.counters
    assert (counters.batches, counters.rows, counters.duplicates) == (3, 9, 2)


def test_a_duplicate_that_is_safe_is_acknowledged_again(sessions):
    stream, _ = hello(sessions)
    for number in (1, 2, 3):
        give(sessions, stream, batch=batch(number))
    assert [session.safe for session in sessions.safe({ID: 2, bytes(16): 9})] == [2]
    assert sessions.safe({ID: 1}) == []
    kind, ack = give(sessions, stream, batch=batch(1))
    assert (kind, ack.number) == ("ack", 2)
    assert give(sessions, stream, batch=batch(3)) is None


def test_numbers_outlive_connections_and_restarts(sessions, pipeline):
    stream, _ = hello(sessions)
    give(sessions, stream, batch=batch(4))
    sessions.safe({ID: 3})
    sessions.closed(stream, NOW)
    assert list(sessions.connected()) == []
    assert pipeline.of("closed") == [(NOW,)]
    stream, welcome = hello(sessions)
    assert welcome.acknowledged == 3
    give(sessions, stream, batch=batch(4))
    assert len(pipeline.of("take")) == 1
    again = ReducerSessions(pipeline, SECOND_NS, SECOND_NS)
    again.restore({ID: 3})
    stream, welcome = hello(again)
    assert welcome.acknowledged == 3
    give(again, stream, batch=batch(3))
    give(again, stream, batch=batch(4))
    assert [call[0] for call in pipeline.of("take")] == [4, 4]


def test_a_second_stream_takes_the_session_over(sessions, pipeline):
    ended = []
    first, _ = hello(sessions, superseded=lambda: ended.append(1))
    second, _ = hello(sessions)
    assert ended == [1]
    with pytest.raises(RejectedError, match="took this session over") as raised:
        give(sessions, first, batch=batch(9))
    assert raised.value.status == "ABORTED"
    sessions.closed(first, NOW)
    assert pipeline.of("closed") == []
    give(sessions, second, batch=batch(1))
    assert [call[0] for call in pipeline.of("take")] == [1]
    assert len(list(sessions.connected())) == 1


@pytest.mark.parametrize(
    ("data", "number", "told"),
    [
        (b"\xff\xff\xff", 0, "not a message"),
        (b"", 0, "of no use"),
        (intake_pb2.FromCollector(hello={}).SerializeToString(), 0, "of no use"),
        (
            intake_pb2.FromCollector(batch={"number": 7, "tcp": {"rows": 2, "socket": b"x"}}).SerializeToString(),
            7,
            "soc",
        ),
    ],
)
def test_a_malformed_message_is_refused_and_the_stream_goes_on(sessions, pipeline, data, number, told):
    stream, _ = hello(sessions)
    refusal = sessions.received(stream, data, NOW).refusal
    assert refusal.number == number
    assert told in refusal.reason
    assert sessions.counters.refused == 1
    give(sessions, stream, batch=batch(8))
    assert [call[0] for call in pipeline.of("take")] == [8]


def test_a_refused_batch_is_refused_again(sessions):
    stream, _ = hello(sessions)
    for _ in range(2):
        kind, refusal = give(sessions, stream, batch={"number": 1, "tcp": {"rows": 1, "role": b"\x09"}})
        assert (kind, refusal.number) == ("refusal", 1)


def test_times_are_corrected_by_the_offset(sessions, pipeline):
    stream, _ = hello(sessions)
    kind, reply = give(sessions, stream, heartbeat={"time_unix_ns": NOW - 100, "clock_offset_ns": 50})
    assert (kind, reply.heartbeat_time_unix_ns, reply.time_unix_ns) == ("heartbeat", NOW - 100, NOW)
    give(sessions, stream, batch=batch(1, time=NOW - 1_000))
    assert pipeline.of("heard") == [(NOW - 50,)]
    assert pipeline.of("take") == [(1, NOW - 950, 1)]


def test_a_heartbeat_that_batches_are_behind_does_not_say_that_all_was_told(sessions, pipeline):
    stream, _ = hello(sessions)
    give(sessions, stream, heartbeat={"time_unix_ns": NOW, "behind": True})
    assert pipeline.of("heard") == []


@pytest.mark.parametrize("time", [0, NOW + 6 * SECOND_NS, NOW - 25 * 3600 * SECOND_NS, 2**64 - 1])
def test_times_that_cannot_be_are_the_present(sessions, pipeline, time):
    stream, _ = hello(sessions)
    give(sessions, stream, batch=batch(1, time=time))
    assert pipeline.of("take") == [(1, NOW, 1)]
    assert sessions.counters.times_clamped == 1


def test_snapshots_go_to_the_pipeline_within_limits(sessions, pipeline):
    stream, _ = hello(sessions)
    assert give(sessions, stream, snapshot={"entities": {"processes": [{"id": 1, "name": "n" * 999}]}}) is None
    assert give(sessions, stream, snapshot={"partial": True}) is None
    assert pipeline.of("snapshot") == [(1, NOW, False), (0, NOW, True)]
    assert sessions.counters.strings_cut == 1
    kind, _ = give(sessions, stream, snapshot={"entities": {"retired_processes": [1] * 65_537}})
    assert kind == "refusal"


def test_statistics_are_kept(sessions):
    stream, _ = hello(sessions)
    give(sessions, stream, batch=batch(1, statistics=intake_pb2.CollectorStatistics(events_lost=3)))
    give(sessions, stream, batch=batch(2))
    assert next(sessions.connected()).statistics.events_lost == 3


def test_the_session_that_was_disconnected_first_is_forgotten(pipeline):
    sessions = ReducerSessions(pipeline, SECOND_NS, SECOND_NS, most_sessions=2)
    streams = [hello(sessions, bytes([i]) * 16)[0] for i in range(2)]
    with pytest.raises(RejectedError, match="takes 2 collectors"):
        hello(sessions, bytes(16 * [9]))
    for stream in reversed(streams):
        give(sessions, stream, batch=batch(5))
        sessions.safe({stream.session.id: 5})
        sessions.closed(stream, NOW)
    hello(sessions, bytes([7]) * 16)
    assert sessions.counters.sessions_forgotten == 1
    assert [call for call in pipeline.calls if call[0] == "forget"] == [("forget", bytes([1]) * 16)]
    assert hello(sessions, bytes([0]) * 16)[1].acknowledged == 5


def test_restored_sessions_are_bounded(pipeline):
    sessions = ReducerSessions(pipeline, SECOND_NS, SECOND_NS, most_sessions=2)
    sessions.restore({bytes([i]) * 16: 1 for i in range(5)})
    assert len(sessions) == 2


@pytest.mark.parametrize("skew_s", [-300, 0, 300])
def test_times_of_pods_are_corrected_as_those_of_batches_are(sessions, pipeline, skew_s):
    skew_ns = skew_s * SECOND_NS
    stream, _ = hello(sessions, kind=2)
    give(sessions, stream, heartbeat=intake_pb2.Heartbeat(time_unix_ns=NOW + skew_ns, clock_offset_ns=-skew_ns))
    begin, end = NOW - 60 * SECOND_NS, NOW - SECOND_NS
    told = {"uid": "p", "start_time_unix_ns": begin + skew_ns, "end_time_unix_ns": end + skew_ns}
    entities = intake_pb2.Entities(pods=[told, {"uid": "q"}])
    give(sessions, stream, snapshot=intake_pb2.Snapshot(entities=entities))
    give(sessions, stream, batch=batch(1, time=NOW + skew_ns, entities=entities))
    assert pipeline.pods == [(begin, end), (0, 0)] * 2


@pytest.mark.parametrize("offset_ns", [-(1 << 63), (1 << 63) - 1])
def test_times_of_pods_are_none_no_more_than_before_whatever_the_clock_said(sessions, pipeline, offset_ns):
    stream, _ = hello(sessions, kind=2)
    give(sessions, stream, heartbeat=intake_pb2.Heartbeat(time_unix_ns=NOW, clock_offset_ns=offset_ns))
    pods = intake_pb2.Entities(pods=[{"uid": "p", "start_time_unix_ns": NOW, "end_time_unix_ns": (1 << 64) - 1}])
    give(sessions, stream, snapshot=intake_pb2.Snapshot(entities=pods))
    assert all(0 < time_ns <= 1 << 62 for pod in pipeline.pods for time_ns in pod)


def test_nothing_of_a_hello_is_kept_but_what_is_of_use(sessions, pipeline, monkeypatch):
    hosts = []
    monkeypatch.setattr(pipeline, "hello", lambda session, host, kind: hosts.append(host))
    own, large = bytes(16), {"interfaces": [{"name": "eth0", "addresses": [bytes(16)] * 1000}] * 100}
    pairs = [{"public": own, "private": own}] * 100
    for number in range(20):
        if number == 1:  # what one takes meanwhile may stay the process's
            before = _resident_bytes()
        hello(
            sessions,
            number.to_bytes(16),
            version="v" * (4 << 20),
            host={"name": "h", "addresses": [own], "cloud": {"addresses": pairs}, **large},
        )
    kept = intake_pb2.Host(name="h", addresses=[own], cloud={"addresses": pairs[:64]})
    assert hosts == [kept] * 20
    assert _resident_bytes() - before < 40 << 20


def _resident_bytes():
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def watching(sessions, number, watches):
    return hello(sessions, bytes((number,)) * 16, host={"name": "h", "watches": watches})[0]


def test_of_collectors_that_watch_the_same_one_counts(sessions, pipeline):
    first, second, other, silent = (watching(sessions, *each) for each in ((1, "w"), (2, "w"), (3, "v"), (4, "")))
    assert [each.session in sessions.twins for each in (first, second, other, silent)] == [False, True, False, False]
    for stream in (first, second, other, silent):
        give(sessions, stream, batch=batch(1, rows=3))
    assert pipeline.of("take") == [(1, NOW, 3), (1, NOW, None), (1, NOW, 3), (1, NOW, 3)]
    assert (sessions.counters.rows_of_twins, second.session.taken) == (3, 1)


def test_second_collector_counts_from_when_the_first_told_all(sessions, pipeline):
    first, second = watching(sessions, 1, "w"), watching(sessions, 2, "w")
    give(sessions, second, batch=batch(1, time=NOW - 9 * SECOND_NS))
    give(sessions, first, batch=batch(1, time=NOW - 8 * SECOND_NS))
    sessions.closed(first, NOW)
    # Its batch after that tells from the one before on, some of which is told.
    for number, before in ((2, 4), (3, 1)):
        give(sessions, second, batch=batch(number, time=NOW - before * SECOND_NS))
    assert [rows for *_, rows in pipeline.of("take")] == [None, 1, None, 1]
    # Who comes back is the second now.
    first = watching(sessions, 1, "w")
    give(sessions, first, batch=batch(2))
    assert pipeline.of("take")[-1] == (2, NOW, None)
    # What it had told when the other went was whole, so that its next batch begins where that one ended.
    sessions.closed(second, NOW)
    give(sessions, first, batch=batch(3, time=NOW + SECOND_NS))
    assert pipeline.of("take")[-1] == (3, NOW + SECOND_NS, 1)


def test_poll_of_a_second_collector_is_left_out_as_a_whole(sessions, pipeline):
    first, second = watching(sessions, 1, "w"), watching(sessions, 2, "w")
    give(sessions, first, batch=batch(1, time=NOW - 7 * SECOND_NS))
    give(sessions, second, batch=batch(1, time=NOW - 9 * SECOND_NS))
    sessions.closed(first, NOW)
    for number, before in ((2, 4), (3, 4), (4, 1)):
        give(sessions, second, batch=batch(number, time=NOW - before * SECOND_NS))
    assert [rows for *_, rows in pipeline.of("take")] == [1, None, None, None, 1]


def test_second_collector_counts_soon_though_the_clock_was_set_back(sessions, pipeline):
    first, second = watching(sessions, 1, "w"), watching(sessions, 2, "w")
    give(sessions, first, batch=batch(1))
    for number in range(1, 6):
        now = NOW - (3600 - 5 * number) * SECOND_NS
        message = intake_pb2.FromCollector(batch=batch(number, time=now))
        sessions.received(second, message.SerializeToString(), now)
        sessions.closed(first, now)
    assert [rows for *_, rows in pipeline.of("take")] == [1, None, None, 1, 1, 1]


def test_second_collector_counts_where_the_first_hangs(sessions, pipeline):
    first, second = watching(sessions, 1, "w"), watching(sessions, 2, "w")
    for number, at_s in enumerate((29, 31, 33), 1):
        message = intake_pb2.FromCollector(batch=batch(number, time=NOW + at_s * SECOND_NS))
        sessions.received(second, message.SerializeToString(), NOW + at_s * SECOND_NS)
    give(sessions, first, batch=batch(1))
    assert [rows for *_, rows in pipeline.of("take")] == [None, 1, 1, None]


def test_collector_that_connects_again_before_its_connection_has_ended_goes_on_counting(sessions):
    first, _ = watching(sessions, 1, "w"), watching(sessions, 2, "w")
    again = watching(sessions, 1, "w")
    sessions.closed(first, NOW)
    assert again.session not in sessions.twins
