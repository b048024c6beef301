import numpy as np
import pytest
from ebpf_net.v1 import intake_pb2

from reducer.columns.cells import CellKind
from reducer.matching import drops as module
from reducer.matching.drops import DropReasons
from tests.flow_rows import CLIENT, SERVER, Feed, acceptor_row, connector_row, series_of

A, B = b"a" * 16, b"b" * 16


def reasons(**numbers: int) -> intake_pb2.Entities:
    told = [intake_pb2.DropReason(number=number, name=name) for name, number in numbers.items()]
    return intake_pb2.Entities(drop_reasons=told)


def drop_row(**values) -> dict:
    """Return a drop of packets from 10.0.0.1:40000 to 10.0.0.2:80."""
    row = {"local_address": CLIENT, "local_port": 40000, "remote_address": SERVER, "remote_port": 80, "transport": 6}
    return row | {"network_namespace": 9, "reason": 2, "packets": 1, "bytes": 100} | values


@pytest.fixture
def feed():
    """Return a feed with hosts of the client, the server, and one between."""
    made = Feed(("az_az", "id_id"))
    made.session(0, "wget")
    made.session(1, "-", "nginx")
    made.session(2)
    return made


def dropped(window, label="workload.name", level=0, kind=CellKind.DROPPED_PACKETS):
    of, found = window.levels[level], {}
    bins = of.bins[kind]
    for place, reason, amount in zip(bins.place, bins.bin, bins.amount, strict=True):
        ends = (dict(window.ends.labels[end[place]]).get(label) for end in (of.source, of.dest))
        key = (*ends, window.drop_reasons[reason])
        found[key] = found.get(key, 0) + int(amount)
    return found


def test_drops_are_named_by_their_flow_and_belong_to_the_packets_direction(feed):
    feed.take(0, 3, connector_row(bytes_sent=1))
    feed.take(1, 3, acceptor_row(bytes_received=1))
    back = {"local_address": SERVER, "local_port": 80, "remote_address": CLIENT, "remote_port": 40000}
    rows = (drop_row(packets=3), drop_row(packets=4), drop_row(reason=5), drop_row(**back, packets=7, bytes=70))
    feed.take(2, 3, drops=rows, entities=reasons(NO_SOCKET=2, TCP_CSUM=5))
    window = feed.seal(heard=(0, 1, 2))
    expected = {
        ("wget", "nginx", "NO_SOCKET"): 7,
        ("wget", "nginx", "TCP_CSUM"): 1,
        ("nginx", "wget", "NO_SOCKET"): 7,
    }
    assert dropped(window) == dropped(window, level=1) == expected
    assert dropped(window, kind=CellKind.DROPPED_BYTES)["nginx", "wget", "NO_SOCKET"] == 70
    assert series_of(window)["nginx", "wget"] == {}


def test_drops_of_a_silent_flow_are_named_as_long_as_it_is_remembered(feed):
    feed.take(0, 3, connector_row(bytes_sent=1))
    feed.take(1, 3, acceptor_row(bytes_received=1))
    feed.seal()
    feed.take(2, 33, drops=(drop_row(),), entities=reasons(NO_SOCKET=2))
    assert dropped(feed.seal(1)) == {("wget", "nginx", "NO_SOCKET"): 1}


def test_drops_of_no_flow_have_their_addresses_and_make_no_flow(feed):
    unknown_flow = {"local_address": "::", "remote_address": "::", "local_port": 0, "remote_port": 0, "transport": 0}
    feed.take(2, 3, drops=(drop_row(), drop_row(local_port=1, reason=77), drop_row(**unknown_flow)))
    window = feed.seal()
    assert dropped(window, "ip", 1) == {(CLIENT, SERVER, "UNKNOWN"): 2, ("::", "::", "UNKNOWN"): 1}
    assert dropped(window, "environment") == {("(no agent)", "(no agent)", "UNKNOWN"): 3}
    assert feed.pipeline.statistics().flows == 0


def test_drops_beside_a_port_of_two_owners(feed):
    """The flows of both owners and that of the drops keep their own."""
    feed.session(0, "old", "new")
    rows = (connector_row(socket=1, process=1, bytes_sent=3), connector_row(socket=2, process=2, bytes_sent=4))
    feed.take(0, 3, *rows, drops=(drop_row(local_port=9, packets=5),))
    window = feed.seal()
    assert dropped(window, "ip", 1) == {(CLIENT, SERVER, "UNKNOWN"): 5}
    found = {source: values.get("bytes") for (source, _), values in series_of(window).items()}
    assert (found["old"], found["new"]) == (3, 4)


def test_reasons_are_interned_over_sessions():
    table = DropReasons()
    table.learn(A, reasons(NO_SOCKET=2, TCP_CSUM=5).drop_reasons)
    table.learn(B, reasons(TCP_CSUM=2).drop_reasons)
    table.learn(A, reasons(NETFILTER_DROP=8).drop_reasons)
    numbers = np.array([0, 2, 5, 8, 9], np.uint16)
    assert [table.names[index] for index in table.of(A, numbers)] == [
        "UNKNOWN",
        "NO_SOCKET",
        "TCP_CSUM",
        "NETFILTER_DROP",
        "UNKNOWN",
    ]
    assert [table.names[index] for index in table.of(B, numbers)] == ["UNKNOWN", "TCP_CSUM", *["UNKNOWN"] * 3]
    assert table.of(b"c" * 16, numbers).tolist() == [0] * 5


def test_reasons_are_bounded(monkeypatch):
    monkeypatch.setattr(module, "MOST_REASONS", 3)
    monkeypatch.setattr(module, "MOST_SESSIONS", 1)
    table = DropReasons()
    table.learn(A, reasons(ONE=1, TWO=2, THREE=3, FAR=70000).drop_reasons)
    table.learn(B, reasons(ONE=1, **{"X" * 500: 2}).drop_reasons)
    assert table.names == ["UNKNOWN", "ONE", "TWO"]
    assert table.of(B, np.array([1, 2])).tolist() == [1, 0]
    assert table.of(A, np.array([1])).tolist() == [0]
