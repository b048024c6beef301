from dataclasses import replace

import pytest

from reducer import live as module
from reducer.live import LiveView, Pair
from tests.flow_rows import Feed, acceptor_row, connector_row


@pytest.fixture
def feed():
    made = Feed()
    made.pipeline.live = LiveView(made.pipeline.view_owners)
    made.session(0, "wget", "nginx")
    return made


def test_shows_what_moved_since_the_last_look(feed):
    client = connector_row(bytes_sent=100, srtt_sum_us=300, srtt_count=2, retransmits=1)
    feed.take(0, 10, client, acceptor_row(bytes_sent=4000, bytes_received=100))
    assert feed.pipeline.live.look(10) == [
        Pair("nginx", "wget", 4000.0, None, 0, 0),
        Pair("wget", "nginx", 100.0, 150.0, 1, 1),
    ]
    feed.take(0, 12, connector_row(bytes_sent=100), acceptor_row(bytes_received=90))
    assert feed.pipeline.live.look(10) == [Pair("wget", "nginx", 50.0, None, 0, 1)]


def test_the_receivers_word_stands_in(feed):
    feed.take(0, 10, acceptor_row(bytes_received=70))
    assert feed.pipeline.live.look(10)[0] == Pair("(unknown)", "nginx", 70.0, None, 0, 1)


def test_the_largest_come_first(feed):
    for amount, process in ((5, 1), (50, 2)):
        feed.take(0, 10, connector_row(process=process, local_port=process, bytes_sent=amount))
    assert [pair.source for pair in feed.pipeline.live.look(10)] == ["nginx", "wget"]
    feed.take(0, 11, connector_row(bytes_sent=5), connector_row(process=2, local_port=2, bytes_sent=50))
    assert [pair.source for pair in feed.pipeline.live.look(1)] == ["nginx"]


def test_workloads_are_added_up_over_hosts(feed):
    feed.session(1, "wget")
    feed.take(0, 10, connector_row(bytes_sent=5))
    feed.take(1, 10, connector_row(local_address="10.0.0.9", bytes_sent=6))
    assert [pair.bytes_per_second for pair in feed.pipeline.live.look(10)] == [11.0]


def test_what_udp_moved_is_added(feed):
    datagrams = connector_row(socket=3, local_port=9, bytes_sent=60, packets_sent=1)
    del datagrams["role"]
    feed.take(0, 10, connector_row(bytes_sent=5), udp=(datagrams,))
    assert feed.pipeline.live.look(10) == [Pair("wget", "(unknown)", 65.0, None, 0, 2)]


def test_a_look_between_polls_repeats_the_one_before(feed):
    feed.take(0, 10, connector_row(bytes_sent=5))
    live = feed.pipeline.live
    first = live.look(10)
    assert live.look(10) == live.look(10) == first
    assert live.look(10) == []


def test_rows_that_nobody_looks_at_are_bounded(feed, monkeypatch):
    monkeypatch.setattr(module, "MOST_ROWS", 3)
    for index in range(10):
        feed.take(0, index, connector_row(local_port=index, bytes_sent=1), connector_row(bytes_sent=1, socket=9))
    assert sum(len(owners) for owners in feed.pipeline.live.owners()) == 2
    assert feed.pipeline.live.look(10)[0].connections == 2


def test_the_window_is_not_touched(feed):
    feed.take(0, 10, connector_row(bytes_sent=5))
    feed.pipeline.live.look(10)
    assert feed.seal().levels[0].values["bytes"].sum() == 5


def test_an_owner_whose_number_was_given_again_has_its_own_name(feed):
    def given_again():
        view = feed.pipeline.view_owners()
        owners = [owner and replace(owner, process=owner.process.upper()) for owner in view.owners]
        return replace(view, owners=owners, generation=view.generation + 1)

    live = feed.pipeline.live
    feed.take(0, 10, connector_row(bytes_sent=5))
    assert [pair.source for pair in live.look(1)] == ["wget"]
    live._view_owners = given_again
    feed.take(0, 11, connector_row(bytes_sent=5))
    assert [pair.source for pair in live.look(1)] == ["WGET"]
