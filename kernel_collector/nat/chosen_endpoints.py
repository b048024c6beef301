"""What endpoints the rows of a socket got first, so that they keep them while it lives, whatever the kernel forgets."""

from __future__ import annotations

import numpy as np

from kernel_collector.columns.endpoints import ENDPOINTS, same
from kernel_collector.columns.socket_index import SocketIndex, with_room
from kernel_collector.columns.structured import opaque

MOST_SOCKETS = 1 << 18
_CHOICE = np.dtype([("cookie", "u8"), ("own", ENDPOINTS), ("chosen", ENDPOINTS)])


class ChosenEndpoints:
    """Sockets whose rows have other endpoints than their own, by cookie; at most *most*.

    Attributes:
        untracked: how often one found no room.

    """

    def __init__(self, most: int = MOST_SOCKETS) -> None:
        self.untracked = 0
        self._index = SocketIndex(most)
        self._choices = np.zeros(1024, _CHOICE)  # the last one stays 0: the slot of one that is not there is -1

    def __len__(self) -> int:
        return len(self._index)

    def find(self, cookies: np.ndarray, own: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return which sockets have chosen endpoints, and these.

        Args:
            cookies: uint64.
            own: `ENDPOINTS` of the sockets now: one that has connected again has others, and begins anew.

        """
        slots = self._index.find(cookies)
        choices = self._choices.take(slots)
        return (slots >= 0) & same(choices["own"], own), choices["chosen"]

    def remember(self, cookies: np.ndarray, own: np.ndarray, chosen: np.ndarray) -> None:
        """Keep the choices of sockets; of several of one socket the last one."""
        cookies, last = np.unique(cookies[::-1], return_index=True)
        slots = self._index.find(cookies)
        new = slots < 0
        slots[new] = self._index.insert(cookies[new])
        kept = np.flatnonzero(slots >= 0)
        self.untracked += len(slots) - len(kept)
        choices = np.zeros(len(kept), _CHOICE)
        choices["cookie"] = cookies[kept]
        for name, endpoints in (("own", own), ("chosen", chosen)):
            choices[name] = endpoints[::-1][last[kept]]
        self._choices = with_room(self._choices, slots)
        opaque(self._choices)[slots[kept]] = opaque(choices)

    def forget(self, cookies: np.ndarray) -> None:
        """Forget sockets that have ended; those of others mean nothing."""
        cookies = np.unique(cookies)
        self._index.remove(cookies[self._index.find(cookies) >= 0])
