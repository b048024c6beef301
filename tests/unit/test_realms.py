import ipaddress

import numpy as np
import pytest
from ebpf_net.v1 import intake_pb2
from hypothesis import given
from hypothesis import strategies as st

from reducer.realms import as_others_see, is_private, public_pairs
from tests.rows import packed, tcp_rows


def words(*addresses):
    return np.frombuffer(b"".join(map(packed, addresses)), np.uint64).reshape(-1, 2)


@pytest.mark.parametrize(
    ("address", "private"),
    [
        *((address, True) for address in ("10.0.0.1", "10.255.255.255", "172.16.0.1", "172.31.255.255", "192.168.9.9")),
        *((address, True) for address in ("100.64.0.1", "100.127.0.1", "169.254.169.254", "127.0.0.1", "::1", "::")),
        *((address, True) for address in ("fd00::1", "fc00::1", "fe80::1", "febf::1")),
        *((address, False) for address in ("9.255.255.255", "11.0.0.1", "172.15.0.1", "172.32.0.1", "192.169.0.1")),
        *((address, False) for address in ("100.63.0.1", "100.128.0.1", "8.8.8.8", "2001:db8::1", "fec0::1")),
    ],
)
def test_private_addresses(address, private):
    assert is_private(words(address)).tolist() == [private]


@given(st.ip_addresses(v=4))
def test_private_addresses_are_those_of_the_standard(address):
    expected = address.is_private or address in ipaddress.ip_network("100.64.0.0/10")
    reserved = ("0.0.0.0/8", "192.0.0.0/24", "192.0.2.0/24", "198.18.0.0/15", "198.51.100.0/24", "203.0.113.0/24")
    if not any(address in ipaddress.ip_network(network) for network in (*reserved, "240.0.0.0/4")):
        assert is_private(words(str(address))).tolist() == [expected]


def test_a_machine_is_seen_by_its_public_address_where_its_peer_is_public():
    pairs = [{"private": packed("10.0.0.5"), "public": packed("54.1.1.1")}]
    host = intake_pb2.Host(cloud={"addresses": pairs})
    rows = tcp_rows(
        {"local_address": "10.0.0.5", "remote_address": "8.8.8.8"},
        {"local_address": "10.0.0.5", "remote_address": "10.0.0.6"},
        {"local_address": "10.0.0.6", "remote_address": "8.8.8.8"},
    )
    seen = as_others_see(rows["local_address"], rows["remote_address"], public_pairs(host))
    assert [bytes(each) for each in seen] == [packed(each) for each in ("54.1.1.1", "10.0.0.5", "10.0.0.6")]
    assert bytes(rows["local_address"][0]) == packed("10.0.0.5")
    assert public_pairs(intake_pb2.Host()).shape == (0, 4)
