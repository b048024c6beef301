"""What the collector says of its machine: name, labels of its operator, system, kernel, addresses."""

from __future__ import annotations

import contextlib
import hashlib
import os
import shlex
import socket
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING

from daemon.errors import StartupError
from intake.labels import labelled_host
from kernel_collector.machine.interfaces import InterfaceAddress, reachable_addresses
from kernel_collector.machine.network_namespaces import entered
from kernel_collector.text import printable

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from ebpf_net.v1 import intake_pb2

MOST_ADDRESSES = 256
BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
OS_RELEASE = ("etc/os-release", "usr/lib/os-release")
LONGEST_OS_RELEASE = 1 << 14


def describe_host(
    labels: Mapping[str, str], network_namespaces: Iterable[int], directory: Path = Path("/")
) -> intake_pb2.Host:
    """Return the message about this machine.

    Args:
        labels: as `operator_labels` gives them.
        network_namespaces: file descriptors of those whose addresses are this host's; none: that of the collector.
        directory: where the machine's root directory is.

    Raises:
        StartupError: one of the namespaces cannot be entered, or /proc is not mounted.

    """
    system = os_release(directory)
    namespaces = list(network_namespaces)
    host = labelled_host(labels.get("host") or printable(socket.gethostname()), labels)
    host.kernel_version = os.uname().release
    host.os, host.os_version = system.get("ID", ""), system.get("VERSION_ID", "")
    host.watches = watched(host.name, namespaces)
    found = [each for fd in namespaces for each in _addresses_in(fd)] or list(reachable_addresses())
    host.addresses[:] = sorted({address for _, address in found})[:MOST_ADDRESSES]
    for name, addresses in groupby(found[:MOST_ADDRESSES], lambda each: each.interface):
        host.interfaces.add(name=name, addresses=[address for _, address in addresses])
    return host


def watched(name: str, network_namespaces: Iterable[int]) -> str:
    """Return a digest of what a collector watches: the sockets of a machine since it booted, all or of namespaces.

    The name is in it since machines that go on from one snapshot have one boot id.

    Raises:
        StartupError: /proc is not mounted.

    """
    inodes = sorted(os.fstat(fd).st_ino for fd in network_namespaces)
    try:
        boot_id = BOOT_ID.read_text().strip()
    except OSError as error:
        raise StartupError(f"cannot read {BOOT_ID}: {error.strerror}; mount procfs on /proc") from error
    parts = "\0".join((boot_id, name, *map(str, inodes)))
    return hashlib.blake2b(parts.encode(), digest_size=16).hexdigest()


def os_release(directory: Path) -> dict[str, str]:
    """Return what os-release(5) under *directory* says; nothing where there is none."""
    for path in OS_RELEASE:
        with contextlib.suppress(OSError):
            text = (directory / path).read_text(errors="replace")[:LONGEST_OS_RELEASE]
            return dict(_assignments(text))
    return {}


def _assignments(text: str) -> Iterator[tuple[str, str]]:
    for line in text.splitlines():
        name, assigned, value = line.partition("=")
        with contextlib.suppress(ValueError):  # an open quotation mark
            if assigned and (words := shlex.split(value)):
                yield name.strip(), printable(words[0])


def in_cloud(host: intake_pb2.Host, cloud: intake_pb2.Cloud) -> None:
    """Add what the cloud says to the message about this machine; labels of the operator stay."""
    host.cloud.CopyFrom(cloud)
    host.zone = host.zone or cloud.zone
    host.service = host.service or cloud.role


def _addresses_in(network_namespace: int) -> list[InterfaceAddress]:
    try:
        with entered(network_namespace):
            return list(reachable_addresses())
    except OSError as error:
        raise StartupError(f"{error.strerror}: see to CAP_SYS_ADMIN, or leave out --network-namespace") from error
