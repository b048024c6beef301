"""Messages of connection tracking as the kernel writes them, for tests of what reads them."""

from __future__ import annotations

import ipaddress
import socket
import struct

import numpy as np

from kernel_collector.nat.conntrack_messages import CONNECTION, FRONT_BYTES, MESSAGE_NEW, OWN_NAMESPACE
from tests.rows import packed

TCP, UDP, ICMP = socket.IPPROTO_TCP, socket.IPPROTO_UDP, socket.IPPROTO_ICMP
NESTED = 0x8000
Ends = tuple[str, int, str, int]
"""Source, its port, destination, its port."""


def attribute(kind: int, value: bytes) -> bytes:
    return struct.pack("<HH", 4 + len(value), kind) + value + bytes(-len(value) % 4)


def tuple_attribute(kind: int, ends: Ends, protocol: int, zone: int | None) -> bytes:
    source, source_port, destination, destination_port = ends
    addresses = [ipaddress.ip_address(each).packed for each in (source, destination)]
    first = 1 if len(addresses[0]) == 4 else 3
    ip = b"".join(attribute(first + number, each) for number, each in enumerate(addresses))
    ports = b"".join(
        attribute(number, struct.pack(">H", port)) for number, port in ((2, source_port), (3, destination_port))
    )
    inner = attribute(1 | NESTED, ip) + attribute(2 | NESTED, attribute(1, bytes([protocol])) + ports)
    if zone is not None:
        inner += attribute(3, struct.pack(">H", zone))
    return attribute(kind | NESTED, inner)


def message(
    original: Ends,
    reply: Ends,
    protocol: int = TCP,
    *,
    kind: int = MESSAGE_NEW,
    zones: tuple[int | None, int | None] = (None, None),
    rest: bytes = attribute(12, bytes(4)) + attribute(3, struct.pack(">I", 1 << 5)),
) -> bytes:
    family = socket.AF_INET if ":" not in original[0] else socket.AF_INET6
    body = struct.pack("<BBH", family, 0, 0)
    body += tuple_attribute(1, original, protocol, zones[0]) + tuple_attribute(2, reply, protocol, zones[1]) + rest
    return struct.pack("<IHHII", 16 + len(body), kind, 0, 0, 0) + body


def fronts(*messages: bytes) -> tuple[np.ndarray, np.ndarray]:
    """The arguments of `decode`."""
    rows = b"".join(each[:FRONT_BYTES].ljust(FRONT_BYTES, b"\xee") for each in messages)
    return (
        np.frombuffer(rows, np.uint8).reshape(-1, FRONT_BYTES),
        np.array([len(each) for each in messages], np.uint32),
    )


def connections(*rows: tuple[Ends, Ends] | tuple[Ends, Ends, int] | tuple[Ends, Ends, int, bool]) -> np.ndarray:
    """An array of `CONNECTION`: original and translated, each as the first end sees it; protocol; whether it ended."""
    found = np.zeros(len(rows), CONNECTION)
    found["namespace_id"] = OWN_NAMESPACE
    for entry, (original, translated, *rest) in zip(found, rows, strict=True):
        for name, ends in (("original", original), ("translated", translated)):
            entry[name] = (packed(ends[0]), packed(ends[2]), ends[1], ends[3])
        entry["protocol"], entry["ended"] = (*rest, *(TCP, False)[len(rest) :])
    return found
