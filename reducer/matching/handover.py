"""Addresses that are given from one pod to another within a window: each gets what was exchanged with it.

This is for ends that no collector tells of. A flow is with who had the address when its last connection was made, or
its last datagrams were sent; what was exchanged with others before is taken out of its values, and becomes flows of its
own.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import polars as pl

from reducer.knowledge.owners import UNKNOWN_OWNER
from reducer.knowledge.realms import environments
from reducer.knowledge.timeline import place_of
from reducer.matching.ports import OwnFlows, sockets_of, take_out
from reducer.windows.rows import IPPROTO_UDP

if TYPE_CHECKING:
    from reducer.knowledge.directory import DirectoryView
    from reducer.knowledge.owners import OwnersView
    from reducer.knowledge.timeline import PlaceFilter, TimelineView
    from reducer.matching.grouping import Grouped
    from reducer.matching.match import Ends

_SOCKET = ("end", "session", "socket")


@dataclass(frozen=True)
class Handover:
    """The addresses of pods in a window.

    Attributes:
        pods: who had them.
        changed: where that changed since.
        scopes: by session index, the environment.
        since_ns: a time shortly before the window.

    """

    pods: TimelineView
    changed: PlaceFilter
    scopes: np.ndarray
    since_ns: int

    def split(
        self,
        grouped: Grouped,
        ends: Ends,
        connector: np.ndarray,
        values: dict[str, np.ndarray],
        owners: OwnersView,
        *,
        began_ns: np.ndarray,
        told_ns: np.ndarray,
    ) -> OwnFlows:
        """Take what was exchanged with others than the last ones out of *values*, in place, and return it.

        Args:
            grouped: the window's rows.
            ends: what they add up to.
            connector: by flow, the side that connected.
            values: by direction.
            owners: what the owners mean.
            began_ns: by flow, when its last connection was made.
            told_ns: by flow, when its last row came.

        """
        place = place_of(grouped.rows["remote_address"].reshape(-1, 2))
        rows = np.flatnonzero(self.changed.may_have(place) & (ends.owner[grouped.end ^ 1] == UNKNOWN_OWNER))
        end, place = grouped.end[rows], place[rows]
        session = owners.session[grouped.rows["process"][rows]]
        datagrams = grouped.rows["protocol"][rows] == IPPROTO_UDP
        flow_ns = np.where(datagrams, told_ns[end >> 1], began_ns[end >> 1])
        moment_ns = np.where(
            datagrams, grouped.rows["time"][rows], self._connected_ns(grouped, rows, session, began_ns[end >> 1])
        )
        pod, last = (
            self.pods.find_around(place, self.scopes[session], time_ns, np.zeros(len(rows), bool))[0]
            for time_ns in (moment_ns, flow_ns)
        )
        moving = np.flatnonzero(pod != last)
        sockets = sockets_of(grouped, rows[moving], owners, {"pod": pod[moving], "moment_ns": moment_ns[moving]})
        everything = np.ones(len(sockets), bool)
        peer = np.full(len(sockets), UNKNOWN_OWNER, np.uint32)
        return take_out(sockets, peer, connector, values, moving=everything, receiving=everything)

    def _connected_ns(
        self, grouped: Grouped, rows: np.ndarray, session: np.ndarray, began_ns: np.ndarray
    ) -> np.ndarray:
        """Return of each of *rows* when its socket connected, as far as that is known."""
        columns = {name: grouped.rows[name][rows] for name in ("socket", "time", "opened")}
        sockets = pl.DataFrame({"end": grouped.end[rows], "session": session, **columns}).select(
            first=pl.col("time").min().over(_SOCKET), opened=(pl.col("opened").sum() > 0).over(_SOCKET)
        )
        new = sockets["opened"].to_numpy() | (began_ns >= self.since_ns)
        return np.where(new, sockets["first"].to_numpy(), began_ns)


def handover_in(directory: DirectoryView, owners: OwnersView, since_ns: int) -> Handover | None:
    """Return the handover of addresses since *since_ns*; None where no pod has come or gone."""
    changed = directory.pods.changed_since(since_ns)
    return None if changed.empty else Handover(directory.pods, changed, environments(owners.hosts), since_ns)
