"""The table of UDP sockets, given what the kernel would say."""

from __future__ import annotations

import numpy as np
import pytest

from intake.columns import UDP_COLUMNS
from kernel_collector.bpf.bpf_object import BpfObject
from kernel_collector.bpf.btf import Btf
from kernel_collector.bpf.records import udp_record_dtypes
from kernel_collector.objects import OBJECTS
from kernel_collector.packets import OBJECT
from kernel_collector.udp.probe import UdpDropped, UdpTraffic
from kernel_collector.udp.sockets import UdpSocketTable
from tests.rows import packed

HERE, THERE, ELSEWHERE, NOWHERE = (packed(text) for text in ("10.0.0.1", "10.0.0.2", "10.0.0.3", "::"))
WILDCARD = packed("0.0.0.0")


@pytest.fixture(scope="module")
def dtypes():
    with BpfObject(OBJECTS / OBJECT) as opened:
        return udp_record_dtypes(Btf(opened.btf.data))


class Kernel:
    """A table, and what the kernel tells it; sockets are cookies, processes ids."""

    def __init__(self, dtypes, **options):
        self.record, self.peer, self.traffic, _ = dtypes
        self.table = UdpSocketTable(**options)

    def update(self, exchanged=(), polled=(), dropped=()):
        """Take (cookie, remote, {counter: value}), and (cookie, process, drops) or with a connected remote as well.

        And of those that dropped (cookie, before, now).
        """
        peers, counts = np.zeros(len(exchanged), self.peer), np.zeros(len(exchanged), self.traffic)
        creators = np.zeros(len(exchanged), np.uint32)
        for row, (cookie, remote, values) in enumerate(exchanged):
            peers["cookie"][row], peers["local_port"][row] = cookie, 1000 + cookie
            peers["local_address"][row] = np.void(HERE)
            peers["remote_address"][row], peers["remote_port"][row] = np.void(remote), 53 if remote != NOWHERE else 0
            creators[row] = values.pop("process", 0)
            for name, value in values.items():
                counts[name][row] = value
        records = np.zeros(len(polled), self.record)
        holders = np.zeros(len(polled), np.uint32)
        for row, (cookie, process, drops, *connected) in enumerate(polled):
            records["cookie"][row], holders[row], records["drops"][row] = cookie, process, drops
            records["network_namespace"][row], records["local_port"][row] = 7, 1000 + cookie
            records["cgroup"][row] = 50 + cookie
            records["local_address"][row] = np.void(WILDCARD)
            for remote in connected:
                records["remote_address"][row], records["remote_port"][row] = np.void(remote), 53
        cookies, before, now = np.array(dropped, np.uint64).reshape(-1, 3).T
        totals = UdpDropped(cookies, before.astype(np.uint32), now.astype(np.uint32))
        rows = self.table.update(UdpTraffic(peers, counts), creators, records, holders, totals)
        assert {name: column.dtype for name, column in rows.items()} == {c.name: c.dtype for c in UDP_COLUMNS}
        assert len({len(column) for column in rows.values()}) == 1
        return [
            {
                name: column[row].tobytes() if column.dtype.kind == "V" else int(column[row])
                for name, column in rows.items()
            }
            for row in range(len(rows["socket"]))
        ]


@pytest.fixture
def kernel(dtypes):
    started = Kernel(dtypes)
    started.update()
    return started


def test_traffic_becomes_a_row_with_the_owner_of_the_poll(kernel):
    counters = {"bytes_sent": 5, "packets_sent": 1, "bytes_received": 70, "packets_received": 2, "cgroup": 51}
    (row,) = kernel.update([(1, THERE, dict(counters))], [(1, 9, 0)])
    assert row == counters | {
        "socket": 1,
        "process": 9,
        "network_namespace": 7,
        "local_address": HERE,
        "remote_address": THERE,
        "local_port": 1001,
        "remote_port": 53,
        "baseline": 0,
        "drops": 0,
    }


def test_a_socket_that_no_poll_saw_belongs_to_who_opened_it(kernel):
    (row,) = kernel.update([(1, THERE, {"bytes_sent": 5, "process": 4, "network_namespace": 8})])
    assert (row["process"], row["network_namespace"]) == (4, 8)


def test_a_socket_that_has_closed_keeps_its_owner_for_its_last_row(kernel):
    kernel.update(polled=[(1, 9, 0)])
    (row,) = kernel.update([(1, THERE, {"bytes_sent": 5, "process": 4})])
    assert row["process"] == 9
    (row,) = kernel.update([(1, THERE, {"bytes_sent": 5, "process": 4})])
    assert row["process"] == 4


def test_an_owner_stays_while_it_holds_the_socket(kernel):
    kernel.update(polled=[(1, 9, 0)])
    assert kernel.update([(1, THERE, {"bytes_sent": 1})], [(1, 8, 0), (1, 9, 0)])[0]["process"] == 9
    assert kernel.update([(1, THERE, {"bytes_sent": 1})], [(1, 8, 0)])[0]["process"] == 8


def test_sockets_of_the_first_update_are_marked_in_all_rows(dtypes):
    kernel = Kernel(dtypes)
    (row,) = kernel.update([(1, THERE, {"bytes_sent": 5})], [(1, 9, 100)])
    assert (row["baseline"], row["drops"]) == (1, 0)
    rows = kernel.update([(1, ELSEWHERE, {"bytes_sent": 5}), (2, THERE, {"bytes_sent": 5})], [(1, 9, 100), (2, 9, 0)])
    assert [(row["socket"], row["baseline"]) for row in rows] == [(1, 1), (2, 0)]


def drop_rows(rows):
    return [(row["socket"], row["remote_address"], row["remote_port"], row["drops"]) for row in rows if row["drops"]]


def test_drops_are_told_once_and_wrap(kernel):
    assert drop_rows(kernel.update(polled=[(1, 9, 2**32 - 3, THERE)])) == [(1, THERE, 53, 2**32 - 3)]
    assert drop_rows(kernel.update(polled=[(1, 9, 2**32 - 3, THERE)])) == []
    assert drop_rows(kernel.update(polled=[(1, 9, 4, THERE), (1, 8, 4, THERE)])) == [(1, THERE, 53, 7)]


def test_drops_are_those_of_the_only_peer(kernel):
    kernel.update([(1, THERE, {"bytes_received": 5})], [(1, 9, 0)])
    rows = kernel.update(polled=[(1, 9, 3)])
    assert drop_rows(rows) == [(1, THERE, 53, 3)]
    assert (rows[0]["local_address"], rows[0]["cgroup"]) == (HERE, 51)


@pytest.mark.parametrize("later", [False, True])
def test_drops_of_a_socket_with_several_peers_are_nobodys(kernel, later):
    exchanged = [(1, THERE, {"bytes_received": 5}), (1, ELSEWHERE, {"bytes_received": 5})]
    if later:
        kernel.update(exchanged[:1], [(1, 9, 0)])
        exchanged = exchanged[1:]
    rows = kernel.update(exchanged, [(1, 9, 3)])
    assert drop_rows(rows) == [(1, NOWHERE, 0, 3)]
    assert drop_rows(kernel.update(exchanged[:1], [(1, 9, 5)])) == [(1, NOWHERE, 0, 2)]


def test_drops_of_a_socket_that_no_poll_saw(kernel):
    received = (1, THERE, {"bytes_received": 5, "cgroup": 51, "process": 4})
    rows = kernel.update([received], dropped=[(1, 2, 99)])
    assert drop_rows(rows) == [(1, THERE, 53, 97)]
    assert [(row["process"], row["cgroup"]) for row in rows] == [(4, 51), (4, 51)]
    assert drop_rows(kernel.update(dropped=[(1, 2, 99)])) == []
    assert drop_rows(kernel.update(dropped=[(1, 2, 101), (2, 0, 7)])) == [(1, THERE, 53, 2)], (
        "of the other no end is known"
    )
    assert drop_rows(kernel.update(polled=[(1, 9, 104, THERE)], dropped=[(1, 2, 104)])) == [(1, THERE, 53, 3)]


def test_drops_after_the_last_poll_that_saw_the_socket(kernel):
    kernel.update(polled=[(1, 9, 3, THERE), (2, 9, 6, THERE)], dropped=[(1, 0, 3), (2, 0, 2)])
    rows = kernel.update(dropped=[(2, 0, 2), (1, 0, 8)])
    assert drop_rows(rows) == [(1, THERE, 53, 5)]
    assert rows[0]["process"] == 9
    assert drop_rows(kernel.update(dropped=[(2, 0, 2), (1, 0, 8)])) == []


def test_drops_of_a_socket_that_was_connected_since_are_its_peers(kernel):
    kernel.update([(1, THERE, {"bytes_sent": 5}), (1, ELSEWHERE, {"bytes_sent": 5})], [(1, 9, 0)])
    assert drop_rows(kernel.update(polled=[(1, 9, 3, ELSEWHERE)])) == [(1, ELSEWHERE, 53, 3)]


def test_sockets_beyond_the_limit_are_counted_and_have_rows_of_traffic(dtypes):
    kernel = Kernel(dtypes, most_sockets=2)
    kernel.update()
    polled = [(cookie, 9, cookie) for cookie in (3, 1, 2)]
    rows = kernel.update([(3, THERE, {"bytes_sent": 5, "process": 4})], polled)
    assert [(row["socket"], row["bytes_sent"], row["process"], row["drops"]) for row in rows] == [
        (3, 5, 4, 0),
        (1, 0, 9, 1),
        (2, 0, 9, 2),
    ]
    assert (len(kernel.table), kernel.table.untracked) == (2, 1)
    assert kernel.table.cgroups().tolist() == [51, 52]
    assert kernel.table.processes().tolist() == [9, 9]
