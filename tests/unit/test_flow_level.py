"""The flows of windows, from rows on."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from reducer.columns.cells import NO_CELLS
from reducer.columns.series import FLOWS, EndTable, FlowLevel
from reducer.columns.value_columns import VALUE_COLUMNS
from reducer.matching.grouping import PORTS
from reducer.rolling_up.flow_level import FlowRoller
from tests.flow_rows import Feed, acceptor_row, connector_row

CLIENT_PORT, SERVER_PORT = connector_row()["local_port"], connector_row()["remote_port"]


def fed(*rows, **options):
    """Return the window of rows that two hosts, a client and a server, told."""
    feed = Feed((FLOWS, "id_id"), **options)
    feed.session(0, "wget")
    feed.session(1, "-", "nginx")
    feed.take(0, 3, *rows)
    feed.take(1, 4, acceptor_row(bytes_sent=1))
    return feed.seal()


def flows_of(window):
    flows = window.levels[0]
    assert isinstance(flows, FlowLevel)
    names = [dict(labels)["workload.name"] for labels in window.ends.labels]
    columns = (flows.source, flows.dest, flows.protocol, flows.source_port, flows.dest_port, flows.values["bytes"])
    return sorted((names[s], names[d], *rest) for s, d, *rest in zip(*(c.tolist() for c in columns), strict=True))


def test_a_single_connection_has_both_ports():
    assert flows_of(fed(connector_row(bytes_sent=10, bytes_received=1))) == [
        ("nginx", "wget", 6, SERVER_PORT, CLIENT_PORT, 1),
        ("wget", "nginx", 6, CLIENT_PORT, SERVER_PORT, 10),
    ]


def test_connections_to_one_port_are_one_flow_and_those_to_another_are_not():
    rows = [
        connector_row(bytes_sent=10, bytes_received=1),
        connector_row(bytes_sent=5, local_port=CLIENT_PORT + 1, socket=7),
        connector_row(bytes_sent=3, remote_port=SERVER_PORT + 1, socket=8),
    ]
    assert [flow for flow in flows_of(fed(*rows)) if flow[0] == "wget"] == [
        ("wget", "(unknown)", 6, CLIENT_PORT, SERVER_PORT + 1, 3),
        ("wget", "(unknown)", 6, CLIENT_PORT + 1, SERVER_PORT, 5),
        ("wget", "nginx", 6, CLIENT_PORT, SERVER_PORT, 10),
    ]


def test_udp_is_told_apart_from_tcp():
    feed = Feed((FLOWS,))
    feed.session(0, "wget")
    row = {name: value for name, value in connector_row(bytes_sent=10).items() if name != "role"}
    feed.take(0, 3, connector_row(bytes_sent=10))
    feed.take(
        0,
        3,
        udp=(
            {name: row[name] for name in ("socket", "process", "local_address", "remote_address")}
            | {"local_port": row["local_port"], "remote_port": row["remote_port"], "bytes_sent": 4, "packets_sent": 1},
        ),
    )
    flows = feed.seal().levels[0]
    assert sorted(zip(flows.protocol.tolist(), flows.values["bytes"].tolist(), strict=True)) == [(6, 10), (17, 0)]


@pytest.mark.parametrize("most", [1, 2, 5, 9, 16, 100])
def test_beyond_the_limit_the_least_active_lose_their_ports_and_sums_stay(most):
    rows = [
        connector_row(bytes_sent=10 + port, segments_sent=1 + port, remote_port=1000 + port, socket=port + 1)
        for port in range(8)
    ]
    window = fed(*rows, most_series=most)
    flows, by_node = window.levels
    assert len(flows.source) <= most
    for name in VALUE_COLUMNS:
        if name != "min_rtt_us":
            assert flows.values[name].sum() == by_node.values[name].sum(), name
    told = np.sort(flows.dest_port[(flows.dest_port >= 1000) & (flows.dest_port < 1008)])
    assert told.tolist() == list(range(1008 - len(told), 1008))
    assert len(told) == {5: 2, 9: 6}.get(most, len(told))


def test_many_clients_of_a_port_may_lose_it():
    """Nodes of every index connect, those that stand in for others among them."""
    clients, ports, most = 20, 3, 30
    table, roller = EndTable(), FlowRoller(most)
    nodes = np.array([table.intern((("id", f"{number}"),)) for number in range(clients + 1)], np.uint32)
    key = np.zeros((PORTS + 1, clients * ports), np.uint64)
    client, server_port = np.divmod(np.arange(clients * ports, dtype=np.uint64), ports)
    key[PORTS] = 6 << 32 | (40_000 + client) << 16 | server_port
    values = {name: np.ones(2 * clients * ports, np.int64) for name in ("packets", "bytes")}
    connector = np.zeros(clients * ports, np.int8)
    node = np.stack((nodes[1 + client.astype(int)], np.full(clients * ports, nodes[0])), axis=1).ravel()
    roller.add(SimpleNamespace(key=key, connector=connector, values=values, cells=NO_CELLS), node)
    flows = roller.take(table)
    assert len(flows.source) <= most
    assert flows.values["bytes"].sum() == 2 * clients * ports


def test_what_is_told_without_ports_is_counted():
    feed = Feed((FLOWS,), most_series=4)
    feed.session(0, "wget")
    feed.take(0, 3, *(connector_row(bytes_sent=1, remote_port=1000 + port, socket=port + 1) for port in range(8)))
    feed.seal()
    assert feed.pipeline.statistics().flows_without_ports == 5


def test_a_direction_in_which_nothing_went_leaves_other_flows_their_ports():
    """Nothing comes back from the server to the first client, and its row would stand before the second one's."""
    values = {"bytes": np.array([10, 0, 20, 5], np.int64)}
    ports = np.array([17 << 32 | 1111 << 16 | 514, 17 << 32 | 2222 << 16 | 514], np.uint64)
    key = np.zeros((PORTS + 1, 2), np.uint64)
    key[PORTS] = ports
    matched = SimpleNamespace(key=key, connector=np.zeros(2, np.int8), values=values, cells=NO_CELLS)
    table, roller = EndTable(), FlowRoller()
    nodes = [table.intern((("id", name),)) for name in ("first client", "second client", "server")]
    roller.add(matched, np.array([nodes[0], nodes[2], nodes[1], nodes[2]], np.uint32))
    flows = roller.take(table)
    assert sorted(zip(flows.source_port.tolist(), flows.dest_port.tolist(), strict=True)) == [
        (514, 2222),
        (1111, 514),
        (2222, 514),
    ]
