"""What the collector says of its machine: name, labels of its operator, kernel, addresses."""

from __future__ import annotations

import contextlib
import ipaddress
import os
import re
import socket
from pathlib import Path
from typing import TYPE_CHECKING

from ebpf_net.v1 import intake_pb2

from kernel_collector.network_namespaces import entered

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

MOST_ADDRESSES = 256

_LOCAL_V4 = re.compile(r"\|-- (\S+)\n\s+/32 host LOCAL")


def describe_host(labels: Mapping[str, str], network_namespaces: Iterable[int]) -> intake_pb2.Host:
    """Return the message about this machine.

    Args:
        labels: as `operator_labels` gives them.
        network_namespaces: file descriptors of those whose addresses are this host's; none: that of the collector.

    """
    found = {address for fd in network_namespaces for address in _addresses_in(fd)} or set(local_addresses())
    return intake_pb2.Host(
        name=labels.get("host") or socket.gethostname(),
        environment=labels.get("environment") or labels.get("cluster", ""),
        namespace=labels.get("namespace", ""),
        zone=labels.get("zone", ""),
        service=labels.get("service", ""),
        kernel_version=os.uname().release,
        addresses=sorted(found)[:MOST_ADDRESSES],
    )


def in_cloud(host: intake_pb2.Host, cloud: intake_pb2.Cloud) -> None:
    """Add what the cloud says to the message about this machine; labels of the operator stay."""
    host.cloud.CopyFrom(cloud)
    host.zone = host.zone or cloud.zone
    host.service = host.service or cloud.role


def local_addresses(net: Path = Path("/proc/thread-self/net")) -> Iterator[bytes]:
    """Yield the addresses of a network namespace's interfaces that others can reach: 16 bytes, IPv4 mapped.

    Args:
        net: the directory with the namespace's `fib_trie` and `if_inet6`; absent is what the kernel was built without.

    """
    with contextlib.suppress(FileNotFoundError):
        for text in _LOCAL_V4.findall((net / "fib_trie").read_text()):
            if not ipaddress.IPv4Address(text).is_loopback:
                yield ipaddress.IPv6Address(f"::ffff:{text}").packed
    with contextlib.suppress(FileNotFoundError):
        for line in (net / "if_inet6").read_text().splitlines():
            address = ipaddress.IPv6Address(bytes.fromhex(line[:32]))
            if not address.is_loopback and not address.is_link_local:
                yield address.packed


def _addresses_in(network_namespace: int) -> list[bytes]:
    with entered(network_namespace):
        return list(local_addresses())
