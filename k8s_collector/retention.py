"""Deleted objects, kept for a while: flows told late, and pods of a controller that is gone, still refer to them."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator

    from k8s_collector.resources import Resource


class Key(NamedTuple):
    """An object."""

    resource: Resource
    uid: str


class Retention:
    """What was deleted, in this order.

    Attributes:
        dropped: objects that were let go before their time since there were too many.

    """

    def __init__(self, kept_ns: int, capacity: int) -> None:
        self._kept_ns = kept_ns
        self._capacity = capacity
        self._until_ns: dict[Key, int] = {}
        self.dropped = 0

    def __len__(self) -> int:
        return len(self._until_ns)

    def __contains__(self, key: Key) -> bool:
        return key in self._until_ns

    def keep(self, key: Key, now_ns: int) -> None:
        """Keep an object from now on, unless it is kept already."""
        self._until_ns.setdefault(key, now_ns + self._kept_ns)

    def forget(self, key: Key) -> None:
        """Keep it no more: it is there again."""
        self._until_ns.pop(key, None)

    def expired(self, now_ns: int) -> Iterator[Key]:
        """Yield, and forget, the objects whose time is over, or for which there is no room."""
        while self._until_ns:
            key, until_ns = next(iter(self._until_ns.items()))
            if until_ns > now_ns:
                if len(self._until_ns) <= self._capacity:
                    return
                self.dropped += 1
            del self._until_ns[key]
            yield key
