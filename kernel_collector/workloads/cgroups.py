"""The cgroups that rows and processes refer to: what their paths say, and what Docker says of the containers in them.

The id of a cgroup is the kernel's own, which each socket's record carries. Its path is known from the event of its
making, or from a walk of the hierarchy. Of cgroup v1 it is read from /proc, once a process, and gets an id of ours.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, TypeVar

import numpy as np
from ebpf_net.v1 import intake_pb2

from intake.clock import SECOND_NS
from kernel_collector.workloads.announced import Announced
from kernel_collector.workloads.cgroup_paths import NOWHERE, Place, place_of
from kernel_collector.workloads.cgroup_tree import MOST_DIRECTORIES, ROOT_ID

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable

    from kernel_collector.workloads.docker import Docker

MOST_CGROUPS = 4_096
# Ids whose path is known, those that no row refers to as well.
MOST_KNOWN = 65_536
FIRST_V1_ID = 1 << 63
WALK_PAUSE_NS = 10 * SECOND_NS
# At most a fiftieth of one core goes into walks.
_WALK_BUDGET = 50

_Key = TypeVar("_Key")
_Value = TypeVar("_Value")


class CgroupTable:
    """The cgroups that are told, at most *most*; one beyond that is left unnamed, and counted.

    Args:
        walk: gives the path of each cgroup by id.
        docker: is asked about containers; none: nobody is.
        every_container: ask Docker about containers of other runtimes too.
        clock: monotonic, nanoseconds.
        most: the bound.

    Attributes:
        untracked: how often a cgroup found no room, or may lie beyond what a walk sees.

    """

    def __init__(
        self,
        walk: Callable[[], dict[int, str]],
        docker: Docker | None,
        clock: Callable[[], int],
        *,
        every_container: bool = False,
        most: int = MOST_CGROUPS,
    ) -> None:
        self.untracked = 0
        self._walk = walk
        self._docker = docker
        self._unasked = 0
        self._clock = clock
        self._every_container = every_container
        self._most = most
        self._walk_after_ns = clock()
        self._places: dict[int, Place] = {}
        self._v1_ids: dict[Place, int] = {}
        self._next_v1_id = FIRST_V1_ID
        self._told: Announced[intake_pb2.Cgroup] = Announced()
        # By container id: those that Docker was asked about, what it said, and the cgroups that are told and in it.
        self._asked: dict[str, None] = {}
        self._described: dict[str, intake_pb2.Cgroup] = {}
        self._in_container: dict[str, set[int]] = {}
        self._learn_by_walk()

    @property
    def undescribed(self) -> int:
        """Containers of which Docker did not say what was asked, and events of it that could not be read or kept."""
        return self._docker.failures + self._unasked if self._docker else 0

    def __len__(self) -> int:
        return len(self._told)

    def created(self, records: np.ndarray) -> None:
        """Take `cgroup_record`s, before the rows of the sockets in them; ask Docker at once about its containers."""
        for number, path in zip(records["id"].tolist(), records["path"].tolist(), strict=True):
            place = place_of(path.decode(errors="replace"))
            self._learn(number, place)
            self._ask(place)

    def refer(self, ids: np.ndarray) -> None:
        """Have those announced of the cgroups of rows that say anything."""
        wanted = [number for number in np.unique(ids).tolist() if number > ROOT_ID and number not in self._told]
        if any(number not in self._places for number in wanted) and self._clock() >= self._walk_after_ns:
            whole = self._learn_by_walk()
            for number in wanted:
                if number not in self._places:  # it is gone, or lies beyond what a walk sees
                    self._places[number] = NOWHERE
                    self.untracked += not whole
        for number in wanted:
            self._announce(number, self._places.get(number, NOWHERE))

    def of_process(self, paths: Iterable[str]) -> int:
        """Return the id of what the paths of a process, in several hierarchies, say; 0 where that is nothing."""
        places = [place_of(path) for path in paths]
        place = max(places, key=_says, default=NOWHERE)
        if place == NOWHERE:
            return 0
        number = self._v1_ids.get(place)
        if number is None:
            number = self._next_v1_id
            self._next_v1_id += 1
            if self._announce(number, place):
                self._v1_ids[place] = number
        return number if number in self._told else 0

    def take_changes(self) -> tuple[list[intake_pb2.Cgroup], list[int]]:
        """Return what is new or known better, and the ids that are retired, since the call before."""
        for container_id, described in self._docker.take() if self._docker else ():
            known = self._described.get(container_id, intake_pb2.Cgroup())
            known.MergeFrom(described)
            _put(self._described, container_id, known, MOST_CGROUPS)
            for number in self._in_container.get(container_id, ()):
                self._told[number].MergeFrom(described)
                self._told.changed(number)
        return self._told.take_changes()

    def submitted(self, ids: Iterable[int], batch: int) -> None:
        """Note that *batch* announced what `take_changes` gave last, and that its rows refer to *ids*."""
        self._told.submitted(ids, batch)

    def retire(self, in_use: Collection[int], acknowledged: int) -> None:
        """Retire what neither sockets and processes *in_use* belong to nor a batch after *acknowledged* refers to."""
        if not self._told.retire(in_use, acknowledged):
            return
        self._v1_ids = {place: number for place, number in self._v1_ids.items() if number in self._told}
        for container_id, numbers in list(self._in_container.items()):
            numbers -= {number for number in numbers if number not in self._told}
            if not numbers:
                del self._in_container[container_id]

    def messages(self) -> list[intake_pb2.Cgroup]:
        """Return all that batches which are not acknowledged, and later rows, may refer to."""
        return self._told.messages()

    def _announce(self, number: int, place: Place) -> bool:
        if place == NOWHERE:
            return False
        if len(self._told) >= self._most:
            self.untracked += 1
            return False
        message = intake_pb2.Cgroup(id=number, **asdict(place))
        if place.container_id:
            self._in_container.setdefault(place.container_id, set()).add(number)
            self._ask(place)
            if described := self._described.get(place.container_id):
                message.MergeFrom(described)
        self._told.add(number, message)
        return True

    def _ask(self, place: Place) -> None:
        wanted = place.runtime == "docker" or (self._every_container and bool(place.container_id))
        if self._docker is None or not wanted or place.container_id in self._asked:
            return
        if self._docker.ask(place.container_id):
            _put(self._asked, place.container_id, None, MOST_CGROUPS)
        else:
            self._unasked += 1

    def _learn_by_walk(self) -> bool:
        """Return whether the walk saw all that there are."""
        started_ns = self._clock()
        paths = self._walk()
        for number, path in paths.items():
            self._learn(number, place_of(path))
        ended_ns = self._clock()
        self._walk_after_ns = ended_ns + max(WALK_PAUSE_NS, _WALK_BUDGET * (ended_ns - started_ns))
        return len(paths) < MOST_DIRECTORIES

    def _learn(self, number: int, place: Place) -> None:
        _put(self._places, number, place, MOST_KNOWN)


def _says(place: Place) -> tuple[bool, bool]:
    return bool(place.container_id or place.pod_uid), place != NOWHERE


def _put(table: dict[_Key, _Value], key: _Key, value: _Value, most: int) -> None:
    """Set an element; the one that was set first goes where there are more than *most*."""
    table[key] = value
    if len(table) > most:
        del table[next(iter(table))]
