"""What one session told of its host, its processes and its cgroups, and which owners its rows got."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    import numpy as np
    from ebpf_net.v1 import intake_pb2

    from reducer.knowledge.owner_lookup import OwnerLookup

# What a process or a cgroup takes besides its texts.
_EACH_BYTES = 200
# A session that did nothing for this many windows is forgotten when room is made.
IDLE_WINDOWS = 120
NEVER = -1


class ToldProcess(NamedTuple):
    """A process as a session told of it; 0: no cgroup."""

    name: str
    service: str
    cgroup: int

    @property
    def size_bytes(self) -> int:
        """What it takes, about."""
        return _EACH_BYTES + len(self.name) + len(self.service)


@dataclass(slots=True)
class OwnerSession:
    """A session.

    Attributes:
        index: of the session.
        host: as it was told last.
        unnamed: the owner of rows of which no process or cgroup is known.
        processes: by id.
        cgroups: by id.
        owners: by cgroup (0: none), then by name and service of the process, and by its id where it is Docker's proxy.
        owned: elements in `owners`.
        size_bytes: of `processes` and `cgroups`.
        lookup: None when what it was made from changed.
        used: the number of the window in which it last did something.
        most_idle: after how many windows without that it may be forgotten.
        batch_ns: time of the last batch.
        public: see `public_pairs` of realms.py; None when the host changed.
        named: ids of the processes and cgroups in the snapshots so far, while more are to follow.

    """

    index: int
    host: intake_pb2.Host
    unnamed: int
    processes: dict[int, ToldProcess] = field(default_factory=dict)
    cgroups: dict[int, intake_pb2.Cgroup] = field(default_factory=dict)
    owners: dict[int, dict[tuple[str, str, int], int]] = field(default_factory=dict)
    owned: int = 0
    size_bytes: int = 0
    lookup: OwnerLookup | None = None
    used: int = 0
    most_idle: int = IDLE_WINDOWS
    batch_ns: int = NEVER
    public: np.ndarray | None = None
    named: tuple[set[int], set[int]] | None = None

    def numbers(self) -> list[int]:
        """Return the owners that rows to come may have."""
        return [self.unnamed, *(number for within in self.owners.values() for number in within.values())]

    def keep_only(self, used: np.ndarray) -> None:
        """Forget the owners that are not *used*, by owner, bool; rows of their processes get new ones."""
        self.owners = {
            cgroup: {which: number for which, number in within.items() if used[number]}
            for cgroup, within in self.owners.items()
        }
        self.owners = {cgroup: within for cgroup, within in self.owners.items() if within}
        self.owned = sum(map(len, self.owners.values()))
        self.lookup = None


def size_of(cgroup: intake_pb2.Cgroup | None) -> int:
    """Return what a cgroup takes, about."""
    return 0 if cgroup is None else _EACH_BYTES + cgroup.ByteSize()
