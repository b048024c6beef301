"""What iperf3 moves between two hosts is exported to the byte, with the names of both ends."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.lab.sockets import live_sockets
from tests.lab.traffic import IPERF_PORT
from tests.lab.transfer import Transfer
from tests.lab.waiting import wait_until

if TYPE_CHECKING:
    from tests.lab.daemons import Lab

MEGABYTE = 1 << 20


def test_twenty_seconds_between_two_hosts_with_a_collector_each(lab: Lab) -> None:
    transfer = Transfer(lab)
    transfer.reducer = lab.start_reducer_with_sink()
    transfer.watch()
    size = 5000 * MEGABYTE
    transfer.begin(size, "2100M")  # 20 s
    transfer.check(transfer.finish())


def test_ipv6(lab: Lab) -> None:
    transfer = Transfer(lab, ipv6=True)
    transfer.reducer = lab.start_reducer_with_sink()
    transfer.watch()
    size = 800 * MEGABYTE
    transfer.begin(size, "1300M")
    transfer.check(transfer.finish())


def test_one_collector_that_sees_both_hosts_counts_each_byte_once(lab: Lab) -> None:
    transfer = Transfer(lab)
    transfer.reducer = lab.start_reducer_with_sink()
    transfer.collectors = [lab.start_collector(transfer.client, transfer.client, transfer.server)]
    size = 800 * MEGABYTE
    transfer.begin(size, "1300M")
    transfer.check(transfer.finish())


def test_two_collectors_on_each_host_count_each_byte_once(lab: Lab) -> None:
    transfer = Transfer(lab)
    transfer.reducer = lab.start_reducer_with_sink()
    transfer.watch()
    transfer.collectors += [lab.start_collector(host) for host in (transfer.client, transfer.server)]
    size = 200 * MEGABYTE
    transfer.begin(size, "500M")
    transfer.check(transfer.finish())


def test_one_end_without_a_collector_is_counted_by_the_other(lab: Lab) -> None:
    transfer = Transfer(lab)
    transfer.reducer = lab.start_reducer_with_sink()
    transfer.collectors = [lab.start_collector(transfer.server)]
    size = 200 * MEGABYTE
    transfer.begin(size, "500M")
    exported = transfer.finish()
    for source, dest in ((transfer.client, transfer.server), (transfer.server, transfer.client)):
        total = exported.total("tcp.bytes", source__ip=source.ipv4, dest__ip=dest.ipv4)
        assert total == transfer.sent(source)[0]


@pytest.mark.parametrize("family", ["ipv4", "ipv6"])
def test_retransmits_equal_those_of_ss(lab: Lab, family: str) -> None:
    transfer = Transfer(lab, ipv6=family == "ipv6")
    transfer.reducer = lab.start_reducer_with_sink()
    transfer.watch()
    size = 300 * MEGABYTE
    transfer.server.firewall("loss", input_rules=f"tcp dport {IPERF_PORT} numgen random mod 100 < 2 drop")
    transfer.begin(size, "300M")

    def retransmits() -> int:
        return sum(socket.retransmits for socket in live_sockets(transfer.client))

    wait_until(lambda: retransmits() > 50, 60, "retransmits")
    transfer.server.firewall("loss")
    exported = transfer.finish()
    transfer.check(exported)
