"""The numbers (nsid) that a network namespace has for the others of which the kernel tells it, by rtnetlink.

The kernel gives such a number by itself where a pair of interfaces (veth) joins the two; any other namespace is given
one here. It holds nothing: a namespace goes when its last program does, and its number with it.
"""

from __future__ import annotations

import contextlib
import os
import socket
import struct
from typing import TYPE_CHECKING

from kernel_collector.closing import Closing

if TYPE_CHECKING:
    from collections.abc import Iterator

_TIMEOUT_S = 10
_READ_BYTES = 1 << 15
NOTICES_BYTES = 4 << 20  # of the socket; a notice takes 832, and there is one for each number that is given as well
_SO_RCVBUFFORCE = 33
# include/uapi/linux: netlink.h, rtnetlink.h, net_namespace.h
_SOL_NETLINK, _ADD_MEMBERSHIP = 270, 1
_GROUP_NSID = 28
_REQUEST, _ACK = 1, 4
_ERROR, _NEW_ID, _END_OF_ID, _GET_ID = 2, 88, 89, 90
_ATTRIBUTE_ID, _ATTRIBUTE_FD = 1, 3
_ANY = _NONE = -1
_HEADER = struct.Struct("<IHHII")
_FAMILY = bytes(4)  # struct rtgenmsg, padded
_ATTRIBUTE = struct.Struct("<HHi")


class NamespaceIds(Closing):
    """The numbers in the network namespace that the calling thread is in when this is made.

    Raises:
        OSError: the kernel refuses the sockets.

    """

    def __init__(self) -> None:
        self._requests, self._notices = (
            socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE)
            for _ in range(2)
        )
        self._requests.settimeout(_TIMEOUT_S)
        self._notices.settimeout(0)
        widen(self._notices, NOTICES_BYTES)
        self._notices.bind((0, 0))  # else the kernel takes it for the sender of its notices
        self._notices.setsockopt(_SOL_NETLINK, _ADD_MEMBERSHIP, _GROUP_NSID)
        self._sequence = 0

    def close(self) -> None:
        """Close the sockets."""
        self._requests.close()
        self._notices.close()

    def of(self, network_namespace: int) -> int:
        """Return the number of the namespace of a file descriptor, a new one where it has none yet.

        Raises:
            OSError: the kernel gives none: CAP_NET_ADMIN is missing.

        """
        found = self.known(network_namespace)
        if found is None:
            with contextlib.suppress(FileExistsError):  # the kernel has given it one meanwhile
                self._ask(_NEW_ID, network_namespace)
            found = self._ask(_GET_ID, network_namespace)
        return found

    def known(self, network_namespace: int) -> int | None:
        """Return the number of the namespace of a file descriptor, None where it has none."""
        found = self._ask(_GET_ID, network_namespace)
        return None if found == _NONE else found

    def ended(self) -> set[int] | None:
        """Return the numbers that mean nothing any more, or another namespace, since the call before; None: all may."""
        found: set[int] = set()
        while True:
            try:
                messages = self._notices.recv(_READ_BYTES)
            except BlockingIOError:
                return found
            except OSError:  # ENOBUFS: some are lost
                return None
            found |= {_id(body) for kind, _, body in _messages(messages) if kind == _END_OF_ID}

    def _ask(self, kind: int, network_namespace: int) -> int:
        self._sequence += 1
        attributes = _ATTRIBUTE.pack(_ATTRIBUTE.size, _ATTRIBUTE_FD, network_namespace)
        flags = _REQUEST
        if kind == _NEW_ID:
            attributes += _ATTRIBUTE.pack(_ATTRIBUTE.size, _ATTRIBUTE_ID, _ANY)
            flags |= _ACK
        length = _HEADER.size + len(_FAMILY) + len(attributes)
        self._requests.send(_HEADER.pack(length, kind, flags, self._sequence, 0) + _FAMILY + attributes)
        while True:
            for answer, sequence, body in _messages(self._requests.recv(_READ_BYTES)):
                if sequence == self._sequence:
                    number = -int.from_bytes(body[:4], "little", signed=True) if answer == _ERROR else 0
                    if number:
                        raise OSError(number, f"a network namespace has no number: {os.strerror(number)}")
                    return _id(body) if answer == _NEW_ID else _NONE


def widen(netlink: socket.socket, buffer_bytes: int) -> None:
    """Set the receive buffer of a socket, beyond net.core.rmem_max where that is allowed."""
    try:
        netlink.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, buffer_bytes)
    except PermissionError:
        netlink.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer_bytes)


def _messages(data: bytes) -> Iterator[tuple[int, int, bytes]]:
    """Yield the kind, sequence number and body of each message."""
    while len(data) >= _HEADER.size:
        length, kind, _, sequence, _ = _HEADER.unpack_from(data)
        if not _HEADER.size <= length <= len(data):
            return
        yield kind, sequence, data[_HEADER.size : length]
        data = data[(length + 3) & ~3 :]


def _id(body: bytes) -> int:
    """Return the number that a message is about."""
    at = len(_FAMILY)
    while at + _ATTRIBUTE.size <= len(body):
        length, kind, value = _ATTRIBUTE.unpack_from(body, at)
        if kind == _ATTRIBUTE_ID:
            return int(value)
        at += max((length + 3) & ~3, 4)
    return _NONE
