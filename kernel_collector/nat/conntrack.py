"""The kernel's connection tracking of a network namespace, by netlink: which connections are translated, and to what.

New and ended connections come as events; all that there are come as a dump. A filter in the socket lets only those pass
that are translated. The messages are read many at a time, and decoded in columns. The socket can have the events of
other namespaces as well: of all that have a number (nsid) in its own.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import socket
import struct

import numpy as np

from kernel_collector.closing import Closing
from kernel_collector.columns.structured import concatenated
from kernel_collector.machine.network_namespaces import OWN_NETWORK_NAMESPACE, entered
from kernel_collector.nat.conntrack_dumps import (
    ATTRIBUTE_STATUS,
    DESTINATION_TRANSLATED,
    MESSAGE_HEADER_BYTES,
    SOURCE_TRANSLATED,
    ConntrackDumps,
    opened,
)
from kernel_collector.nat.conntrack_messages import CONNECTION, FRONT_BYTES, OWN_NAMESPACE, decode
from kernel_collector.nat.namespace_ids import widen

RECEIVE_BUFFER_BYTES = 8 << 20
MESSAGES_AT_ONCE = 512
_MOST_READS = 128  # of so many messages, before others have their turn

# include/uapi/linux: netlink.h, netfilter/nfnetlink_compat.h
_SOL_NETLINK, _ADD_MEMBERSHIP, _LISTEN_ALL_NSID = 270, 1, 8
_SO_ATTACH_FILTER = 26
_GROUP_NEW, _GROUP_DESTROY = 1, 3

# Classic BPF (include/uapi/linux/filter.h): jump offsets count from the next instruction.
_FIND_ATTRIBUTE = 0xFFFFF000 + 12  # SKF_AD_OFF + SKF_AD_NLATTR
_FILTER = (
    (0x00, 0, 0, MESSAGE_HEADER_BYTES),  # A = where attributes begin
    (0x01, 0, 0, ATTRIBUTE_STATUS),  # X = the one wanted
    (0x20, 0, 0, _FIND_ATTRIBUTE),  # A = where it is, else 0
    (0x15, 3, 0, 0),  # it is not there: let the message pass
    (0x07, 0, 0, 0),  # X = A
    (0x40, 0, 0, 4),  # A = its value
    (0x45, 0, 1, SOURCE_TRANSLATED | DESTINATION_TRANSLATED),
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
_CONTROL = np.dtype([("length", "u8"), ("level", "i4"), ("type", "i4"), ("namespace_id", "i4"), ("padding", "u4")])
_libc = ctypes.CDLL(None, use_errno=True)
_recvmmsg = _libc.recvmmsg
_recvmmsg.argtypes = (ctypes.c_int, ctypes.c_void_p, ctypes.c_uint, ctypes.c_int, ctypes.c_void_p)


class Conntrack(Closing):
    """Connection tracking of a network namespace, from its opening on.

    Args:
        namespace: a file descriptor of the network namespace; None: that of the calling thread.
        buffer_bytes: of the socket, for events that nobody has read yet.

    Attributes:
        inode: of the network namespace.
        overruns: how often there were more events than the buffer holds: some are lost, a dump tells what there is.

    Raises:
        OSError: CAP_NET_ADMIN is missing, or CAP_SYS_ADMIN for another namespace than the thread's, or the module.

    """

    def __init__(self, namespace: int | None = None, buffer_bytes: int = RECEIVE_BUFFER_BYTES) -> None:
        self.overruns = self._unread = 0
        with entered(namespace) if namespace is not None else contextlib.nullcontext():
            self.inode = OWN_NETWORK_NAMESPACE.stat().st_ino
            self._events, self._dumps = opened(), ConntrackDumps()
        try:
            widen(self._events, buffer_bytes)
            _attach_filter(self._events)
            for group in (_GROUP_NEW, _GROUP_DESTROY):
                self._events.setsockopt(_SOL_NETLINK, _ADD_MEMBERSHIP, group)
        except BaseException:
            self.close()
            raise
        self._fronts = np.zeros((MESSAGES_AT_ONCE, FRONT_BYTES), np.uint8)
        self._senders = np.zeros((MESSAGES_AT_ONCE, _ADDRESS_BYTES // 4), np.uint32)
        self._vectors = np.zeros(MESSAGES_AT_ONCE, _IOVEC)
        self._vectors["base"] = _places(self._fronts)
        self._vectors["length"] = FRONT_BYTES
        self._controls = np.zeros(MESSAGES_AT_ONCE, _CONTROL)
        self._headers = np.zeros(MESSAGES_AT_ONCE, _MMSGHDR)
        header = self._headers["header"]
        header["name"], header["vector"], header["vector_length"] = _places(self._senders), _places(self._vectors), 1
        header["control"] = _places(self._controls)

    def close(self) -> None:
        """Stop listening."""
        self._events.close()
        self._dumps.close()

    @property
    def unread(self) -> int:
        """How many messages had a form that is not known."""
        return self._unread + self._dumps.unread

    def fileno(self) -> int:
        """Return a file descriptor that is readable while there are events."""
        return self._events.fileno()

    def listen_everywhere(self) -> None:
        """Have the events of the other namespaces that have a number in this one told as well.

        Raises:
            PermissionError: CAP_NET_BROADCAST is missing.

        """
        self._events.setsockopt(_SOL_NETLINK, _LISTEN_ALL_NSID, 1)

    def drain(self) -> np.ndarray:
        """Return the events since the call before, in their order, as an array of `CONNECTION`."""
        found = [np.empty(0, CONNECTION)]
        for _ in range(_MOST_READS):
            count = self._receive()
            if not count:
                break
            from_kernel = np.flatnonzero(self._senders[:count, 1] == 0)  # nl_pid
            connections, unread = decode(
                *(column[from_kernel] for column in (self._fronts, self._headers["length"], self._namespace_ids()))
            )
            self._unread += unread
            found.append(connections)
        return concatenated(found)

    def dump(self) -> np.ndarray:
        """Return all translated connections of the namespace: see `ConntrackDumps.read`."""
        return self._dumps.read()

    def _namespace_ids(self) -> np.ndarray:
        """Return which namespaces the messages read last came from."""
        told = self._headers["header"]["control_length"] > 0
        told &= (self._controls["level"] == _SOL_NETLINK) & (self._controls["type"] == _LISTEN_ALL_NSID)
        return np.where(told, self._controls["namespace_id"], OWN_NAMESPACE)

    def _receive(self) -> int:
        """Read messages into `_fronts`; return how many."""
        self._headers["header"]["name_length"] = _ADDRESS_BYTES
        self._headers["header"]["control_length"] = _CONTROL.itemsize
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


def _attach_filter(events: socket.socket) -> None:
    code = b"".join(struct.pack("HBBI", *instruction) for instruction in _FILTER)
    held = ctypes.create_string_buffer(code)
    program = struct.pack("HL", len(_FILTER), ctypes.addressof(held))
    events.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, program)


def _places(rows: np.ndarray) -> np.ndarray:
    """Return the addresses in memory of the rows of an array."""
    return rows.ctypes.data + rows.strides[0] * np.arange(len(rows), dtype=np.uint64)
