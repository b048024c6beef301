"""Objects whose programs pass over the sockets of network namespaces that are not watched (bpf/sockets.h)."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Collection

    from kernel_collector.bpf.bpf_object import BpfObject


def load_watching(opened: BpfObject, network_namespaces: Collection[int]) -> None:
    """Load an object that watches network namespaces by their inode numbers, none: all.

    Raises:
        LibbpfError: the kernel, or the lack of a capability, does not allow it.
        BtfError: the object is of another version than this package.

    """
    opened.set_constant("network_namespaces_named", bytes([bool(network_namespaces)]))
    opened.load()
    for inode in network_namespaces:
        opened.update("network_namespaces", inode.to_bytes(4, "little"), b"\1")
