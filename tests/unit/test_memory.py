import pytest
from ebpf_net.v1 import intake_pb2

from intake.addresses import packed
from reducer.knowledge import owners
from tests.flow_rows import CLIENT, Feed, acceptor_row, connector_row, series_of


def two_hosts(**options):
    feed = Feed(**options)
    feed.session(0, "wget")
    feed.session(1, "-", "nginx")
    return feed


def test_flows_are_forgotten_when_both_ends_have_closed():
    feed = two_hosts()
    feed.take(0, 3, connector_row(bytes_sent=5, opened=1, closed=1))
    feed.take(1, 3, acceptor_row(bytes_received=5, opened=1, closed=1))
    feed.seal()
    assert feed.pipeline.statistics().flows == 0


def test_flows_are_kept_while_one_end_has_more_to_tell():
    for late in ({"closed": 0}, {"bytes_received": 4}, {"opened": 0}):
        feed = two_hosts()
        feed.take(0, 3, connector_row(bytes_sent=5, opened=1, closed=1))
        feed.take(1, 3, acceptor_row(**({"bytes_received": 5, "opened": 1, "closed": 1} | late)))
        feed.seal()
        assert feed.pipeline.statistics().flows == 1


def test_failed_connects_are_not_remembered():
    feed = two_hosts()
    feed.take(0, 3, connector_row(failed=1, failure=1))
    feed.seal()
    assert feed.pipeline.statistics().flows == 0


def test_flows_are_forgotten_after_idle_windows():
    feed = two_hosts()
    feed.take(0, 3, connector_row(bytes_sent=5))
    feed.seal()
    for index in range(1, 11):
        feed.take(0, index * 30 + 3, connector_row(local_port=2, bytes_sent=1, socket=3))
        feed.seal(index)
        assert feed.pipeline.statistics().flows == (2 if index < 10 else 1)


def cut_off(windows):
    """Have the client's collector be away for so many windows, and then tell what the server told: how much it adds."""
    feed = two_hosts()
    feed.take(0, 3, connector_row(bytes_sent=5, opened=1))
    feed.take(1, 3, acceptor_row(bytes_received=5, opened=1))
    feed.seal(heard=(0, 1))
    feed.take(1, 33, acceptor_row(bytes_received=70))
    assert series_of(feed.seal(1, heard=(1,)))[("wget", "nginx")]["bytes"] == 70
    for index in range(2, windows):
        feed.take(1, index * 30 + 3, acceptor_row(remote_port=2, bytes_received=1, socket=3))
        feed.seal(index, heard=(1,))
    feed.take(0, 34, connector_row(bytes_sent=70))
    told = series_of(feed.seal(windows, heard=(0, 1)))
    return feed, sum(values.get("bytes", 0) for values in told.values())


def test_what_a_collector_that_was_away_tells_of_an_idle_flow_is_not_counted_again():
    feed, told_again = cut_off(30)
    assert told_again == 0
    for index in range(31, 45):
        feed.take(1, index * 30 + 3, acceptor_row(remote_port=2, bytes_received=1, socket=3))
        feed.seal(index, heard=(0, 1))
    assert feed.pipeline.statistics().flows == 1, "nothing is awaited any more"


def came_and_went(host):
    """Let a flow begin and end at *host* while its collector is away; return what it tells then counts for."""
    feed = Feed()
    feed.session(0, "wget", host=host)
    feed.session(1, "-", "nginx")
    feed.seal(heard=(0, 1))
    feed.take(1, 33, acceptor_row(bytes_received=70, opened=1, closed=1))
    assert series_of(feed.seal(1, heard=(1,)))["(unknown)", "nginx"]["bytes"] == 70
    for index in range(2, 30):
        feed.take(1, index * 30 + 3, acceptor_row(remote_port=2, bytes_received=1, socket=3))
        feed.seal(index, heard=(1,))
    feed.take(0, 34, connector_row(bytes_sent=70, opened=1, closed=1))
    return feed, series_of(feed.seal(30, heard=(0, 1)))


@pytest.mark.parametrize(
    "host",
    [
        intake_pb2.Host(addresses=[packed("10.9.9.9"), packed(CLIENT)]),
        intake_pb2.Host(
            cloud=intake_pb2.Cloud(addresses=[intake_pb2.PublicAddress(private=bytes(16), public=packed(CLIENT))])
        ),
    ],
)
def test_what_came_and_went_while_a_collector_was_away_is_not_counted_again(host):
    feed, told = came_and_went(host)
    assert not any(values.get(name) for values in told.values() for name in ("bytes", "opened", "closed"))
    assert feed.pipeline.statistics().addresses_unwatched == 0


def test_addresses_beyond_the_bound_are_left_out_and_counted(monkeypatch):
    monkeypatch.setattr(owners, "MOST_ADDRESSES", 1)
    feed, told = came_and_went(intake_pb2.Host(addresses=[packed("10.9.9.9"), packed(CLIENT)]))
    assert sum(values.get("bytes", 0) for values in told.values()) == 70
    assert feed.pipeline.statistics().addresses_unwatched > 0


def test_a_collector_is_not_awaited_for_ever():
    _, told_again = cut_off(130)
    assert told_again == 70


def test_a_collector_that_was_away_for_a_day_is_not_awaited():
    feed = Feed()
    feed.session(0, "wget", host=intake_pb2.Host(addresses=[packed(CLIENT)]))
    feed.session(1, "-", "nginx")
    feed.seal(heard=(0, 1))
    feed.seal(2880)
    for index in range(2881, 2892):
        flow = {"bytes_received": 70} if index == 2881 else {"remote_port": 2, "bytes_received": 1, "socket": 3}
        feed.take(1, index * 30 + 3, acceptor_row(**flow))
        feed.seal(index, heard=(1,))
    assert feed.pipeline.statistics().flows == 1, "the one that still has rows"


def test_too_many_flows_push_out_those_that_were_idle_the_longest():
    feed = two_hosts(most_flows=3)
    feed.take(0, 3, *(connector_row(local_port=port, bytes_sent=1) for port in (1, 2)))
    feed.take(1, 3, *(acceptor_row(remote_port=port, bytes_received=1) for port in (1, 2)))
    feed.seal()
    feed.take(0, 33, *(connector_row(local_port=port, bytes_sent=1) for port in (2, 3, 4)))
    feed.seal(1)
    assert feed.pipeline.statistics().flows == 3
    assert feed.pipeline.statistics().flows_untracked == 1
    feed.take(0, 63, *(connector_row(local_port=port, bytes_sent=1) for port in (1, 2)))
    assert set(series_of(feed.seal(2))) == {("wget", "nginx"), ("wget", "(unknown)")}


def test_a_connection_is_counted_once_whoever_tells_first():
    feed = two_hosts()
    feed.take(1, 29, acceptor_row(opened=1))
    assert series_of(feed.seal(heard=(0, 1))) == {("(unknown)", "nginx"): {"opened": 1, "active": 1}}
    feed.take(0, 31, connector_row(opened=1))
    assert series_of(feed.seal(1, heard=(0, 1))) == {("wget", "nginx"): {"active": 1}}


def test_a_port_used_again_is_complete_though_one_collector_missed_its_first_use():
    feed = two_hosts()
    feed.take(1, 3, acceptor_row(bytes_received=1000, closed=1))
    assert series_of(feed.seal(heard=(1,)))["(unknown)", "nginx"]["bytes"] == 1000
    feed.take(0, 33, connector_row(socket=8, bytes_sent=10))
    feed.take(1, 33, acceptor_row(socket=9, bytes_received=10))
    assert series_of(feed.seal(1, heard=(0, 1)))["wget", "nginx"]["bytes"] == 10


def test_rows_that_no_sum_would_hold_are_refused_and_counted():
    feed = two_hosts()
    for index in range(3):
        feed.take(0, index * 30 + 3, connector_row(bytes_sent=5), connector_row(bytes_sent=1 << 54, socket=9))
        for socket in range(3):
            feed.take(0, index * 30 + 3, connector_row(bytes_sent=1 << 55, socket=socket))
        window = feed.seal(index, heard=(0,))
        assert series_of(window)[("wget", "(unknown)")]["bytes"] == 5 + (1 << 54)
    assert feed.pipeline.statistics().rows_refused == 9
    assert feed.pipeline.statistics().balances_cut == 0


def test_a_flow_whose_ends_differ_beyond_belief_keeps_within_its_type():
    feed, told = two_hosts(), 0
    feed.take(0, 3, connector_row(bytes_sent=1))
    feed.seal(heard=(0, 1))
    for index in range(1, 1 << 8):
        feed.take(1, index * 30 + 3, acceptor_row(bytes_received=1 << 55))
        window = feed.seal(index, heard=(0, 1) if index % 8 else ())
        told += sum(values.get("bytes", 0) for values in series_of(window).values())
        assert all((values >= 0).all() for values in window.levels[0].values.values())
    assert feed.pipeline.statistics().rows_refused == 0
    assert feed.pipeline.statistics().balances_cut > 0
    assert 0 < told < (1 << 8) * (1 << 55)
