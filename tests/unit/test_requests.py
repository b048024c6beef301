import pytest
from ebpf_net.v1 import intake_pb2

from reducer.columns.cells import CellKind
from tests.flow_rows import Feed, acceptor_row, answer_row, connector_row, query_row, series_of

HEARD = (0, 1)


@pytest.fixture
def feed():
    """Return a feed with the client's host and the server's."""
    made = Feed(("az_az", "id_id"))
    made.session(0, "app")
    made.session(1, "-", "named")
    return made


def bins_of(window, kind, level=0):
    """Return the amounts by workload of source and bin."""
    of, found = window.levels[level], {}
    bins = of.bins.get(kind)
    for place, number, amount in zip(bins.place, bins.bin, bins.amount, strict=True) if bins else ():
        key = (dict(window.ends.labels[of.source[place]])["workload.name"], int(number))
        found[key] = found.get(key, 0) + int(amount)
    return found


def test_queries_are_counted_by_the_client_and_each_latency_by_its_own_end(feed):
    counts = {"queries": 3, "retransmits": 1, "timeouts": 1, "noerror": 1, "nxdomain": 1}
    feed.take(0, 3, dns=(query_row(**counts, latency_sum_us=900, latency_count=2),))
    feed.take(1, 4, dns=(answer_row(queries=4, noerror=3, nxdomain=1, latency_sum_us=50, latency_count=4),))
    window = feed.seal(heard=HEARD)
    expected = {f"dns_{name}": value for name, value in counts.items()}
    expected |= {"dns_client_sum_us": 900, "dns_client_count": 2, "dns_server_sum_us": 50, "dns_server_count": 4}
    assert series_of(window) == {("app", "DNS"): expected | {"dns_active": 1}}
    assert series_of(window, 1) == series_of(window)


def test_the_server_counts_where_the_client_has_no_collector(feed):
    feed.take(1, 4, dns=(answer_row(queries=4, servfail=4, latency_sum_us=50, latency_count=4),))
    told = {"dns_queries": 4, "dns_servfail": 4, "dns_server_sum_us": 50, "dns_server_count": 4, "dns_active": 1}
    assert series_of(feed.seal(heard=HEARD)) == {("(unknown)", "DNS"): told}


def test_both_ends_of_the_same_ports_may_ask(feed):
    ports = {"local_port": 53, "remote_port": 53}
    feed.take(0, 3, dns=(query_row(**ports, queries=1), query_row(**ports, role=intake_pb2.ROLE_ACCEPTOR, queries=5)))
    feed.take(1, 3, dns=(answer_row(**ports, role=intake_pb2.ROLE_CONNECTOR, queries=5),))
    found = [sorted(series_of(feed.seal(heard=HEARD), 1, label="ip").items())]
    assert [(ends, values["dns_queries"]) for ends, values in found[0]] == [
        (("10.0.0.1", "10.0.0.2"), 1),
        (("10.0.0.2", "10.0.0.1"), 5),
    ]


def test_who_asks_is_the_connector_where_the_row_does_not_say(feed):
    unknown = {"role": intake_pb2.ROLE_UNKNOWN}
    feed.take(0, 3, connector_row(bytes_sent=1), http=(connector_row(**unknown, requests=2),))
    feed.take(1, 3, http=(acceptor_row(**unknown, requests=2),))
    found = series_of(feed.seal(heard=HEARD))
    assert found["app", "named"]["http_requests"] == 2
    assert len(found) == 1


def test_a_connection_has_the_direction_of_its_requests_where_nothing_else_tells(feed):
    unknown = {"role": intake_pb2.ROLE_UNKNOWN, "local_port": 80, "remote_port": 40000}
    http = connector_row(local_port=80, remote_port=40000, requests=1)
    feed.take(0, 3, connector_row(**unknown, closed=1), http=(http,))
    assert series_of(feed.seal())["app", "(unknown)"]["closed"] == 1


def test_requests_are_counted_once_whoever_tells_first(feed):
    feed.take(1, 29, http=(acceptor_row(requests=5, status_2xx=5),))
    assert series_of(feed.seal(heard=HEARD))["(unknown)", "named"]["http_requests"] == 5
    feed.take(0, 31, http=(connector_row(requests=5, status_2xx=5),))
    found = series_of(feed.seal(1, heard=HEARD))
    assert found == {("app", "named"): {"http_active": 1}}
    feed.take(0, 61, http=(connector_row(requests=2, status_2xx=2),))
    feed.take(1, 62, http=(acceptor_row(requests=3, status_2xx=2, status_5xx=1),))
    found = series_of(feed.seal(2, heard=HEARD))
    assert found == {("app", "named"): {"http_active": 1, "http_requests": 2, "http_status_2xx": 2}}


def test_the_server_stands_in_for_a_client_that_is_cut_off(feed):
    feed.take(0, 3, http=(connector_row(requests=5),))
    feed.take(1, 4, http=(acceptor_row(requests=5),))
    feed.seal(heard=HEARD)
    feed.take(1, 34, http=(acceptor_row(requests=3),))
    assert series_of(feed.seal(1, heard=(1,)))["app", "named"]["http_requests"] == 3
    feed.take(0, 35, http=(connector_row(requests=3),))
    feed.take(0, 64, http=(connector_row(requests=1),))
    assert series_of(feed.seal(2, heard=HEARD))["app", "named"]["http_requests"] == 1


def test_what_only_the_server_told_is_emitted_when_the_client_is_gone(feed):
    feed.take(0, 3, http=(connector_row(requests=5),))
    feed.take(1, 4, http=(acceptor_row(requests=7),))
    assert series_of(feed.seal(heard=HEARD))["app", "named"]["http_requests"] == 5
    assert series_of(feed.seal(1, heard=HEARD)) == {}
    assert series_of(feed.seal(2, heard=(1,))) == {("app", "named"): {"http_requests": 2}}


def test_a_client_that_started_late_takes_over_when_the_server_is_gone(feed):
    feed.take(1, 4, http=(acceptor_row(requests=1000),))
    feed.seal(heard=(1,))
    for index in range(1, 8):
        feed.take(0, index * 30 + 3, http=(connector_row(requests=10),))
        feed.seal(index, heard=(0,))
    feed.take(0, 8 * 30 + 3, http=(connector_row(requests=10),))
    assert series_of(feed.seal(8, heard=(0,)))["app", "named"]["http_requests"] == 10


def test_a_server_that_comes_back_when_the_client_is_gone_tells_nothing_twice(feed):
    feed.take(0, 3, http=(connector_row(requests=1),))
    feed.seal(heard=(0,))
    for index in range(1, 6):
        feed.seal(index)
    feed.take(1, 6 * 30 + 3, http=(acceptor_row(requests=4),))
    assert series_of(feed.seal(6, heard=(1,)))["app", "named"]["http_requests"] == 3


@pytest.mark.parametrize(("udp", "counted"), [({"baseline": 1, "packets_sent": 3}, 7), ({}, 3)], ids=["UDP", "no UDP"])
def test_a_client_whose_socket_was_open_before_its_collector(feed, udp, counted):
    feed.take(1, 3, dns=(answer_row(queries=4),))
    feed.take(1, 25, dns=(answer_row(queries=3),))
    feed.take(0, 25, dns=(query_row(queries=3),), udp=(connector_row(socket=11, remote_port=53) | udp,) if udp else ())
    assert series_of(feed.seal(heard=HEARD))["app", "DNS"]["dns_queries"] == counted
    feed.take(1, 35, dns=(answer_row(queries=2),))
    feed.take(0, 35, dns=(query_row(queries=2),))
    assert series_of(feed.seal(1, heard=HEARD))["app", "DNS"]["dns_queries"] == 2


def test_a_silent_end_keeps_its_name_and_a_late_one_has_it(feed):
    feed.take(0, 3, dns=(query_row(remote_port=5353, queries=1),))
    feed.take(1, 31, dns=(answer_row(local_port=5353, queries=1),))
    assert list(series_of(feed.seal())) == [("app", "named")]
    feed.take(0, 33, dns=(query_row(remote_port=5353, queries=1),))
    assert list(series_of(feed.seal(1))) == [("app", "named")]


def test_bins_are_those_of_the_end_that_measured_and_status_codes_are_counted_once(feed):
    client = [
        connector_row(transport=6, kind=intake_pb2.BIN_KIND_HTTP_LATENCY, bin=b, count=b - 200) for b in (210, 220)
    ]
    status = {"transport": 6, "kind": intake_pb2.BIN_KIND_HTTP_STATUS}
    codes = [connector_row(**status, bin=code, count=2) for code in (200, 404, 65535)]
    feed.take(0, 3, http=(connector_row(requests=6),), bins=(*client, *codes))
    latency = acceptor_row(transport=6, kind=intake_pb2.BIN_KIND_HTTP_LATENCY, bin=205, count=7)
    feed.take(1, 3, bins=(latency, acceptor_row(**status, bin=200, count=3)))
    window = feed.seal(heard=HEARD)
    for level in (0, 1):
        assert bins_of(window, CellKind.HTTP_CLIENT, level) == {("app", 210): 10, ("app", 220): 20}
        assert bins_of(window, CellKind.HTTP_SERVER, level) == {("app", 205): 7}
        assert bins_of(window, CellKind.HTTP_STATUS, level) == {("app", 0): 2, ("app", 200): 2, ("app", 404): 2}


def test_rows_that_tell_their_bin_themselves_are_as_good_as_bins(feed):
    latencies = {"requests": 3, "status_4xx": 3, "latency_count": 3, "latency_sum_us": 9}
    feed.take(0, 3, http=(connector_row(**latencies, latency_bin=211, status=404),))
    answers = {"status_4xx": 2, "status_other": 1, "latency_count": 2}
    feed.take(1, 3, http=(acceptor_row(**answers, latency_bin=206, status=65535),))
    feed.take(0, 3, dns=(query_row(queries=2, latency_count=2, latency_bin=1),))
    feed.take(1, 3, dns=(answer_row(latency_count=1, latency_bin=65535),))
    window = feed.seal(heard=HEARD)
    for level in (0, 1):
        assert bins_of(window, CellKind.HTTP_CLIENT, level) == {("app", 210): 3}
        assert bins_of(window, CellKind.HTTP_SERVER, level) == {("app", 205): 2}
        assert bins_of(window, CellKind.HTTP_STATUS, level) == {("app", 404): 3}
        assert bins_of(window, CellKind.DNS_CLIENT, level) == {("app", 0): 2}
        assert bins_of(window, CellKind.DNS_SERVER, level) == {("app", 511): 1}


def test_rows_that_wait_keep_their_bins_apart(feed, monkeypatch):
    monkeypatch.setattr("reducer.windows.window.MOST_UNFOLDED_ROWS", 10)
    for i in range(60):
        row = connector_row(requests=1, status_2xx=1, latency_count=1, latency_bin=201 + i % 2, status=200 + i % 3)
        feed.take(0, 3, http=(row,))
    assert feed.pipeline.statistics().rows_open < 20
    window = feed.seal()
    assert bins_of(window, CellKind.HTTP_CLIENT) == {("app", 200): 30, ("app", 201): 30}
    assert bins_of(window, CellKind.HTTP_STATUS) == {("app", code): 20 for code in (200, 201, 202)}


def test_latency_bins_that_cannot_be_are_the_highest(feed):
    row = query_row(kind=intake_pb2.BIN_KIND_DNS_LATENCY, bin=65535, count=1)
    feed.take(0, 3, bins=(row,))
    assert bins_of(feed.seal(), CellKind.DNS_CLIENT) == {("app", 511): 1}


def test_sockets_that_asked_are_counted_by_socket(feed):
    rows = [query_row(socket=socket, queries=1) for socket in (1, 2, 2)]
    feed.take(0, 3, dns=(*rows, query_row(local_port=2, socket=3, queries=1)))
    feed.take(1, 3, dns=(answer_row(queries=3),))
    assert series_of(feed.seal(heard=HEARD))["app", "DNS"]["dns_active"] == 3


def test_requests_on_loopback_are_left_out(feed):
    feed.take(0, 3, dns=(query_row(local_address="127.0.0.1", remote_address="127.0.0.53", queries=1),))
    assert series_of(feed.seal()) == {}
    assert feed.pipeline.statistics().rows_loopback == 1


def test_flows_of_requests_are_forgotten_and_their_balances_with_them(feed):
    feed.take(0, 3, dns=(query_row(queries=1),))
    feed.seal(heard=(0,))
    assert feed.pipeline.statistics().request_balances == 1
    for index in range(1, 11):
        feed.take(0, index * 30 + 3, connector_row(bytes_sent=1))
        feed.seal(index, heard=(0,))
    assert feed.pipeline.statistics().request_balances == 0
    assert feed.pipeline.statistics().flows == 1


def test_rows_that_wait_are_added_up(feed, monkeypatch):
    monkeypatch.setattr("reducer.windows.window.MOST_UNFOLDED_ROWS", 10)
    for _ in range(50):
        feed.take(0, 3, dns=(query_row(queries=1),), bins=(query_row(kind=1, bin=200, count=1),))
    assert feed.pipeline.statistics().rows_open < 20
    window = feed.seal()
    assert series_of(window)["app", "DNS"]["dns_queries"] == 50
    assert bins_of(window, CellKind.DNS_CLIENT) == {("app", 200): 50}
