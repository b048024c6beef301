import threading

import pytest
from ebpf_net.v1 import intake_pb2

from intake.clock import SECOND_NS
from reducer import pipeline as module
from reducer.columns.series import LEVELS
from reducer.pipeline import Pipeline
from tests.flow_rows import CLIENT, GRACE_NS, POLL_NS, SERVER, WINDOW_NS, Feed, acceptor_row, connector_row, series_of
from tests.rows import packed, session_id

BOTH_LEVELS = ("az_az", "id_id")


@pytest.fixture
def feed():
    """Return a feed with the client's host and the server's."""
    made = Feed()
    made.session(0, "wget")
    made.session(1, "-", "nginx")
    return made


def test_each_direction_is_counted_once_with_both_names(feed):
    feed.take(0, 3, connector_row(bytes_sent=100, bytes_received=4000, segments_sent=3, segments_received=4, opened=1))
    feed.take(1, 4, acceptor_row(bytes_sent=4000, bytes_received=100, segments_sent=4, segments_received=3, opened=1))
    assert series_of(feed.seal()) == {
        ("wget", "nginx"): {"bytes": 100, "packets": 3, "opened": 1, "active": 1},
        ("nginx", "wget"): {"bytes": 4000, "packets": 4},
    }


@pytest.mark.parametrize("most_series", [100, 1])
def test_bytes_that_cross_zones_whatever_is_rolled_up(most_series):
    """The hosts of the feed have a zone each; of the third end nobody knows one."""
    feed = Feed(BOTH_LEVELS, most_series=most_series)
    feed.session(0, "wget")
    feed.session(1, "-", "nginx")
    feed.take(0, 3, connector_row(bytes_sent=100, bytes_received=4000), connector_row(bytes_sent=7, remote_port=81))
    feed.take(1, 4, acceptor_row(bytes_sent=4000, bytes_received=100))
    for level in feed.seal().levels:
        zones = {name: int(level.values[name].sum()) for name in ("bytes", "cross_zone_bytes", "same_zone_bytes")}
        assert zones == {"bytes": 4107, "cross_zone_bytes": 4100, "same_zone_bytes": 0}


def test_only_the_end_that_measures_tells_of_round_trips_and_connects(feed):
    client = {"srtt_sum_us": 30, "srtt_count": 1, "min_rtt_us": 25, "retransmits": 2, "connect_sum_us": 40}
    server = {"srtt_sum_us": 99, "srtt_count": 3, "min_rtt_us": 20, "retransmits": 1, "connect_sum_us": 7}
    feed.take(0, 3, connector_row(connect_count=1, syn_timeouts=1, **client))
    feed.take(1, 4, acceptor_row(**server))
    found = series_of(feed.seal())
    assert found["wget", "nginx"] == {**client, "connect_count": 1, "syn_timeouts": 1, "active": 1}
    assert found["nginx", "wget"] == {name: value for name, value in server.items() if name != "connect_sum_us"}


def test_a_reset_belongs_to_the_direction_of_who_sent_it(feed):
    feed.take(0, 3, connector_row(resets_received=1, closed=1))
    feed.take(1, 4, acceptor_row(resets_sent=1, closed=1))
    found = series_of(feed.seal())
    assert found["nginx", "wget"]["resets"] == 1
    assert "resets" not in found["wget", "nginx"]


def test_an_end_without_a_collector(feed):
    feed = Feed(BOTH_LEVELS)
    feed.session(0, "wget")
    feed.take(0, 3, connector_row(bytes_sent=5, bytes_received=7))
    window = feed.seal()
    assert series_of(window, label="environment") == {
        ("prod", "(no agent)"): {"bytes": 5, "active": 1},
        ("(no agent)", "prod"): {"bytes": 7},
    }
    assert set(series_of(window, 1, label="id")) == {("host-0", SERVER), (SERVER, "host-0")}
    assert feed.pipeline.statistics().ends_unknown["no_collector"] == 1


def test_each_level_tells_its_ends_by_identity_or_by_node():
    feed = Feed(LEVELS)
    feed.session(0, "wget")
    feed.session(1, "-", "nginx")
    for port, sent in ((40000, 5), (40001, 6)):
        feed.take(0, 3, connector_row(bytes_sent=sent, local_port=port))
    feed.take(0, 3, connector_row(bytes_sent=7, local_address="10.0.0.3"))
    feed.take(1, 4, acceptor_row())
    window = feed.seal()
    assert [level.name for level in window.levels] == list(LEVELS)
    found = [series_of(window, index, label="ip") for index in range(4)]
    moved = [{ends: values["bytes"] for ends, values in of.items()} for of in found]
    assert moved == [
        {(None, None): 18},
        {(None, SERVER): 18},
        {(CLIENT, None): 11, ("10.0.0.3", None): 7},
        {(CLIENT, SERVER): 11, ("10.0.0.3", SERVER): 7},
    ]


def test_nodes_that_differ_by_address_alone_are_one_where_it_is_not_told():
    feed = Feed(("id_id",), node_ip=False)
    feed.session(0, "wget")
    feed.take(0, 3, connector_row(bytes_sent=5), connector_row(bytes_sent=7, local_address="10.0.0.3"))
    window = feed.seal()
    assert len(window.levels[0].source) == 1
    assert series_of(window, label="ip") == {(None, None): {"bytes": 12, "active": 2}}
    assert set(series_of(window, label="id")) == {("host-0", SERVER)}


def test_a_failed_connect(feed):
    row = connector_row(local_port=0, failed=1, failure=intake_pb2.CONNECT_FAILURE_REFUSED, syn_timeouts=2)
    feed.take(0, 3, row)
    found = series_of(feed.seal())
    assert found == {("wget", "(unknown)"): {"active": 1, "failed_refused": 1, "syn_timeouts": 2}}


def test_loopback_is_left_out_unless_asked_for():
    rows = connector_row(local_address="127.0.0.1", remote_address="127.0.0.1", bytes_sent=5)
    for keep in (False, True):
        feed = Feed(keep_loopback=keep)
        feed.session(0, "wget")
        feed.take(0, 3, rows, connector_row(bytes_sent=7))
        moved = sum(values.get("bytes", 0) for values in series_of(feed.seal()).values())
        assert moved == (12 if keep else 7)
        assert feed.pipeline.statistics().rows_loopback == (0 if keep else 1)


def test_the_sender_is_believed_while_it_is_heard(feed):
    feed.take(0, 3, connector_row(bytes_sent=100))
    feed.take(1, 4, acceptor_row(bytes_received=130))
    assert series_of(feed.seal(heard=(0, 1)))["wget", "nginx"]["bytes"] == 100
    feed.take(0, 33, connector_row(bytes_sent=30))
    assert series_of(feed.seal(1, heard=(0, 1)))["wget", "nginx"]["bytes"] == 30


def test_the_receiver_stands_in_for_a_sender_that_is_cut_off(feed):
    feed.take(0, 3, connector_row(bytes_sent=100))
    feed.take(1, 4, acceptor_row(bytes_received=100))
    feed.seal(heard=(0, 1))
    feed.take(1, 34, acceptor_row(bytes_received=50))
    assert series_of(feed.seal(1, heard=(1,)))["wget", "nginx"]["bytes"] == 50
    feed.take(0, 35, connector_row(bytes_sent=50))
    feed.take(0, 64, connector_row(bytes_sent=9))
    assert feed.pipeline.statistics().rows_late == 1
    assert series_of(feed.seal(2, heard=(0, 1)))["wget", "nginx"]["bytes"] == 9


def test_what_only_the_receiver_told_is_emitted_when_the_sender_is_gone(feed):
    feed.take(0, 3, connector_row(bytes_sent=100))
    feed.take(1, 4, acceptor_row(bytes_received=130))
    feed.seal(heard=(0, 1))
    assert series_of(feed.seal(1, heard=(0, 1))) == {}
    window = feed.seal(2, heard=(1,))
    assert series_of(window)["wget", "nginx"] == {"bytes": 30}


def test_a_collector_that_started_late_takes_over_when_the_other_is_gone(feed):
    feed.take(1, 4, acceptor_row(bytes_received=1000))
    feed.seal(heard=(1,))
    feed.take(0, 33, connector_row(bytes_sent=10, baseline=1))
    feed.take(1, 34, acceptor_row(bytes_received=10))
    assert series_of(feed.seal(1, heard=(0, 1)))["wget", "nginx"]["bytes"] == 10
    for index in range(2, 8):
        feed.take(0, index * 30 + 3, connector_row(bytes_sent=10))
        feed.seal(index, heard=(0,))
    feed.take(0, 8 * 30 + 3, connector_row(bytes_sent=10))
    assert series_of(feed.seal(8, heard=(0,)))["wget", "nginx"]["bytes"] == 10


def test_a_silent_end_keeps_its_name(feed):
    feed.take(0, 3, connector_row(bytes_sent=1))
    feed.take(1, 4, acceptor_row(bytes_received=1))
    feed.seal()
    feed.take(0, 33, connector_row(bytes_sent=1))
    assert list(series_of(feed.seal(1))) == [("wget", "nginx")]


def test_an_end_whose_poll_comes_a_moment_later_has_its_name(feed):
    feed.take(0, 29, connector_row(bytes_sent=1))
    feed.take(1, 31, acceptor_row(bytes_received=1))
    assert list(series_of(feed.seal())) == [("wget", "nginx")]


def test_rows_that_do_not_tell_the_process_are_of_their_socket(feed):
    feed.take(0, 1, connector_row(opened=1, bytes_sent=100))
    feed.take(0, 6, connector_row(process=0, bytes_sent=20))
    feed.take(1, 6, acceptor_row(opened=1, bytes_received=120))
    feed.take(1, 11, acceptor_row(process=0), http=({**acceptor_row(process=0), "requests": 1},))
    series = series_of(feed.seal(heard=(0, 1)), label="process.name")
    assert {ends: values["bytes"] for ends, values in series.items() if "bytes" in values} == {("wget", "nginx"): 120}


def test_a_process_is_what_it_was_when_its_row_came(feed):
    old = intake_pb2.Entities(processes=[intake_pb2.Process(id=5, name="old")], retired_processes=[5])
    new = intake_pb2.Entities(processes=[intake_pb2.Process(id=5, name="new")])
    feed.take(0, 3, connector_row(process=5, bytes_sent=1), entities=old)
    feed.take(0, 4, connector_row(local_port=1, process=5, bytes_sent=2))
    feed.take(0, 5, connector_row(local_port=2, process=5, bytes_sent=4), entities=new)
    found = series_of(feed.seal())
    assert {source: values["bytes"] for (source, _), values in found.items()} == {"old": 1, "(unknown)": 2, "new": 4}
    assert feed.pipeline.statistics().ends_unknown["no_process"] == 1


def test_acknowledges_batches_without_rows(feed):
    feed.take(0, 3)
    window = feed.seal()
    assert window.acknowledge == {session_id(0): 1}
    assert [len(level.source) for level in window.levels] == [0]
    assert feed.seal(1) is None


def test_the_first_window_without_series_is_told_and_no_other(feed):
    feed.take(0, 3, connector_row(bytes_sent=1))
    assert series_of(feed.seal())
    assert series_of(feed.seal(1)) == {}
    assert feed.seal(2) is None


def test_next_due(feed):
    assert feed.pipeline.next_due(0) == WINDOW_NS + GRACE_NS + POLL_NS
    feed.take(0, 3, connector_row())
    assert feed.pipeline.seal(WINDOW_NS + GRACE_NS + POLL_NS - 1) is None
    assert feed.seal() is not None
    assert feed.pipeline.statistics().window_lag_ns == GRACE_NS + POLL_NS


def test_the_end_seals_what_is_open(feed):
    feed.take(0, 3, connector_row(bytes_sent=1))
    feed.take(0, 33, connector_row(bytes_sent=2))
    windows = list(feed.pipeline.finish(40 * SECOND_NS))
    assert [(window.start_ns, window.end_ns) for window in windows] == [(0, WINDOW_NS), (WINDOW_NS, 40 * SECOND_NS)]
    assert [window.acknowledge for window in windows] == [{session_id(0): 1}, {session_id(0): 2}]
    assert [int(window.levels[0].values["bytes"].sum()) for window in windows] == [1, 2]


def test_goes_on_from_its_balances(feed):
    feed.take(1, 3, acceptor_row(bytes_received=100, opened=1))
    stored = feed.seal(heard=(1,)).balances
    again = Feed()
    again.pipeline = Pipeline(WINDOW_NS, GRACE_NS, POLL_NS)
    again.pipeline.restore(stored)
    assert again.pipeline.next_due(40 * SECOND_NS) == 70 * SECOND_NS
    again.session(0, "wget")
    again.session(1, "-", "nginx")
    again.take(0, 4, connector_row(bytes_sent=100, opened=1))
    again.take(1, 34, acceptor_row(bytes_received=11))
    assert again.pipeline.seal(69 * SECOND_NS) is None
    window = again.pipeline.seal(70 * SECOND_NS)
    assert (window.start_ns, window.end_ns) == (WINDOW_NS, 2 * WINDOW_NS)
    assert series_of(window) == {("wget", "nginx"): {"bytes": 11, "active": 1}}


def seal_all(feed, now_s):
    """Return all windows that are due."""
    found = []
    while window := feed.pipeline.seal(now_s * SECOND_NS):
        found.append(window)
    return found


def test_windows_go_on_where_the_clock_was_set_back(feed, caplog):
    feed.take(0, 1201, connector_row(bytes_sent=1, opened=1))
    feed.take(1, 1202, acceptor_row(bytes_received=1, opened=1))
    feed.pipeline.heard(session_id(0), 2000 * SECOND_NS)
    assert seal_all(feed, 1240)
    feed.take(0, 1241, connector_row(bytes_sent=2))
    assert seal_all(feed, 300) == []
    assert [record.getMessage() for record in caplog.records] == [
        "the clock was set back by 930 s: windows go on from now"
    ]
    # The client's collector is not believed to have told all until 2000 s: else what it did not tell would not count.
    feed.take(1, 301, acceptor_row(bytes_received=7, bytes_sent=9))
    (window,) = seal_all(feed, 340)
    assert (window.start_ns, window.end_ns) == (300 * SECOND_NS, 330 * SECOND_NS)
    assert series_of(window) == {("wget", "nginx"): {"bytes": 7, "active": 1}, ("nginx", "wget"): {"bytes": 9}}
    assert window.acknowledge == {session_id(0): 2, session_id(1): 2}
    assert len(caplog.records) == 1


def test_a_clock_that_is_set_back_a_little_changes_no_window(feed, caplog):
    feed.take(0, 3, connector_row(bytes_sent=1))
    feed.seal()
    assert feed.pipeline.seal(1 * SECOND_NS) is None
    feed.take(0, 2, connector_row(bytes_sent=2))
    assert feed.seal(1).start_ns == WINDOW_NS
    assert not caplog.records


def test_flows_are_forgotten_in_time_though_the_clock_was_set_back(feed):
    feed.take(0, 1800, connector_row(bytes_sent=1))
    seal_all(feed, 1840)
    for now_s in range(300, 1200, 30):
        feed.take(0, now_s, connector_row(bytes_sent=1, local_port=9))
        seal_all(feed, now_s + 10)
    assert feed.pipeline.statistics().flows == 1


def test_overload_is_told_until_windows_are_sealed(feed, monkeypatch):
    monkeypatch.setattr(module, "MOST_ROWS", 1)
    feed.take(0, 3, connector_row(), connector_row(local_port=1))
    assert feed.pipeline.overloaded
    feed.seal()
    assert not feed.pipeline.overloaded


def test_levels_that_are_not_known_are_refused():
    with pytest.raises(ValueError, match="az_host"):
        Pipeline(WINDOW_NS, GRACE_NS, POLL_NS, ("az_host",))


def test_levels_have_the_same_totals():
    feed = Feed(BOTH_LEVELS)
    feed.session(0, "wget")
    feed.session(1, "-", "nginx")
    for port in range(50):
        address = f"10.0.0.{port}"
        feed.take(0, 3, connector_row(local_address=address, local_port=port, bytes_sent=port))
    az, by_node = feed.seal().levels
    assert len(az.source) == 1
    assert len(by_node.source) == 50
    assert az.values["bytes"].sum() == by_node.values["bytes"].sum() == 50 * 49 // 2


def test_seals_while_batches_come(feed):
    """Nothing is lost or counted twice when another thread seals."""
    batches, end_ns = 300, 10 * WINDOW_NS
    sealed = []
    stop = threading.Event()

    def seal():
        while not stop.is_set():
            window = feed.pipeline.seal(end_ns)
            if window is not None:
                sealed.append(window)

    thread = threading.Thread(target=seal)
    thread.start()
    for index in range(batches):
        feed.take(0, index, connector_row(bytes_sent=1, process=1 + index))
    stop.set()
    thread.join()
    sealed.extend(feed.pipeline.finish(end_ns))
    assert sum(int(window.levels[0].values["bytes"].sum()) for window in sealed) == batches
    assert sealed[-1].acknowledge == {session_id(0): batches}


def test_ends_are_told_apart_by_family():
    feed = Feed(BOTH_LEVELS)
    feed.session(0, "wget")
    feed.take(0, 3, connector_row(local_address="fd00::1", remote_address="fd00::2", bytes_sent=1))
    assert set(series_of(feed.seal(), 1, label="ip")) == {("fd00::1", "fd00::2")}
    assert packed(CLIENT) != packed("fd00::1")


def test_balances_last_however_long_nobody_sealed_a_window(feed):
    """After an outage that is longer than idle flows are remembered the other end comes back with the second window."""
    feed.take(1, 3, acceptor_row(bytes_received=100, opened=1))
    stored = feed.seal(heard=(1,)).balances
    again = Feed()
    again.pipeline = Pipeline(WINDOW_NS, GRACE_NS, POLL_NS)
    again.pipeline.restore(stored)
    back = 20 * WINDOW_NS
    again.pipeline.next_due(back)
    again.session(0, "wget")
    again.session(1, "-", "nginx")
    again.take(1, back / SECOND_NS, acceptor_row(remote_port=9, bytes_received=5))
    assert series_of(again.seal(20)) == {("(unknown)", "nginx"): {"bytes": 5, "active": 1}}
    again.take(0, (back + WINDOW_NS) / SECOND_NS, connector_row(bytes_sent=100, opened=1))
    assert series_of(again.seal(21)) == {("wget", "(unknown)"): {"active": 1}}
