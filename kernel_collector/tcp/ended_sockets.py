"""Whose the sockets were that ended not long ago: what concerns tell of a socket may come after its close event."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from kernel_collector.columns.structured import concatenated

if TYPE_CHECKING:
    from intake.columns import Columns

_OWNED = np.dtype([("socket", "u8"), ("process", "u4"), ("network_namespace", "u4")])
_PARTS = 8


class EndedSockets:
    """The owners of the last *most* sockets that ended, or more: of the oldest whole parts go.

    They are kept in parts, each sorted by cookie: only the last one, to which more come, is sorted again.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._parts: list[np.ndarray] = []

    def add(self, rows: Columns) -> None:
        """Take the rows of TCP that say that their socket has closed."""
        closed = np.flatnonzero(rows["closed"])[-self._most :]
        if not len(closed):
            return
        ended = np.empty(len(closed), _OWNED)
        for name in _OWNED.fields or ():
            ended[name] = rows[name][closed]
        if self._parts and len(self._parts[-1]) < self._most // _PARTS:
            ended = concatenated([self._parts.pop(), ended])
        self._parts.append(ended.take(np.argsort(ended["socket"], kind="stable")))
        while sum(map(len, self._parts[1:])) >= self._most:
            del self._parts[0]

    def owners(self, cookies: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the process id and the network namespace of each socket, uint32; 0 where it did not end."""
        processes, namespaces = (np.zeros(len(cookies), np.uint32) for _ in range(2))
        sought = np.arange(len(cookies))
        for part in reversed(self._parts):
            if not len(sought):
                break
            at = np.searchsorted(part["socket"], cookies[sought], side="right") - 1
            found = part["socket"][at] == cookies[sought]
            processes[sought[found]] = part["process"][at[found]]
            namespaces[sought[found]] = part["network_namespace"][at[found]]
            sought = sought[~found]
        return processes, namespaces
