"""The kernel's connection tracking of a network namespace, by netlink: which connections are translated, and to what.

New and ended connections come as events; all that there are come as a dump. A filter in the socket lets only those pass
that are translated. The messages are read many at a time, and decoded in columns.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import secrets
import socket
import struct
from pathlib import Path
from typing import Self

import numpy as np

from kernel_collector.conntrack_messages import CONNECTION, FRONT_BYTES, MESSAGE_NEW, decode
from kernel_collector.network_namespaces import entered
from kernel_collector.structured import concatenated

RECEIVE_BUFFER_BYTES = 8 << 20
MESSAGES_AT_ONCE = 512
_MOST_READS = 128  # of so many messages, before others have their turn
_DUMP_READ_BYTES = 1 << 16
_DUMP_TIMEOUT_S = 10

# include/uapi/linux: netlink.h, netfilter/nfnetlink.h, nfnetlink_conntrack.h, nf_conntrack_common.h
_NETLINK_NETFILTER, _SOL_NETLINK, _ADD_MEMBERSHIP = 12, 270, 1
_SO_RCVBUFFORCE, _SO_ATTACH_FILTER = 33, 26
_GROUP_NEW, _GROUP_DESTROY = 1, 3
_REQUEST, _DUMP, _MULTI = 1, 0x300, 2
_ERROR, _DONE = 2, 3
_GET = 0x101
_ATTRIBUTE_STATUS, _ATTRIBUTE_STATUS_MASK = 3, 26
_SOURCE_TRANSLATED, _DESTINATION_TRANSLATED = 1 << 4, 1 << 5
_NETLINK_HEADER = struct.Struct("<IHHII")
_MESSAGE_HEADER_BYTES = 20  # with struct nfgenmsg
_STATUS = struct.Struct(">I")

# Classic BPF (include/uapi/linux/filter.h): jump offsets count from the next instruction.
_FIND_ATTRIBUTE = 0xFFFFF000 + 12  # SKF_AD_OFF + SKF_AD_NLATTR
_FILTER = (
    (0x00, 0, 0, _MESSAGE_HEADER_BYTES),  # A = where attributes begin
    (0x01, 0, 0, _ATTRIBUTE_STATUS),  # X = the one wanted
    (0x20, 0, 0, _FIND_ATTRIBUTE),  # A = where it is, else 0
    (0x15, 3, 0, 0),  # it is not there: let the message pass
    (0x07, 0, 0, 0),  # X = A
    (0x40, 0, 0, 4),  # A = its value
    (0x45, 0, 1, _SOURCE_TRANSLATED | _DESTINATION_TRANSLATED),
    (0x06, 0, 0, 0xFFFFFFFF),
    (0x06, 0, 0, 0),
)

_ADDRESS_BYTES = 12  # struct sockaddr_nl
_MSGHDR = np.dtype(
    [
        ("name", "u8"),
        ("name_length", "u4"),
        ("vector", "u8"),
        ("vector_length", "u8"),
        ("control", "u8"),
        ("control_length", "u8"),
        ("flags", "i4"),
    ],
    align=True,
)
_MMSGHDR = np.dtype([("header", _MSGHDR), ("length", "u4")], align=True)
_IOVEC = np.dtype([("base", "u8"), ("length", "u8")])
_libc = ctypes.CDLL(None, use_errno=True)
_recvmmsg = _libc.recvmmsg
_recvmmsg.argtypes = (ctypes.c_int, ctypes.c_void_p, ctypes.c_uint, ctypes.c_int, ctypes.c_void_p)


class Conntrack:
    """Connection tracking of a network namespace, from its opening on.

    Args:
        namespace: a file descriptor of the network namespace; None: that of the calling thread.
        buffer_bytes: of the socket, for events that nobody has read yet.

    Attributes:
        inode: of the network namespace.
        overruns: how often there were more events than the buffer holds: some are lost, a dump tells what there is.
        unread: messages whose form is not known.

    Raises:
        OSError: CAP_NET_ADMIN is missing, or CAP_SYS_ADMIN for another namespace than the thread's, or the module.

    """

    def __init__(self, namespace: int | None = None, buffer_bytes: int = RECEIVE_BUFFER_BYTES) -> None:
        self.overruns = self.unread = 0
        with entered(namespace) if namespace is not None else contextlib.nullcontext():
            self.inode = Path("/proc/thread-self/ns/net").stat().st_ino
            self._events, self._dumps = _open(), _open()
        try:
            _widen(self._events, buffer_bytes)
            _attach_filter(self._events)
            for group in (_GROUP_NEW, _GROUP_DESTROY):
                self._events.setsockopt(_SOL_NETLINK, _ADD_MEMBERSHIP, group)
            self._dumps.settimeout(_DUMP_TIMEOUT_S)
        except BaseException:
            self.close()
            raise
        self._fronts = np.zeros((MESSAGES_AT_ONCE, FRONT_BYTES), np.uint8)
        self._senders = np.zeros((MESSAGES_AT_ONCE, _ADDRESS_BYTES // 4), np.uint32)
        self._vectors = np.zeros(MESSAGES_AT_ONCE, _IOVEC)
        self._vectors["base"] = _places(self._fronts)
        self._vectors["length"] = FRONT_BYTES
        self._headers = np.zeros(MESSAGES_AT_ONCE, _MMSGHDR)
        header = self._headers["header"]
        header["name"], header["vector"], header["vector_length"] = _places(self._senders), _places(self._vectors), 1

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Stop listening."""
        self._events.close()
        self._dumps.close()

    def fileno(self) -> int:
        """Return a file descriptor that is readable while there are events."""
        return self._events.fileno()

    def drain(self) -> np.ndarray:
        """Return the events since the call before, in their order, as an array of `CONNECTION`."""
        found = [np.empty(0, CONNECTION)]
        for _ in range(_MOST_READS):
            count = self._receive()
            if not count:
                break
            from_kernel = np.flatnonzero(self._senders[:count, 1] == 0)  # nl_pid
            connections, unread = decode(self._fronts[from_kernel], self._headers["length"][from_kernel])
            self.unread += unread
            found.append(connections)
        return concatenated(found)

    def dump(self) -> np.ndarray:
        """Return all translated connections that there are, each once or twice, as an array of `CONNECTION`.

        Raises:
            OSError: connection tracking, or CAP_NET_ADMIN, is missing.

        """
        found = [np.empty(0, CONNECTION)]
        # The kernel compares all bits of the mask (since Linux 5.18, else it passes over the filter): two dumps.
        for status in (_SOURCE_TRANSLATED, _DESTINATION_TRANSLATED):
            found += self._dump(status)
        return concatenated(found)

    def _receive(self) -> int:
        """Read messages into `_fronts`; return how many."""
        self._headers["header"]["name_length"] = _ADDRESS_BYTES
        count: int = _recvmmsg(
            self._events.fileno(), self._headers.ctypes.data, MESSAGES_AT_ONCE, socket.MSG_DONTWAIT, None
        )
        if count >= 0:
            return count
        number = ctypes.get_errno()
        if number == errno.ENOBUFS:
            self.overruns += 1
            return self._receive()
        if number in (errno.EAGAIN, errno.EINTR):
            return 0
        raise OSError(number, os.strerror(number))

    def _dump(self, status: int) -> list[np.ndarray]:
        sequence = secrets.randbits(32)
        attributes = b"".join(
            struct.pack("<HH", 4 + _STATUS.size, kind) + _STATUS.pack(status)
            for kind in (_ATTRIBUTE_STATUS, _ATTRIBUTE_STATUS_MASK)
        )
        length = _MESSAGE_HEADER_BYTES + len(attributes)
        self._dumps.send(_NETLINK_HEADER.pack(length, _GET, _REQUEST | _DUMP, sequence, 0) + bytes(4) + attributes)
        port = self._dumps.getsockname()[0]
        buffer = np.zeros(_DUMP_READ_BYTES + FRONT_BYTES, np.uint8)
        found = []
        done = False
        while not done:
            size, _, _, sender = self._dumps.recvmsg_into([buffer.data[:_DUMP_READ_BYTES]])
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


def _open() -> socket.socket:
    opened = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, _NETLINK_NETFILTER)
    opened.bind((0, 0))
    return opened


def _widen(events: socket.socket, buffer_bytes: int) -> None:
    """Set the receive buffer, beyond net.core.rmem_max where that is allowed."""
    try:
        events.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, buffer_bytes)
    except PermissionError:
        events.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer_bytes)


def _attach_filter(events: socket.socket) -> None:
    code = b"".join(struct.pack("HBBI", *instruction) for instruction in _FILTER)
    held = ctypes.create_string_buffer(code)
    program = struct.pack("HL", len(_FILTER), ctypes.addressof(held))
    events.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, program)


def _places(rows: np.ndarray) -> np.ndarray:
    """Return the addresses in memory of the rows of an array."""
    return rows.ctypes.data + rows.strides[0] * np.arange(len(rows), dtype=np.uint64)
