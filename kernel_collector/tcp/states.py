"""TCP's states, with the kernel's numbers (include/net/tcp_states.h)."""

from __future__ import annotations

from enum import IntEnum


class TcpState(IntEnum):
    """The state of a socket."""

    ESTABLISHED = 1
    SYN_SENT = 2
    SYN_RECV = 3
    FIN_WAIT1 = 4
    FIN_WAIT2 = 5
    TIME_WAIT = 6
    CLOSE = 7
    CLOSE_WAIT = 8
    LAST_ACK = 9
    LISTEN = 10
    CLOSING = 11


WAS_ESTABLISHED = frozenset(TcpState) - {TcpState.SYN_SENT, TcpState.SYN_RECV, TcpState.CLOSE, TcpState.LISTEN}
"""ESTABLISHED, and the states that are reached through it alone."""
