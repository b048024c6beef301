"""The programs on packets, which several concerns share: one a direction, at the root of cgroup v2.

UDP is counted in the kernel's own functions for it instead where the kernel allows that (fentry): then the other
protocols' packets cost nothing, and where nothing else is watched no program is on packets at all.
"""

from __future__ import annotations

import logging
import os
from typing import TYPE_CHECKING

from kernel_collector.bpf.bpf_object import BpfObject
from kernel_collector.bpf.btf import BtfError
from kernel_collector.bpf.libbpf import open_iterator, read_iterator
from kernel_collector.bpf.watched_namespaces import load_watching
from kernel_collector.closing import Closing
from kernel_collector.objects import OBJECTS
from kernel_collector.workloads.cgroup_tree import v2_hierarchy

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping
    from pathlib import Path

_LOGGER = logging.getLogger(__name__)
OBJECT = "packets.bpf.o"
PACKETS = ("packet_sent", "packet_received")
UDP_OBJECT = "udp_functions.bpf.o"
UDP_FUNCTIONS = ("udp_sent_ipv4", "udp_sent_ipv6", "udp_received")
# What tells whose a UDP socket is.
UDP_SOCKETS = "udp_sockets"
UDP_CREATED = "udp_created"
UDP_PROCESSES = "udp_of_processes"
UDP_NO_ROOM = "udp_no_room"
HTTP_CLOSED = "http_socket_closed"
# How the names of each concern's maps and programs begin; all others are always made and loaded.
PREFIXES = {"udp": ("udp_",), "dns": ("dns_", UDP_SOCKETS, UDP_CREATED, UDP_PROCESSES), "http": ("http_",)}


class Packets(Closing):
    """The programs on packets, and on UDP's functions, attached while it is open; concerns read their maps.

    Where the kernel does not take them with all that is asked for, they are loaded with those concerns that it takes.

    Args:
        proc: the machine's /proc, which tells where cgroup v2 is.
        watched: the concerns, keys of `PREFIXES`; without any, nothing is loaded.
        network_namespaces: inode numbers; sockets of others are passed over in the kernel. Empty: all are seen.
        constants: of the programs, besides those that are set here.
        objects: the directory of the compiled programs.

    """

    def __init__(
        self,
        proc: Path,
        watched: Collection[str],
        network_namespaces: frozenset[int] = frozenset(),
        constants: Mapping[str, bytes] = {},
        objects: Path = OBJECTS,
    ) -> None:
        self._udp: BpfObject | None = None
        if "udp" in watched:
            self._udp = _udp_functions(proc, network_namespaces, constants, objects)
        on_packets = [concern for concern in watched if concern != "udp" or self._udp is None]
        try:
            self._object, self._refused = _open_most(
                on_packets,
                lambda taken: _opened(objects / OBJECT, v2_hierarchy(proc), taken, network_namespaces, constants),
            )
        except BaseException:
            self._close_udp()
            raise

    def close(self) -> None:
        """Detach and unload."""
        if self._object:
            self._object.close()
        self._close_udp()

    def _close_udp(self) -> None:
        if self._udp:
            self._udp.close()

    @property
    def in_udp_functions(self) -> bool:
        """Whether UDP is counted in the kernel's functions for it, not on packets."""
        return self._udp is not None

    def require(self, concern: str) -> BpfObject:
        """Return the object in which *concern* is watched, which this one owns.

        Raises:
            OSError: there is no cgroup v2, or the kernel, or the lack of a capability or of libbpf, does not allow it.
            BtfError: the object is of another version than this package.

        """
        if concern == "udp" and self._udp:
            return self._udp
        if self._object is None or concern in self._refused:
            raise self._refused[concern]
        return self._object


def _open_most(
    watched: Collection[str], opened: Callable[[Collection[str]], BpfObject]
) -> tuple[BpfObject | None, dict[str, OSError | BtfError]]:
    """Open with all that is *watched*, or else with each in turn that is taken; return why the others are not."""
    refused: dict[str, OSError | BtfError] = {}
    if watched:
        try:
            return opened(watched), refused
        except (OSError, BtfError) as error:
            refused = dict.fromkeys(watched, error)
    best: BpfObject | None = None
    taken: list[str] = []
    for concern in watched if len(watched) > 1 else ():
        try:
            better = opened([*taken, concern])
        except (OSError, BtfError) as error:
            refused[concern] = error
            continue
        if best:
            best.close()
        best = better
        taken.append(concern)
        del refused[concern]
    return best, refused


def _opened(
    path: Path,
    cgroup: Path,
    watched: Collection[str],
    network_namespaces: frozenset[int],
    constants: Mapping[str, bytes],
) -> BpfObject:
    """Load the object and attach its programs."""
    opened = BpfObject(path)
    try:
        for concern in PREFIXES:
            opened.set_constant(f"{concern}_watched", bytes([concern in watched]))
        every, wanted = _prefixes(PREFIXES), _prefixes(watched)
        opened.leave_out(lambda name: name.startswith(every) and not name.startswith(wanted))
        _load(opened, network_namespaces, constants)
        _attach(opened, cgroup, watched)
    except BaseException:
        opened.close()
        raise
    return opened


def _attach(opened: BpfObject, cgroup: Path, watched: Collection[str]) -> None:
    directory = os.open(cgroup, os.O_RDONLY | os.O_DIRECTORY)
    try:
        if {"udp", "dns"} & set(watched):
            _attach_udp(opened, directory)
        if "udp" in watched:
            opened.attach(UDP_NO_ROOM)
        if "http" in watched:
            opened.attach(HTTP_CLOSED)
        for program in PACKETS:
            opened.attach(program, directory)
    finally:
        os.close(directory)


def _attach_udp(opened: BpfObject, directory: int) -> None:
    """Attach what learns the sockets: all are known before the first packet asks."""
    opened.attach(UDP_CREATED, directory)
    read_iterator(open_iterator(opened.attach(UDP_PROCESSES)))


def _udp_functions(
    proc: Path, network_namespaces: frozenset[int], constants: Mapping[str, bytes], objects: Path
) -> BpfObject | None:
    """Return the object that counts UDP in the kernel's functions; None where the kernel does not allow it."""
    opened: BpfObject | None = None
    others = _prefixes(PREFIXES.keys() - {"udp"})
    constants = {name: value for name, value in constants.items() if not name.startswith(others)}
    try:
        opened = BpfObject(objects / UDP_OBJECT)
        _load(opened, network_namespaces, constants)
        directory = os.open(v2_hierarchy(proc), os.O_RDONLY | os.O_DIRECTORY)
        try:
            _attach_udp(opened, directory)
        finally:
            os.close(directory)
        for program in (*UDP_FUNCTIONS, UDP_NO_ROOM):
            opened.attach(program)
    except (OSError, BtfError) as error:
        _LOGGER.debug("UDP is not counted in the kernel's functions for it: %s", error)
        if opened:
            opened.close()
        return None
    return opened


def _load(opened: BpfObject, network_namespaces: frozenset[int], constants: Mapping[str, bytes]) -> None:
    for name, value in constants.items():
        opened.set_constant(name, value)
    load_watching(opened, network_namespaces)


def _prefixes(concerns: Collection[str]) -> tuple[str, ...]:
    return tuple(prefix for concern in concerns for prefix in PREFIXES[concern])
