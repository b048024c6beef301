"""UDP rows through the pipeline: matched as TCP is, and told apart from it."""

from __future__ import annotations

import pytest
from ebpf_net.v1 import intake_pb2

from reducer.live import LiveView
from reducer.windows import window
from tests.flow_rows import CLIENT, SERVER, Feed, acceptor_row, connector_row, series_of

THERE, BACK = ("client", "server"), ("server", "client")


@pytest.fixture
def feed():
    started = Feed()
    started.session(0, "client")
    started.session(1, "", "server")
    return started


def client_row(**values):
    row = connector_row(**values)
    del row["role"]
    return row


def server_row(**values):
    row = acceptor_row(**values)
    del row["role"]
    return row


def test_the_sender_is_the_source_and_each_byte_counts_once(feed):
    feed.take(0, 3, udp=(client_row(bytes_sent=100, packets_sent=3, bytes_received=7, packets_received=1),))
    feed.take(1, 4, udp=(server_row(bytes_sent=9, packets_sent=2, bytes_received=90, packets_received=2),))
    assert series_of(feed.seal(heard=(0, 1))) == {
        THERE: {"udp_bytes": 100, "udp_packets": 3, "udp_active": 1},
        BACK: {"udp_bytes": 9, "udp_packets": 2, "udp_active": 1},
    }


def test_tcp_and_udp_between_the_same_ports_are_two_flows(feed):
    feed.take(0, 3, connector_row(bytes_sent=5, segments_sent=2), udp=(client_row(bytes_sent=100, packets_sent=3),))
    feed.take(1, 4, acceptor_row(bytes_received=5), udp=(server_row(bytes_received=100, packets_received=3),))
    assert series_of(feed.seal(heard=(0, 1))) == {
        THERE: {"bytes": 5, "packets": 2, "active": 1, "udp_bytes": 100, "udp_packets": 3, "udp_active": 1}
    }
    assert feed.pipeline.statistics().flows == 2


def test_drops_are_on_the_series_towards_the_socket_that_dropped(feed):
    feed.take(0, 3, udp=(client_row(bytes_sent=100, packets_sent=3),))
    feed.take(1, 4, udp=(server_row(drops=2),))
    assert series_of(feed.seal(heard=(0, 1)))[THERE]["udp_drops"] == 2


def test_what_the_receiver_tells_later_is_not_counted_again(feed):
    feed.take(0, 29, udp=(client_row(bytes_sent=100, packets_sent=1),))
    feed.take(1, 31, udp=(server_row(bytes_received=100, packets_received=1),))
    assert series_of(feed.seal(heard=(0, 1)))[THERE]["udp_bytes"] == 100
    assert series_of(feed.seal(1, heard=(0, 1))) == {}


def test_an_end_without_collector_is_told_by_the_other():
    feed = Feed()
    feed.session(1, "", "server")
    feed.take(1, 4, udp=(server_row(bytes_received=100, packets_received=2, bytes_sent=5, packets_sent=1),))
    found = series_of(feed.seal(heard=(1,)))
    assert found[BACK[0], "(unknown)"]["udp_bytes"] == 5
    assert found["(unknown)", BACK[0]] == {"udp_bytes": 100, "udp_packets": 2, "udp_active": 1}


def test_the_socket_s_cgroup_names_the_end(feed):
    web = intake_pb2.Cgroup(id=9, service="web")
    sent = {"bytes_sent": 100, "packets_sent": 1}
    feed.take(0, 3, udp=(client_row(cgroup=9, **sent),), entities=intake_pb2.Entities(cgroups=[web]))
    feed.take(1, 4, udp=(server_row(process=0, cgroup=9, bytes_received=100),))  # another host's 9, which it never told
    (ends,) = series_of(feed.seal(heard=(0, 1)))
    assert ends[0] == "web"
    assert ends[1] != "web"


def test_rows_of_both_protocols_that_are_folded_count_once(feed, monkeypatch):
    monkeypatch.setattr(window, "MOST_UNFOLDED_ROWS", 0)
    for second in (3, 4, 5):
        feed.take(0, second, connector_row(bytes_sent=5), udp=(client_row(bytes_sent=100, packets_sent=3),))
    values = series_of(feed.seal(heard=(0,)))
    (found,) = values.values()
    assert (found["bytes"], found["udp_bytes"], found["udp_packets"]) == (15, 300, 9)


def test_loopback_is_left_out_unless_asked_for():
    for kept in (False, True):
        feed = Feed(keep_loopback=kept)
        feed.session(0, "client")
        feed.take(0, 3, udp=(client_row(local_address="127.0.0.1", remote_address="127.0.0.1", bytes_sent=5),))
        assert bool(series_of(feed.seal(heard=(0,)))) is kept


def test_live_shows_the_sum_of_both(feed):
    view = feed.pipeline.live = LiveView(feed.pipeline.view_owners)
    feed.take(0, 10, connector_row(bytes_sent=5), udp=(client_row(bytes_sent=100, packets_sent=3),))
    (pair,) = (pair for pair in view.look(10) if pair.bytes_per_second)
    assert (pair.source, pair.bytes_per_second, pair.connections) == ("client", 105, 2)
    assert (CLIENT, SERVER) == ("10.0.0.1", "10.0.0.2")
