"""Reads messages of the kernel's connection tracking in columns: what was translated to what, by address and port.

A message (include/uapi/linux/netfilter/nfnetlink_conntrack.h) begins with the ends of the first packet as its sender
made it (the original) and of the answer as the other end makes it (the reply). The kernel writes both in one order
(`ctnetlink_dump_tuples`, net/netfilter/nf_conntrack_netlink.c), so the attributes of a kind of message all stand at the
same places: where their headers are those expected, the values are read by their offsets, of all messages at once.
"""

from __future__ import annotations

import itertools
import socket
from typing import NamedTuple

import numpy as np

from kernel_collector.columns.endpoints import ENDPOINTS, same
from kernel_collector.columns.structured import opaque

FRONT_BYTES = 256
"""So much of a message holds all that is read of it, in any of its forms."""
MESSAGE_NEW, MESSAGE_DELETE = 0x100, 0x102
"""nlmsg_type: NFNL_SUBSYS_CTNETLINK << 8 | IPCTNL_MSG_CT_NEW or IPCTNL_MSG_CT_DELETE."""

CONNECTION = np.dtype(
    [
        ("original", ENDPOINTS),  # of the end that sent the first packet: local is its own
        ("translated", ENDPOINTS),  # the same end as the other one sees it: its address, and the other one's own
        ("protocol", "u1"),
        ("ended", "?"),
        ("namespace_id", "i4"),  # of the network namespace, as the one that is told of it numbers others
    ]
)
OWN_NAMESPACE = -1
"""The `namespace_id` of the namespace itself that is told."""

_HEADER = np.dtype([("length", "<u4"), ("type", "<u2"), ("flags", "<u2"), ("sequence", "<u4"), ("port", "<u4")])
_FAMILY_OFFSET, _ATTRIBUTES_OFFSET = 16, 20
_NESTED = 0x8000
# enum ctattr_type, ctattr_tuple, ctattr_ip, ctattr_l4proto
_TUPLE_ORIGINAL, _TUPLE_REPLY = 1, 2
_TUPLE_IP, _TUPLE_PROTOCOL, _TUPLE_ZONE = 1, 2, 3
_ADDRESS_TYPES = {4: (1, 2), 16: (3, 4)}
_FAMILIES = {4: socket.AF_INET, 16: socket.AF_INET6}
_PROTOCOL_NUMBER, _SOURCE_PORT, _DESTINATION_PORT = 1, 2, 3
_ATTRIBUTE_HEADER_BYTES = 4


class _Tuple(NamedTuple):
    """Where the values of a tuple are."""

    source: int
    destination: int
    protocol: int
    source_port: int
    destination_port: int


class _Layout:
    """A form of messages: which attribute headers stand where, and where the values are.

    Args:
        address_bytes: 4 or 16.
        zoned: whether the original, and the reply, have a zone of their own.

    """

    def __init__(self, address_bytes: int, zoned: tuple[bool, ...]) -> None:
        self.family = _FAMILIES[address_bytes]
        self.address_bytes = address_bytes
        self._headers: list[tuple[int, int]] = []
        self._end = _ATTRIBUTES_OFFSET
        self.original, self.reply = (
            self._tuple(kind, zone) for kind, zone in zip((_TUPLE_ORIGINAL, _TUPLE_REPLY), zoned, strict=True)
        )
        self.bytes = self._end
        offsets, values = zip(*self._headers, strict=True)
        self._words = np.array(offsets) // 4
        self._values = np.array(values, np.uint32)

    def fits(self, fronts: np.ndarray, lengths: np.ndarray) -> np.ndarray:
        """Return which of the messages have this form."""
        words = fronts.view("<u4")[:, self._words]
        fits: np.ndarray = (lengths >= self.bytes) & (fronts[:, _FAMILY_OFFSET] == self.family)
        fits &= (words == self._values).all(axis=1)
        fits &= _is_known(fronts[:, self.original.protocol])
        return fits

    def _tuple(self, kind: int, zone: bool) -> _Tuple:  # noqa: FBT001
        source, destination = _ADDRESS_TYPES[self.address_bytes]
        ip_bytes = _ATTRIBUTE_HEADER_BYTES + 2 * (_ATTRIBUTE_HEADER_BYTES + self.address_bytes)
        protocol_bytes = _ATTRIBUTE_HEADER_BYTES + 3 * 8
        zone_bytes = 8 if zone else 0
        self._nest(kind, _ATTRIBUTE_HEADER_BYTES + ip_bytes + protocol_bytes + zone_bytes)
        self._nest(_TUPLE_IP, ip_bytes)
        at_source, at_destination = (self._value(each, self.address_bytes) for each in (source, destination))
        self._nest(_TUPLE_PROTOCOL, protocol_bytes)
        number = self._value(_PROTOCOL_NUMBER, 1)
        source_port, destination_port = (self._value(each, 2) for each in (_SOURCE_PORT, _DESTINATION_PORT))
        if zone:
            self._value(_TUPLE_ZONE, 2)
        return _Tuple(at_source, at_destination, number, source_port, destination_port)

    def _nest(self, kind: int, length: int) -> None:
        self._headers.append((self._end, length | (kind | _NESTED) << 16))
        self._end += _ATTRIBUTE_HEADER_BYTES

    def _value(self, kind: int, length: int) -> int:
        self._headers.append((self._end, _ATTRIBUTE_HEADER_BYTES + length | kind << 16))
        at = self._end + _ATTRIBUTE_HEADER_BYTES
        self._end = at + -(-length // 4) * 4
        return at


_LAYOUTS = [_Layout(size, zoned) for size in (4, 16) for zoned in itertools.product((False, True), repeat=2)]


def decode(
    fronts: np.ndarray, lengths: np.ndarray, namespace_ids: np.ndarray | int = OWN_NAMESPACE
) -> tuple[np.ndarray, int]:
    """Return the connections of TCP and UDP whose ends see different addresses or ports, and how many were not read.

    Args:
        fronts: (messages, FRONT_BYTES) uint8, contiguous: the begin of each; what is beyond its length means nothing.
        lengths: of the messages, in bytes.
        namespace_ids: of the messages, int32.

    Returns:
        An array of `CONNECTION` in the order of the messages; and how many of the others have no form that is known.

    """
    header = fronts[:, : _HEADER.itemsize].copy().view(_HEADER)[:, 0]
    ended = header["type"] == MESSAGE_DELETE
    lengths = np.minimum(np.minimum(lengths, FRONT_BYTES), header["length"])
    lengths *= ended | (header["type"] == MESSAGE_NEW)
    found = np.zeros(len(fronts), CONNECTION)
    left = np.arange(len(fronts))
    for layout in _LAYOUTS:
        if not len(left):
            break
        fits = layout.fits(fronts[left], lengths[left])
        if fits.any():
            opaque(found)[left[fits]] = opaque(_values(fronts[left[fits]], layout))
            left = left[~fits]
    found["ended"], found["namespace_id"] = ended, namespace_ids
    translated = ~same(found["original"], found["translated"])
    unread = len(left) - int(np.count_nonzero(_of_other_protocols(fronts[left], lengths[left])))
    return found.compress(translated), unread


def _of_other_protocols(fronts: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """Return which messages tell of neither TCP nor UDP: their tuples have other forms."""
    other = np.zeros(len(fronts), bool)
    for layout in (_LAYOUTS[0], _LAYOUTS[-1]):
        place = layout.original.protocol
        of_family = (fronts[:, _FAMILY_OFFSET] == layout.family) & (lengths > place)
        other |= of_family & ~_is_known(fronts[:, place])
    return other


def _is_known(protocol: np.ndarray) -> np.ndarray:
    known: np.ndarray = (protocol == socket.IPPROTO_TCP) | (protocol == socket.IPPROTO_UDP)
    return known


def _values(fronts: np.ndarray, layout: _Layout) -> np.ndarray:
    values = np.zeros(len(fronts), CONNECTION)
    original, reply = layout.original, layout.reply
    values["protocol"] = fronts[:, original.protocol]
    # The answer's destination is the first sender as the other end sees it.
    for name, places in {
        "original": (original.source, original.destination, original.source_port, original.destination_port),
        "translated": (reply.destination, reply.source, reply.destination_port, reply.source_port),
    }.items():
        for field, place in zip(("local_address", "remote_address"), places[:2], strict=True):
            values[name][field] = _addresses(fronts[:, place : place + layout.address_bytes])
        for field, place in zip(("local_port", "remote_port"), places[2:], strict=True):
            values[name][field] = np.ascontiguousarray(fronts[:, place : place + 2]).view(">u2")[:, 0]
    return values


def _addresses(columns: np.ndarray) -> np.ndarray:
    """Return (n, 4) or (n, 16) bytes as V16."""
    addresses = np.zeros((len(columns), 16), np.uint8)
    addresses[:, 16 - columns.shape[1] :] = columns
    if columns.shape[1] < addresses.shape[1]:
        addresses[:, 10:12] = 0xFF
    return addresses.view("V16")[:, 0]
