import numpy as np
import pytest
from ebpf_net.v1 import intake_pb2

from reducer.matching import grouping
from reducer.matching.grouping import Parts, hashed, is_loopback
from reducer.matching.match import (
    TELLING_COLUMNS,
    Special,
    add_up,
    addresses,
    guess_connector,
    look_ahead,
    special_ends,
)
from reducer.windows.rows import uniform_rows
from tests.flow_rows import CLIENT, SERVER, acceptor_row, connector_row
from tests.rows import packed, session_id, tcp_rows

SEED = 12345


def owned(owners, session, *rows):
    told = tcp_rows(*rows)
    owner = owners.of(session_id(session), told["process"], told["cgroup"])
    return uniform_rows("tcp", told) | {"process": owner}


def grouped(owners, *rows, session=0):
    return grouping.grouped([owned(owners, session, *rows)], owners.view(), SEED)


def telling(owners, tables):
    return Parts(tables, owners.view(), SEED, TELLING_COLUMNS).part(0)


def test_both_ends_of_a_connection_are_one_flow(owners):
    flows = grouped(owners, connector_row(), acceptor_row())
    assert len(flows) == 1
    assert sorted(flows.end.tolist()) == [0, 1]


@pytest.mark.parametrize(
    "change",
    [{"local_port": 40001}, {"remote_port": 81}, {"local_address": "10.0.0.3"}, {"remote_address": "fd00::2"}],
)
def test_other_endpoints_are_another_flow(owners, change):
    assert len(grouped(owners, connector_row(), connector_row(**change))) == 2


def test_exchanged_ports_are_another_flow(owners):
    assert len(grouped(owners, connector_row(), connector_row(local_port=80, remote_port=40000))) == 2


def test_loopback_flows_belong_to_their_session_and_namespace(owners):
    def ends(**values):
        loopback = {"local_address": "127.0.0.1", "remote_address": "127.0.0.1"} | values
        return connector_row(**loopback), acceptor_row(**loopback)

    tables = [owned(owners, 0, *ends()), owned(owners, 0, *ends(network_namespace=8)), owned(owners, 1, *ends())]
    assert len(grouping.grouped(tables, owners.view(), SEED)) == 3
    other = {"local_address": CLIENT, "remote_address": SERVER}
    row = connector_row(**other)
    assert len(grouping.grouped([owned(owners, 0, row), owned(owners, 1, row)], owners.view(), SEED)) == 1


def test_what_a_machine_redirects_to_itself_is_its_own(owners):
    """The client keeps its address; the server that is reached has a loopback address."""
    ends = {"local_address": CLIENT, "remote_address": "127.0.0.1"}
    answer = {"local_address": "127.0.0.1", "remote_address": CLIENT}
    tables = [owned(owners, session, connector_row(**ends), acceptor_row(**answer)) for session in (0, 1)]
    assert len(grouping.grouped(tables, owners.view(), SEED)) == 2
    assert len(grouping.grouped(tables[:1], owners.view(), SEED)) == 1


@pytest.mark.parametrize(
    ("address", "loopback"),
    [
        ("127.0.0.1", True),
        ("127.255.0.3", True),
        ("::1", True),
        ("128.0.0.1", False),
        ("10.0.0.127", False),
        ("::", False),
        ("::2", False),
        ("fd00::1", False),
        ("::127.0.0.1", False),
        ("0.127.0.1", False),
    ],
)
def test_loopback_addresses(address, loopback):
    assert is_loopback(np.frombuffer(packed(address), np.uint64)).tolist() == [loopback]


def test_hashes_depend_on_the_seed_and_on_every_word():
    keys = np.zeros((6, 7), np.uint64)
    keys[range(6), range(6)] = 1
    hashes = hashed(keys, SEED)
    assert len(set(hashes.tolist())) == 7
    assert not (hashes == hashed(keys, SEED + 1)).any()


def test_sums_by_end(owners):
    flows = grouped(
        owners,
        connector_row(bytes_sent=5, min_rtt_us=9),
        connector_row(bytes_sent=6, min_rtt_us=7),
        connector_row(min_rtt_us=0),
        acceptor_row(bytes_received=11),
    )
    ends = add_up(flows, owners.view())
    client, server = flows.end[0], flows.end[3]
    assert ends.sum("bytes_sent")[client] == 11
    assert ends.sum("bytes_received")[server] == 11
    assert ends.sum("min_rtt_us")[client] == 7
    assert "retransmits" not in ends.sums
    assert ends.sum("retransmits").tolist() == [0, 0]


def test_sums_are_exact_beyond_what_a_float_holds(owners):
    flows = grouped(owners, connector_row(bytes_sent=2**53), connector_row(bytes_sent=1))
    assert add_up(flows, owners.view()).sum("bytes_sent").max() == 2**53 + 1


def test_different_sockets_are_counted(owners):
    first = [connector_row(socket=1), connector_row(socket=2), connector_row(socket=1), acceptor_row(socket=1)]
    tables = [owned(owners, 0, *first), owned(owners, 1, connector_row(socket=1))]
    flows = grouping.grouped(tables, owners.view(), SEED)
    sockets = add_up(flows, owners.view()).sockets
    assert sockets[flows.end[0]] == 3
    assert sockets[flows.end[3]] == 1


def test_roles_tell_who_connected(owners):
    flows = grouped(owners, connector_row())
    assert add_up(flows, owners.view()).connector[0] == flows.end[0]
    flows = grouped(owners, acceptor_row())
    assert add_up(flows, owners.view()).connector[0] == flows.end[0] ^ 1


def test_the_lower_port_is_taken_for_the_acceptor():
    ports = np.array([80 << 16 | 40000, 40000 << 16 | 80, 80 << 16 | 40000], np.uint64)
    assert guess_connector(np.array([-1, -1, 0], np.int8), ports).tolist() == [1, 0, 0]


def test_failures_by_reason(owners):
    def failed(socket, failure):
        return connector_row(socket=socket, failed=1, failure=failure, role=0)

    flows = grouped(owners, failed(1, intake_pb2.CONNECT_FAILURE_REFUSED), failed(2, 0), failed(3, 99))
    ends = add_up(flows, owners.view())
    assert ends.sum("failed_refused").sum() == 1
    assert ends.sum("failed_other").sum() == 2
    assert ends.connector[0] == flows.end[0]


def test_a_socket_connected_to_itself_tells_its_bytes_once(owners):
    row = connector_row(remote_address=CLIENT, remote_port=40000, bytes_sent=5, bytes_received=5)
    flows = grouped(owners, row, connector_row())
    ends = add_up(flows, owners.view())
    assert ends.sum("bytes_received").sum() == 0
    assert ends.sum("bytes_sent").sum() == 5
    itself = flows.end[0] >> 1
    assert set(ends.owner[[2 * itself, 2 * itself + 1]]) == {flows.rows["process"][0]}, "it is both ends"
    # Not so two sockets of one address.
    ends = add_up(grouped(owners, connector_row(remote_address=CLIENT, bytes_received=5)), owners.view())
    assert ends.sum("bytes_received").sum() == 5


def test_addresses_by_end(owners):
    flows = grouped(owners, connector_row(), acceptor_row())
    found = addresses(flows.keys)
    assert found[flows.end[0]].tobytes() == packed(CLIENT)
    assert found[flows.end[1]].tobytes() == packed(SERVER)


def test_later_windows_tell_who_the_other_end_is(owners):
    flows = grouped(owners, connector_row(role=0))
    ends = add_up(flows, owners.view())
    server = flows.end[0] ^ 1
    assert ends.owner[server] == 0
    later = [owned(owners, 1, acceptor_row(), acceptor_row(local_port=81))]
    look_ahead(flows.hashes, ends, telling(owners, later), owners.view())
    assert ends.owner[server] == later[0]["process"][0]
    assert ends.connector[0] == flows.end[0]


@pytest.fixture
def named_owners(owners):
    for number in range(2):
        processes = [intake_pb2.Process(id=1, name="wrk"), intake_pb2.Process(id=2, name="nginx")]
        owners.learn(session_id(number), intake_pb2.Entities(processes=processes))
    return owners


def owner_names(ends, flows, known):
    owners = known.view().owners
    return [owners[number].process if number else None for number in ends.owner[[flows.end[0], flows.end[0] ^ 1]]]


def test_a_row_without_a_process_does_not_take_the_name_of_those_before(named_owners):
    flows = grouped(named_owners, connector_row(), acceptor_row(), connector_row(process=0), acceptor_row(process=0))
    assert owner_names(add_up(flows, named_owners.view()), flows, named_owners) == ["wrk", "nginx"]


def test_the_last_name_is_that_of_the_session_that_told_last(named_owners):
    tables = [owned(named_owners, 0, connector_row()), owned(named_owners, 1, connector_row(process=0))]
    flows = grouping.grouped(tables, named_owners.view(), SEED)
    ends = add_up(flows, named_owners.view())
    assert ends.owner[flows.end[0]] == tables[1]["process"][0]


def test_of_later_rows_the_first_that_names_an_end_counts(named_owners):
    flows = grouped(named_owners, connector_row())
    ends = add_up(flows, named_owners.view())
    rows = [acceptor_row(process=process) for process in (0, 2, 0, 1)]
    look_ahead(flows.hashes, ends, telling(named_owners, [owned(named_owners, 1, *rows)]), named_owners.view())
    assert owner_names(ends, flows, named_owners) == ["wrk", "nginx"]


def test_special_ends_are_known_by_port_and_address(owners):
    metadata, other = "169.254.169.254", "169.254.169.253"
    flows = grouped(
        owners,
        connector_row(),
        connector_row(remote_port=53, remote_address="9.9.9.9"),
        connector_row(remote_address=metadata),
        connector_row(remote_address=metadata, remote_port=53),
        connector_row(remote_address=other),
        connector_row(local_address="fd00::1", remote_address="fd00::a9fe:a9fe"),
        connector_row(local_address="200.0.0.1", local_port=53, remote_address=metadata),
    )
    special = special_ends(flows.keys)
    local = flows.end[:7]
    assert special[local].tolist() == [Special.NONE] * 6 + [Special.DNS]
    assert special[local ^ 1].tolist() == [
        Special.NONE,
        Special.DNS,
        Special.INSTANCE_METADATA,
        Special.DNS,
        Special.NONE,
        Special.NONE,
        Special.INSTANCE_METADATA,
    ]
