"""All translated connections that the kernel tracks in a network namespace, as it tells them when it is asked."""

from __future__ import annotations

import os
import secrets
import socket
import struct

import numpy as np

from kernel_collector.closing import Closing
from kernel_collector.columns.structured import concatenated
from kernel_collector.nat.conntrack_messages import CONNECTION, FRONT_BYTES, MESSAGE_NEW, decode

NETLINK_NETFILTER = 12  # include/uapi/linux/netlink.h
SOURCE_TRANSLATED, DESTINATION_TRANSLATED = 1 << 4, 1 << 5  # nf_conntrack_common.h
ATTRIBUTE_STATUS, _ATTRIBUTE_STATUS_MASK = 3, 26  # nfnetlink_conntrack.h
MESSAGE_HEADER_BYTES = 20  # with struct nfgenmsg
_READ_BYTES = 1 << 16
_TIMEOUT_S = 10
_REQUEST, _DUMP = 1, 0x300
_ERROR, _DONE = 2, 3
_GET = 0x101
_NETLINK_HEADER = struct.Struct("<IHHII")
_STATUS = struct.Struct(">I")


class ConntrackDumps(Closing):
    """Asks for the connections of the network namespace that the calling thread is in when this is made.

    To answer, the kernel walks the connections of all namespaces: that takes 10 ms and more.

    Attributes:
        unread: messages whose form is not known.

    Raises:
        OSError: connection tracking is missing.

    """

    def __init__(self) -> None:
        self.unread = 0
        self._socket = opened()
        self._socket.settimeout(_TIMEOUT_S)

    def close(self) -> None:
        """Close the socket."""
        self._socket.close()

    def read(self) -> np.ndarray:
        """Return all translated connections that there are, each once or twice, as an array of `CONNECTION`.

        Raises:
            OSError: connection tracking, or CAP_NET_ADMIN, is missing.

        """
        found = [np.empty(0, CONNECTION)]
        # The kernel compares all bits of the mask (since Linux 5.18, else it passes over the filter): two dumps.
        for status in (SOURCE_TRANSLATED, DESTINATION_TRANSLATED):
            found += self._dump(status)
        return concatenated(found)

    def _dump(self, status: int) -> list[np.ndarray]:
        sequence = secrets.randbits(32)
        attributes = b"".join(
            struct.pack("<HH", 4 + _STATUS.size, kind) + _STATUS.pack(status)
            for kind in (ATTRIBUTE_STATUS, _ATTRIBUTE_STATUS_MASK)
        )
        length = MESSAGE_HEADER_BYTES + len(attributes)
        self._socket.send(_NETLINK_HEADER.pack(length, _GET, _REQUEST | _DUMP, sequence, 0) + bytes(4) + attributes)
        port = self._socket.getsockname()[0]
        buffer = np.zeros(_READ_BYTES + FRONT_BYTES, np.uint8)
        found = []
        done = False
        while not done:
            size, _, _, sender = self._socket.recvmsg_into([buffer.data[:_READ_BYTES]])
            if sender[0] == 0:
                fronts, lengths, done = _messages(buffer, size, sequence, port)
                connections, unread = decode(fronts, lengths)
                self.unread += unread
                found.append(connections)
        return found


def _messages(buffer: np.ndarray, size: int, sequence: int, port: int) -> tuple[np.ndarray, np.ndarray, bool]:
    """Return the messages of an answer to a dump: their fronts, their lengths, and whether it was the last answer.

    Sequence and port number of the request, 64 random bits, are found in the head of each message and nowhere else: so
    they tell where the messages begin, without a walk from one to the next.

    Raises:
        OSError: the kernel refused.

    """
    words = buffer[: size // 4 * 4].view("<u4")
    begins = np.flatnonzero((words[2:-2] == sequence) & (words[3:-1] == port))  # the shortest has five words
    kinds = words[begins + 1] & 0xFFFF
    for begin in begins[kinds == _ERROR]:
        number = -int(words[begin + 4].view(np.int32))
        raise OSError(number, f"the kernel tells no translated connections: {os.strerror(number)}")
    these = begins[(kinds == MESSAGE_NEW) & (begins * 4 + words[begins] <= size)]
    windows = np.lib.stride_tricks.sliding_window_view(buffer, FRONT_BYTES)
    return windows[these * 4], words[these], bool((kinds == _DONE).any())


def opened() -> socket.socket:
    """Return a netlink socket of the netfilter family."""
    netlink = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, NETLINK_NETFILTER)
    netlink.bind((0, 0))
    return netlink
