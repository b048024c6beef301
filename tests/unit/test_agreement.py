from tests.flow_rows import Feed, acceptor_row, connector_row


def two_hosts():
    feed = Feed()
    feed.session(0, "wget")
    feed.session(1, "-", "nginx")
    return feed


def agreement(feed):
    statistics = feed.pipeline.statistics()
    return statistics.bytes_of_both, statistics.bytes_apart


def test_ends_that_agree():
    feed = two_hosts()
    feed.take(0, 3, connector_row(bytes_sent=5, bytes_received=9, opened=1, closed=1))
    feed.take(1, 3, acceptor_row(bytes_sent=9, bytes_received=5, opened=1, closed=1))
    feed.seal(heard=(0, 1))
    assert agreement(feed) == (14, 0)


def test_an_end_that_is_behind_for_a_window_agrees():
    feed = two_hosts()
    feed.take(0, 3, connector_row(bytes_sent=5, opened=1))
    feed.take(1, 3, acceptor_row(bytes_received=2, opened=1))
    feed.seal(heard=(0, 1))
    feed.take(0, 33, connector_row(closed=1))
    feed.take(1, 33, acceptor_row(bytes_received=3, closed=1))
    feed.seal(1, heard=(0, 1))
    assert feed.pipeline.statistics().flows == 0
    assert agreement(feed) == (5, 0)


def test_ends_that_differ_when_the_flow_is_forgotten():
    feed = two_hosts()
    feed.take(0, 3, connector_row(bytes_sent=100))
    feed.take(1, 3, acceptor_row(bytes_received=90))
    feed.seal(heard=(0, 1))
    assert agreement(feed) == (100, 0)
    for index in range(1, 12):
        feed.take(0, index * 30 + 3, connector_row(socket=3, local_port=2, bytes_sent=1))
        feed.seal(index, heard=(0, 1))
    assert agreement(feed) == (100, 10)


def test_flows_that_one_end_tells_of_do_not_count():
    feed = two_hosts()
    feed.take(0, 3, connector_row(bytes_sent=100))
    feed.take(1, 3, acceptor_row(local_port=9, bytes_received=50, baseline=1), acceptor_row(local_port=8))
    feed.take(0, 3, connector_row(remote_port=9, bytes_sent=70))
    feed.seal(heard=(0, 1))
    assert agreement(feed) == (0, 0)
