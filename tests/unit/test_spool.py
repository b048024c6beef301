import numpy as np
import pytest
from ebpf_net.v1 import intake_pb2

from intake.columns import TABLES, empty_columns, unpack_rows
from intake.compression import parse
from intake.spool import SPOOL_BYTES, Spool


def batch_of(sockets, time=1, **columns):
    rows = empty_columns(len(sockets))
    rows["socket"][:] = sockets
    rows["bytes_sent"][:] = 1
    addresses = b"".join(np.random.default_rng(socket).bytes(16) for socket in sockets)  # which no zlib makes smaller
    rows["local_address"] = np.frombuffer(addresses, "V16")
    for name, values in columns.items():
        rows[name][:] = values
    return intake_pb2.Batch(time_unix_ns=time), {"tcp": rows}


def decoded(spool):
    return [parse(batch.message).batch for batch in spool.pending()]


def filled(batches, *, sockets, sent=0, limit=50_000, merged_bytes=20_000):
    """A spool that was given more than it holds: 100 rows take 2,000 bytes."""
    spool = Spool(limit, merged_bytes)
    for i in range(batches):
        spool.append(*batch_of(sockets(i), time=i + 1))
        if i < sent:
            spool.sent(i + 1)
    return spool


def same(_):
    return range(100)


def other(i):
    return range(100 * i, 100 * i + 100)


def test_batches_are_numbered_from_one_and_kept_until_acknowledged():
    spool = Spool()
    for _ in range(3):
        assert not spool.append(*batch_of([1]))
    assert [batch.number for batch in spool.pending()] == [1, 2, 3]
    spool.sent(3)
    spool.acknowledge(2)
    assert [batch.number for batch in decoded(spool)] == [3]
    assert spool.acknowledged == 2
    spool.acknowledge(3)
    assert (len(spool), spool.bytes, spool.acknowledged) == (0, 0, 3)


def test_what_was_never_sent_cannot_be_acknowledged_or_refused():
    spool = Spool()
    spool.append(*batch_of([1]))
    spool.append(*batch_of([1]))
    spool.sent(1)
    spool.acknowledge(99)
    assert [batch.number for batch in spool.pending()] == [2]
    assert not spool.refuse(2)
    assert len(spool) == 1


def test_a_refused_batch_leaves_alone():
    spool = Spool()
    for _ in range(3):
        spool.append(*batch_of([1]))
    spool.sent(3)
    assert spool.refuse(2)
    assert not spool.refuse(2)
    assert not spool.refuse(0)
    assert [batch.number for batch in spool.pending()] == [1, 3]


def test_a_full_spool_adds_up_rows_of_the_same_sockets():
    spool = filled(60, sockets=same)
    assert spool.bytes <= 50_000
    assert spool.rows_dropped == 0
    assert spool.rows_merged > 0
    total = sum(int(unpack_rows("tcp", batch.tcp, 1_000)["bytes_sent"].sum()) for batch in decoded(spool))
    assert total == 60 * 100
    assert sum(batch.rows for batch in spool.pending()) == 60 * 100 - spool.rows_merged


def test_batches_are_merged_to_what_a_message_should_hold():
    def often(i):
        return other(i // 4)

    spool = filled(60, sockets=often, merged_bytes=10_000)
    assert spool.rows_merged > 0
    assert max(batch.length for batch in spool.pending()) <= 10_000


def test_a_merged_batch_has_the_newest_number_and_time_and_no_entities():
    spool = Spool(50_000, 20_000)
    for i in range(60):
        batch, tables = batch_of(same(i), time=i + 1)
        batch.entities.processes.add(id=i + 1)
        batch.statistics.events_lost = i
        spool.append(batch, tables)
    first = decoded(spool)[0]
    assert first.number > 1
    assert spool.acknowledged == 0
    assert first.time_unix_ns == first.number
    assert first.statistics.events_lost == first.number - 1
    assert not first.entities.processes
    numbers = [batch.number for batch in decoded(spool)]
    assert numbers == sorted(set(numbers))
    assert numbers[-1] == 60


def test_a_merged_row_has_the_age_that_it_has_when_the_newest_was_told():
    spool = Spool(50_000, 20_000)
    for i in range(60):
        spool.append(*batch_of(same(i), time=(i + 1) * 1_000_000_000, age_ms=10 if i == 3 else 0))
    first = decoded(spool)[0]
    elapsed_ms = first.time_unix_ns // 1_000_000 - 4_000
    assert elapsed_ms > 0
    assert set(unpack_rows("tcp", first.tcp, 1_000)["age_ms"].tolist()) == {elapsed_ms + 10}


def test_append_tells_whether_entities_went():
    spool = Spool(50_000, 20_000)
    told = [spool.append(*batch_of(same(i))) for i in range(60)]
    assert any(told)
    assert not told[0]
    dropping = Spool(50_000, 20_000)
    assert sum(dropping.append(*batch_of(other(i))) for i in range(60)) > 0
    assert dropping.rows_merged == 0
    first = told.index(True)
    sent = Spool(50_000, 20_000)
    for i in range(first):
        sent.append(*batch_of(same(i)))
    sent.sent(first)
    assert not sent.append(*batch_of(same(first)))
    assert sent.rows_dropped > 0


def test_a_batch_that_was_sent_is_never_merged():
    spool = filled(40, sockets=same, sent=10)
    kept = [batch.number for batch in spool.pending()]
    assert kept[:10] == list(range(1, 11))
    assert spool.rows_merged > 0
    assert spool.rows_dropped == 0


def test_what_does_not_merge_is_dropped_oldest_first_and_counted():
    spool = filled(60, sockets=other)
    numbers = [batch.number for batch in spool.pending()]
    assert spool.bytes <= 50_000
    assert numbers[-1] == 60
    kept = sum(batch.rows for batch in spool.pending())
    assert spool.rows_dropped == 60 * 100 - kept > 0
    assert spool.bytes_dropped == spool.rows_dropped
    assert spool.rows_merged == 0
    assert spool.acknowledged == numbers[0] - 1 == spool.rows_dropped // 100
    sockets = np.concatenate([unpack_rows("tcp", batch.tcp, 1_000)["socket"] for batch in decoded(spool)])
    assert sockets.tolist() == list(range(6_000 - kept, 6_000))


def test_a_batch_larger_than_the_spool_is_kept_alone():
    spool = Spool(1_000)
    spool.append(*batch_of([1]))
    spool.append(*batch_of(range(1_000)))
    assert [batch.number for batch in spool.pending()] == [2]
    spool.append(*batch_of([1]))
    assert [batch.number for batch in spool.pending()] == [3]
    assert spool.rows_dropped == 1_001


def test_the_default_holds_an_outage_of_minutes():
    columns = empty_columns(1)
    row = sum(values.itemsize for values in columns.values())
    assert SPOOL_BYTES // row > 100_000


def test_the_rows_of_each_table_are_merged_by_themselves():
    spool = Spool(3_000)
    for _ in range(40):
        tables = {}
        for table, counter in (("tcp", "segments_sent"), ("udp", "packets_sent")):
            tables[table] = empty_columns(2, table)
            tables[table]["socket"][:] = (1, 2)
            tables[table]["bytes_sent"][:] = 10
            tables[table][counter][:] = 1
        spool.append(intake_pb2.Batch(), tables)
    assert spool.rows_dropped == 0
    assert spool.rows_merged > 0
    for table, counter in (("tcp", "segments_sent"), ("udp", "packets_sent")):
        merged = [unpack_rows(table, getattr(batch, table), 1_000) for batch in decoded(spool)]
        assert sum(int(rows["bytes_sent"].sum()) for rows in merged) == 40 * 2 * 10
        assert sum(int(rows[counter].sum()) for rows in merged) == 40 * 2


@pytest.mark.parametrize("table", TABLES)
def test_every_table_is_kept(table):
    spool = Spool()
    spool.append(intake_pb2.Batch(time_unix_ns=1), {table: empty_columns(3, table)})
    assert [kept.rows for kept in spool.pending()] == [3]
