"""The two endpoints of a socket, connection or packet, as columns, and 64-bit keys of them that nobody can guess."""

from __future__ import annotations

import secrets

import numpy as np

ENDPOINTS = np.dtype(
    [("local_address", "V16"), ("remote_address", "V16"), ("local_port", "<u2"), ("remote_port", "<u2")]
)
"""Addresses in network byte order, IPv4 as ::ffff:a.b.c.d; ports as numbers."""

_WORDS = 6  # of a key: two addresses of two, the ports and the protocol, the scope
_V4_LOOPBACK, _V4_LOOPBACK_BITS = np.uint64(0x7F_FFFF_0000), np.uint64(0xFF_FFFF_FFFF)  # ::ffff:127.0.0.0/104
_V6_LOOPBACK = np.uint64(1 << 56)
_SHIFT = np.uint64(32)


def other_end(endpoints: np.ndarray) -> np.ndarray:
    """Return `ENDPOINTS` as the other end has them."""
    turned = np.empty(len(endpoints), ENDPOINTS)
    for local, remote in (("local_address", "remote_address"), ("local_port", "remote_port")):
        turned[local], turned[remote] = endpoints[remote], endpoints[local]
    return turned


def same(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Return which pairs of two arrays of `ENDPOINTS` are equal."""
    equal: np.ndarray = one["local_address"] == other["local_address"]
    for name in ENDPOINTS.names[1:] if ENDPOINTS.names else ():
        equal &= one[name] == other[name]
    return equal


def in_loopback(endpoints: np.ndarray) -> np.ndarray:
    """Return which `ENDPOINTS` have a loopback address at either end."""
    local, remote = map(_loopback, _addresses(endpoints))
    either: np.ndarray = local | remote
    return either


class EndpointKeys:
    """Gives `ENDPOINTS` keys by which they are told apart; the way is secret, since others choose these."""

    def __init__(self) -> None:
        self._secret = np.frombuffer(secrets.token_bytes(16 * _WORDS), np.uint64).reshape(2, _WORDS) | np.uint64(1)

    def __call__(self, endpoints: np.ndarray, protocol: np.ndarray, scope: np.ndarray) -> np.ndarray:
        """Return a uint64 for each of *endpoints*.

        Args:
            endpoints: `ENDPOINTS`.
            protocol: uint8, IPPROTO_TCP or IPPROTO_UDP.
            scope: uint32, in which they mean something.

        """
        addresses = _addresses(endpoints)
        ports = endpoints["local_port"].astype(np.uint64) << np.uint64(16) | endpoints["remote_port"]
        words = [column for address in addresses for column in address.T]
        words += [ports | protocol.astype(np.uint64) << _SHIFT, scope.astype(np.uint64)]
        key = np.zeros(len(endpoints), np.uint64)
        for word, add, multiply in zip(words, *self._secret, strict=True):
            key = (key ^ word ^ add) * multiply
            key ^= key >> _SHIFT
        return key


def _addresses(endpoints: np.ndarray) -> list[np.ndarray]:
    """Return the local and the remote addresses, each as (n, 2) uint64."""
    return [
        np.ascontiguousarray(endpoints[name]).view(np.uint64).reshape(-1, 2)
        for name in ("local_address", "remote_address")
    ]


def _loopback(address: np.ndarray) -> np.ndarray:
    first, second = address.T
    loopback: np.ndarray = (first == 0) & ((second & _V4_LOOPBACK_BITS == _V4_LOOPBACK) | (second == _V6_LOOPBACK))
    return loopback
