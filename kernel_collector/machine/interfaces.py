"""The addresses of network interfaces, by rtnetlink (rtnetlink(7))."""

from __future__ import annotations

import contextlib
import ipaddress
import socket
import struct
from typing import TYPE_CHECKING, NamedTuple

from intake.addresses import mapped
from kernel_collector.text import printable

if TYPE_CHECKING:
    from collections.abc import Iterator

_GET_ADDRESS, _NEW_ADDRESS = 22, 20  # include/uapi/linux/rtnetlink.h
_ERROR, _DONE = 2, 3
_REQUEST, _DUMP = 1, 0x300
_ADDRESS, _LOCAL = 1, 2  # include/uapi/linux/if_addr.h
_MESSAGE_HEADER = struct.Struct("=IHHII")
_ADDRESS_HEADER = struct.Struct("=BBBBI")
_ATTRIBUTE_HEADER = struct.Struct("=HH")
_READ_BYTES = 1 << 16
_TIMEOUT_S = 5.0


class InterfaceAddress(NamedTuple):
    """An address of an interface, 16 bytes, IPv4 mapped."""

    interface: str
    address: bytes


def reachable_addresses() -> Iterator[InterfaceAddress]:
    """Yield the addresses that others can reach, of the interfaces in the network namespace of the calling thread.

    Raises:
        OSError: the kernel does not answer.

    """
    for index, packed in _dump():
        address = ipaddress.ip_address(packed)
        if not address.is_loopback and not address.is_link_local:
            with contextlib.suppress(OSError):  # the interface has gone meanwhile
                yield InterfaceAddress(printable(socket.if_indextoname(index)), mapped(address))


def _dump() -> Iterator[tuple[int, bytes]]:
    """Yield the index of the interface and the address, 4 or 16 bytes, of all that there are."""
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE) as netlink:
        netlink.settimeout(_TIMEOUT_S)
        length = _MESSAGE_HEADER.size + _ADDRESS_HEADER.size
        request = _MESSAGE_HEADER.pack(length, _GET_ADDRESS, _REQUEST | _DUMP, 1, 0)
        netlink.send(request + bytes(_ADDRESS_HEADER.size))
        while True:
            for kind, body in _messages(netlink.recv(_READ_BYTES)):
                if kind == _DONE:
                    return
                if kind == _ERROR:
                    raise OSError(-struct.unpack_from("=i", body)[0], "no addresses of interfaces")
                if kind == _NEW_ADDRESS:
                    *_, index = _ADDRESS_HEADER.unpack_from(body)
                    attributes = dict(_attributes(body[_ADDRESS_HEADER.size :]))
                    # Where a link is point to point, IFA_ADDRESS is the other end's.
                    if packed := attributes.get(_LOCAL) or attributes.get(_ADDRESS):
                        yield index, packed


def _messages(data: bytes) -> Iterator[tuple[int, bytes]]:
    while len(data) >= _MESSAGE_HEADER.size:
        length, kind, *_ = _MESSAGE_HEADER.unpack_from(data)
        yield kind, data[_MESSAGE_HEADER.size : length]
        data = data[_aligned(length) :]


def _attributes(data: bytes) -> Iterator[tuple[int, bytes]]:
    while len(data) >= _ATTRIBUTE_HEADER.size:
        length, kind = _ATTRIBUTE_HEADER.unpack_from(data)
        yield kind, data[_ATTRIBUTE_HEADER.size : length]
        data = data[_aligned(length) :]


def _aligned(length: int) -> int:
    return max(_ATTRIBUTE_HEADER.size, -(-length // 4) * 4)
