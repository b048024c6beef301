from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from kernel_collector.machine.network_namespaces import NetworkNamespace
from kernel_collector.tcp.hidden_sockets import HiddenSockets
from kernel_collector.tcp.states import TcpState
from tests.tcp_records import tcp_records

HERE = Path("/proc/self/ns/net").stat().st_ino
NONE_MISSING = np.empty(0, np.uint32)


class Walker:
    """Stands for the probe: which namespaces it was asked to walk."""

    def __init__(self, error=None):
        self.walked = []
        self.error = error

    def walk(self, network_namespace):
        if self.error:
            raise self.error
        self.walked.append(os.fstat(network_namespace).st_ino)
        return tcp_records({"cookie": 99})


@pytest.fixture
def proc(tmp_path):
    """A process, in the network namespace of this test, that uses two sockets."""
    (tmp_path / "7" / "ns").mkdir(parents=True)
    (tmp_path / "7" / "ns" / "net").symlink_to("/proc/self/ns/net")
    (tmp_path / "7" / "net").mkdir()
    (tmp_path / "7" / "net" / "sockstat").write_text("sockets: used 9\nTCP: inuse 2 orphan 0 tw 0 alloc 3 mem 1\n")
    return tmp_path


def polled(*sockets):
    return tcp_records(*({"cookie": cookie, "network_namespace": HERE, "state": state} for cookie, state in sockets))


ESTABLISHED, CLOSE = TcpState.ESTABLISHED, TcpState.CLOSE


@pytest.mark.parametrize(
    ("sockets", "walks"),
    [
        ([(1, ESTABLISHED), (2, ESTABLISHED)], False),
        ([(1, ESTABLISHED)], True),
        ([(1, ESTABLISHED), (1, ESTABLISHED)], True),
        ([(1, ESTABLISHED), (2, CLOSE)], True),
        ([], True),
    ],
)
def test_walks_where_the_poll_did_not_see_all(proc, sockets, walks):
    walker = Walker()
    walk = HiddenSockets(walker, proc, []).walk(polled(*sockets), NONE_MISSING)
    assert walker.walked == walk.namespaces.tolist() == [HERE] * walks
    assert [records["cookie"].tolist() for records in walk.records] == [[99]] * walks


def test_walks_where_known_sockets_are_missing(proc):
    walker = Walker()
    both = polled((1, ESTABLISHED), (2, ESTABLISHED))
    walk = HiddenSockets(walker, proc, []).walk(both, np.array([HERE], np.uint32))
    assert walk.namespaces.tolist() == [HERE]


def test_named_namespaces_alone_are_walked_and_without_a_process(proc):
    walker = Walker()
    with NetworkNamespace(Path("/proc/self/ns/net")) as named:
        empty = proc / "empty"
        empty.mkdir()
        assert HiddenSockets(walker, empty, [named]).walk(polled(), NONE_MISSING).namespaces.tolist() == [HERE]
        named.inode += 1
        assert HiddenSockets(walker, proc, [named]).walk(polled(), NONE_MISSING).namespaces.tolist() == [HERE + 1]


def test_process_that_ends_meanwhile(proc):
    (proc / "7" / "net" / "sockstat").unlink()
    assert HiddenSockets(Walker(), proc, []).walk(polled(), NONE_MISSING).records == []


def test_no_permission_is_told_once(proc, caplog):
    hidden = HiddenSockets(Walker(PermissionError(1, "cannot enter a network namespace")), proc, [])
    for _ in range(2):
        assert hidden.walk(polled(), NONE_MISSING).namespaces.tolist() == []
    assert caplog.text.count("cannot enter a network namespace") == 1
