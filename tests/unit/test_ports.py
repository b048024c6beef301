import pytest

from tests.flow_rows import Feed, acceptor_row, connector_row, series_of


def sockets(row, first_socket, *processes, **values):
    """Return a row a process, each of a socket of its own on the same port."""
    return [
        row(socket=first_socket + index, process=process, **{name: each[index] for name, each in values.items()})
        for index, process in enumerate(processes)
    ]


def two_hosts():
    feed = Feed()
    feed.session(0, "wget", "curl", "ab")
    feed.session(1, "nginx", "apache")
    return feed


def test_sockets_of_one_port_are_paired_in_order_of_time():
    feed = two_hosts()
    feed.take(0, 3, *sockets(connector_row, 10, 1, 2, bytes_sent=[5, 7], opened=[1, 1], retransmits=[3, 4]))
    feed.take(1, 3, *sockets(acceptor_row, 20, 1, 2, bytes_received=[5, 7], bytes_sent=[50, 70], opened=[1, 1]))
    assert series_of(feed.seal(heard=(0, 1))) == {
        ("wget", "nginx"): {"bytes": 5, "opened": 1, "active": 1, "retransmits": 3},
        ("nginx", "wget"): {"bytes": 50},
        ("curl", "apache"): {"bytes": 7, "opened": 1, "active": 1, "retransmits": 4},
        ("apache", "curl"): {"bytes": 70},
    }


def test_where_pairs_are_not_clear_each_row_keeps_its_own_owner():
    feed = two_hosts()
    feed.take(0, 3, *sockets(connector_row, 10, 1, 2, 3, bytes_sent=[5, 7, 9]))
    feed.take(1, 3, *sockets(acceptor_row, 20, 1, 2, bytes_sent=[50, 70]))
    found = series_of(feed.seal(heard=(0, 1)))
    assert {ends: values["bytes"] for ends, values in found.items()} == {
        ("wget", "apache"): 5,
        ("curl", "apache"): 7,
        ("ab", "apache"): 9,
        ("nginx", "ab"): 50,
        ("apache", "ab"): 70,
    }


def test_a_single_witness_tells_both_directions_by_owner():
    feed = two_hosts()
    feed.take(0, 3, *sockets(connector_row, 10, 1, 2, bytes_sent=[5, 7], bytes_received=[50, 70], closed=[1, 1]))
    assert series_of(feed.seal()) == {
        ("wget", "(unknown)"): {"bytes": 5, "closed": 1, "active": 1},
        ("(unknown)", "wget"): {"bytes": 50},
        ("curl", "(unknown)"): {"bytes": 7, "closed": 1, "active": 1},
        ("(unknown)", "curl"): {"bytes": 70},
    }


@pytest.mark.parametrize(("up", "down"), [([1000, 1], [3, 4]), ([3, 4], [1000, 1])])
def test_directions_do_not_take_from_each_other(up, down):
    feed = two_hosts()
    feed.take(0, 3, *sockets(connector_row, 10, 1, 2, bytes_sent=up, bytes_received=down))
    found = series_of(feed.seal())
    assert [found[name, "(unknown)"]["bytes"] for name in ("wget", "curl")] == up
    assert [found["(unknown)", name]["bytes"] for name in ("wget", "curl")] == down


def test_failures_of_several_owners():
    feed = two_hosts()
    feed.take(0, 3, *sockets(connector_row, 10, 1, 2, 1, failed=[1, 1, 1], failure=[1, 2, 1]))
    assert series_of(feed.seal()) == {
        ("wget", "(unknown)"): {"failed_refused": 2, "active": 2},
        ("curl", "(unknown)"): {"failed_timed_out": 1, "active": 1},
    }


def test_no_more_is_given_to_owners_than_is_emitted():
    feed = two_hosts()
    feed.take(1, 3, acceptor_row(process=1, bytes_received=8))
    feed.seal(heard=(1,))
    feed.take(0, 33, *sockets(connector_row, 10, 1, 2, bytes_sent=[5, 7]))
    found = series_of(feed.seal(1, heard=(0, 1)))
    assert sum(values.get("bytes", 0) for values in found.values()) == 4
    assert all(value >= 0 for values in found.values() for value in values.values())


def test_a_process_that_renamed_itself_has_its_last_name():
    feed = two_hosts()
    feed.take(0, 3, connector_row(process=1, bytes_sent=5), connector_row(process=2, bytes_sent=7))
    assert series_of(feed.seal()) == {("curl", "(unknown)"): {"bytes": 12, "active": 1}}
