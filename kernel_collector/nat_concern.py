"""Address translation as a concern of the collector: it has no rows, but gives those of others their endpoints."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import select
import time
from pathlib import Path
from typing import TYPE_CHECKING

from intake.clock import SECOND_NS
from kernel_collector.concern import Concern
from kernel_collector.conntrack import Conntrack
from kernel_collector.network_namespaces import NetworkNamespace, named_network_namespaces
from kernel_collector.structured import concatenated
from kernel_collector.translations import Translations

if TYPE_CHECKING:
    import numpy as np
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
_OWN = Path("/proc/thread-self/ns/net")


class NatConcern(Concern):
    """The translated connections of the machine's network namespace, and of those that the operator named."""

    def __init__(self, surroundings: Surroundings) -> None:
        self._translations = Translations()
        self._stack = contextlib.ExitStack()
        self._wakeups = self._stack.enter_context(select.epoll())
        self.wakeup_fd = self._wakeups.fileno()
        self._conntracks: list[Conntrack] = []
        self._overruns = self._dumped_ns = 0
        self._told = False
        try:
            self._conntracks = [
                self._stack.enter_context(each)
                for each in _conntracks(surroundings.settings.proc, surroundings.settings.network_namespaces)
            ]
            for conntrack in self._conntracks:
                self._wakeups.register(conntrack, select.EPOLLIN | select.EPOLLONESHOT)
            self._waiting: dict[int, list[np.ndarray]] = {each.inode: [] for each in self._conntracks}
            self._dump()
        except BaseException:
            self.close()
            raise

    def drain(self) -> None:
        """Read what has come, and be woken again when there is more, but not at once."""
        self._read_events()
        if sum(len(part) for events in self._waiting.values() for part in events) > MOST_WAITING:
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
        return self._translations.translate(tables)

    def fill(self, statistics: intake_pb2.CollectorStatistics) -> None:
        """Say how many translations there are, and what is not known of them."""
        statistics.translations_tracked = len(self._translations)
        statistics.translations_untracked = self._translations.untracked
        statistics.translation_overruns = sum(conntrack.overruns for conntrack in self._conntracks)
        statistics.translation_messages_unread = sum(conntrack.unread for conntrack in self._conntracks)

    def close(self) -> None:
        """Stop listening."""
        self._stack.close()

    def _read_events(self) -> None:
        for conntrack in self._conntracks:
            try:
                self._waiting[conntrack.inode].append(conntrack.drain())
            except OSError as error:
                self._tell(error)

    def _enter_events(self) -> None:
        for network_namespace, events in self._waiting.items():
            if any(map(len, events)):
                self._translations.update(concatenated(events), network_namespace, time.monotonic_ns())
            events.clear()

    def _dump(self) -> None:
        self._dumped_ns = time.monotonic_ns()
        self._overruns = sum(conntrack.overruns for conntrack in self._conntracks)
        for conntrack in self._conntracks:
            self._translations.replace(conntrack.dump(), conntrack.inode, time.monotonic_ns())

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
        wanted: list[NetworkNamespace] = []
        with contextlib.suppress(PermissionError):  # of another user's process: CAP_SYS_PTRACE is missing
            wanted.append(namespaces.enter_context(NetworkNamespace(proc / "1" / "ns" / "net")))
        own = namespaces.enter_context(NetworkNamespace(_OWN))
        for namespace in [
            *(wanted or [own]),
            *(namespaces.enter_context(each) for each in named_network_namespaces(named)),
        ]:
            if namespace.inode not in opened:
                within = None if namespace.inode == own.inode else namespace.fd
                opened[namespace.inode] = on_failure.enter_context(Conntrack(within))
        on_failure.pop_all()
    return list(opened.values())
