"""Address translation as a concern of the collector: it has no rows, but gives those of others their endpoints."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import select
import time
from typing import TYPE_CHECKING

import numpy as np

from intake.clock import SECOND_NS
from kernel_collector.columns.structured import concatenated
from kernel_collector.concern import Concern
from kernel_collector.machine.network_namespaces import (
    OWN_NETWORK_NAMESPACE,
    NetworkNamespace,
    entered,
    named_network_namespaces,
)
from kernel_collector.nat.conntrack import Conntrack
from kernel_collector.nat.conntrack_messages import OWN_NAMESPACE
from kernel_collector.nat.other_namespaces import OtherNamespaces
from kernel_collector.nat.translations import Translations

if TYPE_CHECKING:
    from pathlib import Path

    from ebpf_net.v1 import intake_pb2

    from intake.columns import Tables
    from kernel_collector.concern import Surroundings

_LOGGER = logging.getLogger(__name__)
# Events are read so soon after the first: a wake-up for each would cost more than to read it.
READ_DELAY_S = 0.2
# So many wait to be entered in the table together: a few at a time each would cost several times as much.
MOST_WAITING = 1 << 15
# A connection from before the start may end without an event (net.netfilter.nf_conntrack_events = 2).
DUMP_INTERVAL_NS = 300 * SECOND_NS


class NatConcern(Concern):
    """The translated connections of all network namespaces, or if some are named, of these and the machine's."""

    def __init__(self, surroundings: Surroundings) -> None:
        self._stack = contextlib.ExitStack()
        self._wakeups = self._stack.enter_context(select.epoll())
        self.wakeup_fd = self._wakeups.fileno()
        self._others: OtherNamespaces | None = None
        self._overruns = self._dumped_ns = self._unplaced = 0
        self._told = False
        try:
            proc, named = surroundings.settings.proc, surroundings.settings.network_namespaces
            with NetworkNamespace(OWN_NETWORK_NAMESPACE) as own:
                common = {own.inode}
            self._conntracks = [self._stack.enter_context(each) for each in _conntracks(proc, named)]
            if not named:
                self._listen_everywhere(proc, *self._conntracks)
            self._translations = Translations(common.union(conntrack.inode for conntrack in self._conntracks))
            for conntrack in self._conntracks:
                self._wakeups.register(conntrack, select.EPOLLIN | select.EPOLLONESHOT)
            self._waiting: list[tuple[np.ndarray, np.ndarray]] = []
            self._dump()
        except BaseException:
            self.close()
            raise

    def drain(self) -> None:
        """Read what has come, and be woken again when there is more, but not at once."""
        self._read_events()
        if sum(len(events) for events, _ in self._waiting) > MOST_WAITING:
            self._enter_events()
        asyncio.get_running_loop().call_later(READ_DELAY_S, self._wake_again)

    def read(self) -> Tables:
        """Return nothing; forget what is over."""
        self._translations.forget(time.monotonic_ns())
        return {}

    def rewrite(self, tables: Tables) -> Tables:
        """Return the tables with the endpoints of translated connections in the form in which both ends have them."""
        self._read_events()
        self._enter_events()
        lost = sum(conntrack.overruns for conntrack in self._conntracks) > self._overruns
        if lost or time.monotonic_ns() > self._dumped_ns + DUMP_INTERVAL_NS:
            try:
                self._dump()
            except OSError as error:
                self._tell(error)
        if self._others:
            seen = [columns["network_namespace"] for columns in tables.values() if "network_namespace" in columns]
            self._others.seek(np.unique(np.concatenate(seen)).tolist() if seen else [])
            for inode, connections in self._others.dumps():
                self._translations.replace(connections, inode, time.monotonic_ns())
        return self._translations.translate(tables)

    def fill(self, statistics: intake_pb2.CollectorStatistics) -> None:
        """Say how many translations there are, and what is not known of them."""
        statistics.translations_tracked = len(self._translations)
        statistics.translations_untracked = self._translations.untracked + self._unplaced
        statistics.translation_overruns = sum(conntrack.overruns for conntrack in self._conntracks)
        statistics.translation_messages_unread = sum(conntrack.unread for conntrack in self._conntracks)
        statistics.translation_messages_unread += self._others.unread if self._others else 0

    def close(self) -> None:
        """Stop listening."""
        self._stack.close()

    def _listen_everywhere(self, proc: Path, conntrack: Conntrack) -> None:
        """Listen to the connection tracking of all namespaces, if that is allowed; the machine's is known without."""
        try:
            with (
                _machines_namespace(proc) as namespace,
                NetworkNamespace(OWN_NETWORK_NAMESPACE) as own,
                _stepped(namespace, own),
            ):
                others = self._stack.enter_context(OtherNamespaces(proc))
        except OSError as error:
            _LOGGER.warning("what containers translate themselves is not known: %s", error)
            return
        try:
            conntrack.listen_everywhere()
        except PermissionError:
            _LOGGER.warning(
                "what containers translate themselves is not known: CAP_NET_BROADCAST is missing; "
                "give it, as docs/kernel-collector.md says"
            )
        else:
            self._others = others

    def _read_events(self) -> None:
        ended = self._others.ended() if self._others else []
        if ended:
            self._enter_events()  # else those of the namespaces that are gone are entered after their end
        for inode in ended:
            self._translations.end(inode, time.monotonic_ns())
        for conntrack in self._conntracks:
            try:
                events = conntrack.drain()
            except OSError as error:
                self._tell(error)
            else:
                self._waiting.append((events, self._namespaces(events["namespace_id"], conntrack.inode)))

    def _namespaces(self, ids: np.ndarray, own: int) -> np.ndarray:
        """Return the inode numbers of the namespaces with these numbers, 0 where one is not known."""
        if not self._others:
            return np.full(len(ids), own, np.uint32)
        distinct, which = np.unique(ids, return_inverse=True)
        numbers = distinct.tolist()
        self._others.seek([number for number in numbers if number != OWN_NAMESPACE])
        inodes = [own if number == OWN_NAMESPACE else self._others.inode(number) or 0 for number in numbers]
        return np.array(inodes, np.uint32)[which]

    def _enter_events(self) -> None:
        if not self._waiting:
            return
        events, namespaces = (concatenated(list(parts)) for parts in zip(*self._waiting, strict=True))
        self._waiting.clear()
        known = namespaces != 0
        self._unplaced += len(known) - int(np.count_nonzero(known))
        self._translations.update(events.compress(known), namespaces.compress(known), time.monotonic_ns())

    def _dump(self) -> None:
        self._dumped_ns = time.monotonic_ns()
        self._overruns = sum(conntrack.overruns for conntrack in self._conntracks)
        for conntrack in self._conntracks:
            self._translations.replace(conntrack.dump(), conntrack.inode, time.monotonic_ns())
        if self._others:
            self._others.read_again()

    def _wake_again(self) -> None:
        if not self._wakeups.closed:
            for conntrack in self._conntracks:
                self._wakeups.modify(conntrack, select.EPOLLIN | select.EPOLLONESHOT)

    def _tell(self, error: OSError) -> None:
        if not self._told:
            self._told = True
            _LOGGER.warning("translated connections may not be told as one flow: %s", error)


def tried(proc: Path, _objects: Path) -> str:
    """Open the connection tracking of the machine's network namespace and close it; return what was found.

    Raises:
        OSError: it is missing, or a capability.

    """
    with contextlib.ExitStack() as stack:
        (conntrack,) = (stack.enter_context(each) for each in _conntracks(proc, ()))
        return f"{len(conntrack.dump())} connections are translated (ctnetlink)"


def _conntracks(proc: Path, named: tuple[Path, ...]) -> list[Conntrack]:
    """Open the connection tracking of the machine's namespace, and of the named ones."""
    opened: dict[int, Conntrack] = {}
    with contextlib.ExitStack() as namespaces, contextlib.ExitStack() as on_failure:
        own = namespaces.enter_context(NetworkNamespace(OWN_NETWORK_NAMESPACE))
        for namespace in map(namespaces.enter_context, [_machines_namespace(proc), *named_network_namespaces(named)]):
            if namespace.inode not in opened:
                within = None if namespace.inode == own.inode else namespace.fd
                opened[namespace.inode] = on_failure.enter_context(Conntrack(within))
        on_failure.pop_all()
    return list(opened.values())


def _stepped(namespace: NetworkNamespace, own: NetworkNamespace) -> contextlib.AbstractContextManager[None]:
    """Run the body in a namespace; to step into one's own a capability is needed as well."""
    return contextlib.nullcontext() if namespace.inode == own.inode else entered(namespace.fd)


def _machines_namespace(proc: Path) -> NetworkNamespace:
    """Return the network namespace of process 1, or where that is not shown, the collector's."""
    try:
        return NetworkNamespace(proc / "1" / "ns" / "net")
    except PermissionError:  # of another user's process: CAP_SYS_PTRACE is missing
        return NetworkNamespace(OWN_NETWORK_NAMESPACE)
