"""Addresses as the wire has them: 16 bytes in network byte order, IPv4 as ::ffff:a.b.c.d (RFC 4291 2.5.5.2)."""

from __future__ import annotations

import socket
from ipaddress import IPv4Address, IPv6Address, ip_address
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

ADDRESS_BYTES = 16
V4_PREFIX = bytes(10) + b"\xff\xff"
"""What an IPv4 address of 4 bytes follows."""


def mapped(address: IPv4Address | IPv6Address) -> bytes:
    """Return the 16 bytes of an address."""
    return V4_PREFIX + address.packed if isinstance(address, IPv4Address) else address.packed


def packed(text: str) -> bytes:
    """Return the 16 bytes of an address that is written as text.

    Raises:
        ValueError: it is none.

    """
    return mapped(ip_address(text))


def packed_all(texts: Iterable[str | None]) -> list[bytes]:
    """Return those of *texts* that are addresses as 16 bytes each, each once, in their order."""
    found: dict[bytes, None] = {}
    for text in texts:
        try:
            found[packed(text or "")] = None
        except ValueError:
            continue
    return list(found)


def address_text(address: bytes) -> str:
    """Return 16 bytes of an address as text, IPv4 dotted."""
    if address.startswith(V4_PREFIX):
        return socket.inet_ntop(socket.AF_INET, address[len(V4_PREFIX) :])
    return socket.inet_ntop(socket.AF_INET6, address)
