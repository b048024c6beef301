"""The owners of sockets that speak HTTP."""

from __future__ import annotations

import numpy as np
from ebpf_net.v1 import intake_pb2

from intake.columns import empty_columns
from kernel_collector.http.concern import owners


class Table:
    """Stands for a SocketTable: owners by cookie, and of listeners by port."""

    def owners(self, cookies):
        found = np.array([{1: 11, 2: 12}.get(cookie, 0) for cookie in cookies.tolist()], np.uint32)
        return found, np.zeros(len(found), np.uint32)

    def listener_owners(self, _namespaces, _addresses, ports):
        return np.array([{80: 99}.get(port, 0) for port in ports.tolist()], np.uint32)


def test_one_that_waits_to_be_accepted_is_its_listeners():
    sockets = empty_columns(5, "http")
    sockets["socket"][:] = [2, 3, 1, 4, 5]
    sockets["local_port"][:] = [80, 80, 80, 81, 80]
    connector, acceptor = intake_pb2.ROLE_CONNECTOR, intake_pb2.ROLE_ACCEPTOR
    sockets["role"][:] = [acceptor, acceptor, connector, acceptor, connector]
    assert owners(Table(), sockets).tolist() == [12, 99, 11, 0, 0]
