"""Addresses as text."""

from __future__ import annotations

import socket

V4_PREFIX = bytes(10) + b"\xff\xff"


def address_text(address: bytes) -> str:
    """Return 16 bytes of an address as text, IPv4 dotted."""
    if address.startswith(V4_PREFIX):
        return socket.inet_ntop(socket.AF_INET, address[12:])
    return socket.inet_ntop(socket.AF_INET6, address)
