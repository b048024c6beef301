"""Messages of connection tracking: what is read of those that the kernel writes, and that no others do harm."""

from __future__ import annotations

import secrets

import numpy as np
import pytest

from kernel_collector.nat.conntrack_messages import MESSAGE_DELETE, MESSAGE_NEW, decode
from tests.conntrack_messages import ICMP, TCP, UDP, attribute, connections, fronts, message

# Recorded: `ip daddr 10.99.0.1 tcp dport 80 dnat to 10.203.0.3:8080`, a connection's event as Linux 6.18 sent it.
RECORDED = bytes.fromhex(
    "c4000000000100060000000000000000020000003400018014000180080001000acb0002080002000a6300011c00028005000100"
    "0600000006000200ddbc000006000300005000003400028014000180080001000acb0003080002000acb00021c00028005000100"
    "06000000060002001f90000006000300ddbc000008000c006954fd8f08000300000001a80800070000000078300004802c000180"
    "0500010001000000050002000a000000050003000000000006000400030000000600050000000000"
)

IPV4 = (("10.0.0.1", 40000, "10.96.0.1", 80), ("10.1.0.7", 8080, "10.0.0.1", 40000))
IPV6 = (("fd00::1", 40000, "fd00:96::1", 80), ("fd00:1::7", 8080, "fd00::1", 41000))
OF_IPV4 = (IPV4[0], ("10.0.0.1", 40000, "10.1.0.7", 8080))
OF_IPV6 = (IPV6[0], ("fd00::1", 41000, "fd00:1::7", 8080))


def test_a_recorded_event():
    found, unread = decode(*fronts(RECORDED))
    expected = connections((("10.203.0.2", 56764, "10.99.0.1", 80), ("10.203.0.2", 56764, "10.203.0.3", 8080)))
    assert (found.tolist(), unread) == (expected.tolist(), 0)


@pytest.mark.parametrize("zones", [(None, None), (5, None), (None, 5), (5, 6)])
@pytest.mark.parametrize("protocol", [TCP, UDP])
def test_both_families_in_one_go_in_their_order(protocol, zones):
    found, unread = decode(
        *fronts(
            message(*IPV6, protocol, zones=zones),
            message(*IPV4, protocol, zones=zones, kind=MESSAGE_DELETE),
            message(*IPV6, protocol, zones=zones),
        )
    )
    expected = connections((*OF_IPV6, protocol), (*OF_IPV4, protocol, True), (*OF_IPV6, protocol))
    assert (found.tolist(), unread) == (expected.tolist(), 0)


def test_what_is_not_translated_or_of_other_protocols_is_left_out():
    plain = (IPV4[0], (*IPV4[0][2:], *IPV4[0][:2]))
    icmp = message(*IPV4, ICMP)
    found, unread = decode(*fronts(message(*plain), icmp, icmp.replace(attribute(2, b"\x9c\x40"), b"\xff" * 8)))
    assert (len(found), unread) == (0, 0)


@pytest.mark.parametrize("kind", [0, 2, 3, 0x101, MESSAGE_NEW + 0x100])
def test_messages_of_other_kinds_are_not_read(kind):
    found, unread = decode(*fronts(message(*IPV4, kind=kind), message(*IPV4)))
    assert (len(found), unread) == (1, 1)


@pytest.mark.parametrize("ends", [IPV4, IPV6])
def test_a_message_cut_anywhere_is_read_whole_or_not_at_all(ends):
    whole = message(*ends, rest=b"")
    for length in range(len(whole)):
        found, unread = decode(*fronts(whole[:length]))
        assert (len(found), unread) == (0, 1), length
        lying = (length + 16).to_bytes(4, "little") + whole[4:]
        assert len(decode(*fronts(lying[: length + 16]))[0]) == (length + 16 >= len(whole)), length


def test_any_header_that_is_not_the_expected_one_makes_it_unread():
    whole = message(*IPV4)
    values = {32, 33, 34, 35, 40, 41, 42, 43, 60, 61, 68, 69}  # addresses and ports of the original
    for place in range(20, 72):
        changed = bytearray(whole)
        changed[place] ^= 0x40
        found, unread = decode(*fronts(bytes(changed)))
        read = place in values or place in {53, 54, 55, 62, 63, 70, 71}  # what pads them
        assert len(found) == read, place
        assert unread == (not read and place != 52), place  # 52: the protocol


def test_noise_and_damage_do_no_harm():
    noise = [secrets.token_bytes(secrets.randbelow(300)) for _ in range(2000)]
    damaged = []
    for _ in range(2000):
        one = bytearray(message(*secrets.choice([IPV4, IPV6])))
        for _ in range(1 + secrets.randbelow(4)):
            one[secrets.randbelow(len(one))] = secrets.randbelow(256)
        damaged.append(bytes(one))
    found, unread = decode(*fronts(*noise, *damaged))
    assert len(found) + unread <= 4000
    assert set(np.unique(found["protocol"])) <= {TCP, UDP}
