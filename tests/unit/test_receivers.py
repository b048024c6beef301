import numpy as np
import pytest

from reducer.matching.grouping import grouped
from reducer.matching.receivers import KEPT_WINDOWS, SharedReceivers, is_shared
from reducer.windows.rows import IPPROTO_UDP, uniform_rows
from tests.flow_rows import SERVER, acceptor_row
from tests.rows import packed, session_id, tcp_rows

SEED = 12345
GROUP = "224.0.0.251"


def received(owners, receivers, window, *rows, at=GROUP, protocol=IPPROTO_UDP):
    """What counts of rows of (session, socket, bytes)."""
    tables = []
    for session, socket, count in rows:
        told = tcp_rows(acceptor_row(local_address=at, socket=socket, bytes_received=count, segments_received=1))
        process = owners.of(session_id(session), told["process"], told["cgroup"])
        tables.append(uniform_rows("tcp", told) | {"process": process, "protocol": np.full(1, protocol, np.uint8)})
    heard = receivers.hear_one(window, grouped(tables, owners.view(), SEED), owners.view())
    return heard.rows["bytes_received"].tolist(), heard.rows["segments_received"].tolist()


@pytest.mark.parametrize(
    ("address", "shared"),
    [
        ("224.0.0.0", True),
        ("239.255.255.255", True),
        ("255.255.255.255", True),
        ("ff02::fb", True),
        ("223.255.255.255", False),
        ("240.0.0.1", False),
        ("10.0.0.255", False),
        ("::ff02", False),
        ("fe80::1", False),
        ("0.224.0.0", False),
    ],
)
def test_addresses_that_many_receive_at(address, shared):
    assert is_shared(np.frombuffer(packed(address), np.uint64)).tolist() == [shared]


def test_one_of_several_sockets_tells_and_all_of_its_rows_count(owners):
    bytes_received, packets = received(
        owners, SharedReceivers(), 1, (0, 3, 500), (0, 3, 70), (0, 2, 500), (1, 3, 570), (0, 2, 70)
    )
    assert sum(bytes_received) == 570
    assert [count > 0 for count in packets] == [count > 0 for count in bytes_received]


@pytest.mark.parametrize("options", [{"at": SERVER}, {"protocol": 6}])
def test_what_one_alone_receives_counts_whichever_sockets_it_has(owners, options):
    assert received(owners, SharedReceivers(), 1, (0, 3, 500), (0, 2, 70), **options) == ([500, 70], [1, 1])


def test_the_same_one_tells_where_the_others_come_a_window_later(owners):
    receivers = SharedReceivers()
    assert received(owners, receivers, 7, (1, 2, 500))[0] == [500]
    assert received(owners, receivers, 8, (0, 2, 500), (0, 3, 500))[0] == [0, 0]
    assert received(owners, receivers, 9, (0, 2, 30), (1, 2, 30))[0] == [0, 30]


def test_another_one_tells_once_the_chosen_one_is_silent(owners):
    receivers = SharedReceivers()
    received(owners, receivers, 7, (0, 2, 500), (1, 2, 500))
    told = [received(owners, receivers, window, (session, 9, 80))[0] for window in (8, 9, 10) for session in (0, 1)]
    assert sum(map(sum, told)) == 2 * 80, "not in the window after, and then one of the two"


def test_it_keeps_no_more_than_it_may(owners):
    receivers = SharedReceivers(most=1)
    received(owners, receivers, 1, (0, 2, 500))
    assert receivers.forgotten == 0
    received(owners, receivers, 1, (0, 2, 500), at="224.0.0.5")
    assert (len(receivers._chosen), receivers.forgotten) == (1, 1)
    received(owners, receivers, 1 + KEPT_WINDOWS, (0, 2, 500), at="224.0.0.6")
    assert len(receivers._chosen) == 1
