"""Whose an address is: at any time of one pod, the last that started with it."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable


class _Claim(NamedTuple):
    start_ns: int
    uid: str


class Claims:
    """The pods that had each address, in order of their starts.

    The API may tell of a pod with an address before it tells that the pod which had it is gone.
    """

    def __init__(self) -> None:
        self._claims: dict[bytes, tuple[_Claim, ...]] = {}

    def put(self, uid: str, addresses: Iterable[bytes], start_ns: int) -> set[str]:
        """Note that a pod has *addresses* since a time; return the other pods that had or have one of them."""
        for address in addresses:
            others = [claim for claim in self._claims.get(address, ()) if claim.uid != uid]
            self._claims[address] = tuple(sorted([*others, _Claim(start_ns, uid)]))
        return self._others(uid, addresses)

    def drop(self, uid: str, addresses: Iterable[bytes]) -> set[str]:
        """Note that a pod has these addresses no more; return the other pods that had or have one of them."""
        others = self._others(uid, addresses)
        for address in addresses:
            kept = tuple(claim for claim in self._claims.get(address, ()) if claim.uid != uid)
            if kept:
                self._claims[address] = kept
            else:
                self._claims.pop(address, None)
        return others

    def superseded_ns(self, uid: str, addresses: Collection[bytes]) -> int:
        """Return when another pod took over one of the addresses of a pod; 0: none has."""
        starts = [
            claims[index + 1].start_ns
            for claims in (self._claims.get(address, ()) for address in addresses)
            for index, claim in enumerate(claims[:-1])
            if claim.uid == uid
        ]
        return min(starts, default=0)

    def _others(self, uid: str, addresses: Iterable[bytes]) -> set[str]:
        return {claim.uid for address in addresses for claim in self._claims.get(address, ()) if claim.uid != uid}
