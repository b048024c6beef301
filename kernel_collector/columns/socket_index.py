"""Where a socket stands in a table: its cookie, sorted, to its slot."""

from __future__ import annotations

import numpy as np


class SocketIndex:
    """At most *most* cookies; slots are small numbers, used again."""

    def __init__(self, most: int) -> None:
        self.slots = np.empty(0, np.intp)
        """The slots in use, in the order of their cookies."""
        self._cookies = np.empty(0, np.uint64)  # sorted
        self._most = most
        self._free = np.empty(0, np.intp)
        self._slots_made = 0

    def __len__(self) -> int:
        return len(self.slots)

    def find(self, cookies: np.ndarray) -> np.ndarray:
        """Return the slot of each cookie, -1 where it has none."""
        if not len(self._cookies):
            return np.full(len(cookies), -1, np.intp)
        at = self._positions(cookies)
        return np.where(self._cookies[at] == cookies, self.slots[at], -1)

    def insert(self, cookies: np.ndarray) -> np.ndarray:
        """Give slots to cookies that have none, sorted, each once; -1 to the last ones where there is no room."""
        count = min(len(cookies), self._most - len(self))
        grown = max(0, count - len(self._free))
        self._free = np.append(self._free, np.arange(self._slots_made, self._slots_made + grown, dtype=np.intp))
        self._slots_made += grown
        slots = np.full(len(cookies), -1, np.intp)
        slots[:count], self._free = self._free[:count], self._free[count:]
        at = np.searchsorted(self._cookies, cookies[:count])
        self._cookies = np.insert(self._cookies, at, cookies[:count])
        self.slots = np.insert(self.slots, at, slots[:count])
        return slots

    def remove(self, cookies: np.ndarray) -> None:
        """Take the slots of cookies back, each of which has one."""
        if not len(cookies):
            return
        at = self._positions(cookies)
        self._free = np.append(self._free, self.slots[at])
        self._cookies, self.slots = np.delete(self._cookies, at), np.delete(self.slots, at)

    def _positions(self, cookies: np.ndarray) -> np.ndarray:
        """Return where each cookie is, if it is anywhere."""
        return np.minimum(np.searchsorted(self._cookies, cookies), len(self._cookies) - 1)


def with_room(table: np.ndarray, slots: np.ndarray) -> np.ndarray:
    """Return a table by slot with room for *slots*, and one more, which stays 0: that of what is not there, -1."""
    room = int(slots.max(initial=-1)) + 2
    return table if room <= len(table) else np.append(table, np.zeros(max(room, len(table)), table.dtype))
