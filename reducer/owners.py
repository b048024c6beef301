"""Who owns sockets: hosts and processes as the sessions told them, as small numbers that rows carry from then on.

An owner is a process name on the host of a session. Rows are given their owner when they are taken, so what a process
id meant then stays true when the id is retired, or the session is over.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
from ebpf_net.v1 import intake_pb2

from intake.limits import MOST_PROCESSES

if TYPE_CHECKING:
    from collections.abc import Iterable

UNKNOWN_OWNER = 0
MOST_OWNERS = 1 << 20
# A session that did nothing for this many windows is forgotten when room is made.
_IDLE_WINDOWS = 120
_LEAST_BEFORE_COLLECTION = 4096
_NEVER = -1


@dataclass(frozen=True, slots=True)
class Owner:
    """A process on the host of a session; its name is empty where the process is not known."""

    host: intake_pb2.Host
    process: str


@dataclass(slots=True)
class _Session:
    index: int
    host: intake_pb2.Host
    unnamed: int
    owners: dict[str, int] = field(default_factory=dict)
    processes: dict[int, int] = field(default_factory=dict)
    # `processes` as columns, sorted by id; None when it changed.
    lookup: tuple[np.ndarray, np.ndarray] | None = None
    used: int = 0


@dataclass(frozen=True)
class OwnersView:
    """The owners as they are when a window is sealed; stays as it is while sessions go on.

    Attributes:
        generation: rises when numbers of owners were given again.
        owners: by owner; None at `UNKNOWN_OWNER`.
        session: index of the session by owner, uint32; 0 at `UNKNOWN_OWNER`.
        watermark_ns: by session index, int64: the collector has told all until then.
        scope: by session index, uint64: a number that tells the loopback addresses of a session from others'.

    """

    generation: int
    owners: list[Owner | None]
    session: np.ndarray
    watermark_ns: np.ndarray
    scope: np.ndarray

    def heard(self, until_ns: int) -> np.ndarray:
        """Return by owner whether its collector has told all until *until_ns*."""
        told: np.ndarray = self.watermark_ns[self.session] >= until_ns
        return told

    def gone(self, since_ns: int) -> np.ndarray:
        """Return by owner whether its collector was not heard since *since_ns*."""
        silent: np.ndarray = (self.session != 0) & (self.watermark_ns[self.session] < since_ns)
        return silent


class Owners:
    """The sessions' hosts and processes.

    Attributes:
        processes_refused: processes that were not named since a session, or all together, had too many.

    """

    def __init__(self) -> None:
        self.processes_refused = 0
        self._sessions: dict[bytes, _Session] = {}
        self._owners: list[Owner | None] = [None]
        self._session_of = np.zeros(_LEAST_BEFORE_COLLECTION, np.uint32)
        self._watermark_ns = np.full(64, _NEVER, np.int64)
        self._scope = np.zeros(64, np.uint64)
        self._free_owners: list[int] = []
        self._free_sessions: list[int] = []
        self._session_count = 1  # the first stands for no session
        self._generation = 0
        self._windows = 0
        self._collect_at = _LEAST_BEFORE_COLLECTION

    def __len__(self) -> int:
        return len(self._owners) - 1 - len(self._free_owners)

    @property
    def sessions(self) -> int:
        """How many sessions are known."""
        return len(self._sessions)

    def hello(self, session_id: bytes, host: intake_pb2.Host) -> None:
        """Note the host of a session."""
        session = self._session(session_id, host)
        if session.host != host:
            session.host = host
            session.unnamed = self._new_owner(session, "")
            session.owners, session.processes, session.lookup = {}, {}, None

    def snapshot(self, session_id: bytes, entities: intake_pb2.Entities) -> None:
        """Replace the processes of a session."""
        session = self._session(session_id)
        session.processes = {}
        self._learn(session, entities.processes)

    def learn(self, session_id: bytes, entities: intake_pb2.Entities) -> None:
        """Add the new processes of a batch."""
        if entities.processes:
            self._learn(self._session(session_id), entities.processes)

    def retire(self, session_id: bytes, entities: intake_pb2.Entities) -> None:
        """Forget the processes that no row after this batch refers to."""
        if entities.retired_processes:
            session = self._session(session_id)
            for process in entities.retired_processes:
                session.processes.pop(process, None)
            session.lookup = None

    def heard(self, session_id: bytes, time_ns: int) -> None:
        """Note that a collector has told all until *time_ns*."""
        index = self._session(session_id).index
        self._watermark_ns[index] = max(self._watermark_ns[index], time_ns)

    def of(self, session_id: bytes, process: np.ndarray) -> np.ndarray:
        """Return the owners, uint32, of rows with these process ids."""
        session = self._session(session_id)
        if session.lookup is None:
            known = sorted(session.processes.items())
            session.lookup = (
                np.array([0, *(number for number, _ in known)], np.uint32),
                np.array([session.unnamed, *(owner for _, owner in known)], np.uint32),
            )
        ids, owners = session.lookup
        at = np.searchsorted(ids, process, side="right") - 1
        return np.where(ids[at] == process, owners[at], np.uint32(session.unnamed))

    def view(self) -> OwnersView:
        """Return what a window that is sealed now needs to know."""
        return OwnersView(self._generation, self._owners, self._session_of, self._watermark_ns.copy(), self._scope)

    def collect(self, in_use: Iterable[np.ndarray]) -> None:
        """Forget idle sessions, and the owners that are neither a session's nor *in_use*; called once a window."""
        self._windows += 1
        if len(self) + len(self._sessions) < self._collect_at:
            return
        idle = [key for key, session in self._sessions.items() if self._windows - session.used > _IDLE_WINDOWS]
        for session_id in idle:
            index = self._sessions.pop(session_id).index
            self._session_of[self._session_of == index] = 0
            self._free_sessions.append(index)
        used = np.zeros(len(self._owners), bool)
        used[UNKNOWN_OWNER] = True
        used[self._free_owners] = True
        for owners in in_use:
            used[owners] = True
        for session in self._sessions.values():
            used[[session.unnamed, *session.owners.values()]] = True
        freed = np.flatnonzero(~used)
        self._session_of[freed] = 0
        self._free_owners.extend(freed.tolist())
        self._owners = list(self._owners)  # a view that is out keeps its own
        for owner in freed.tolist():
            self._owners[owner] = None
        self._generation += 1
        self._collect_at = max(_LEAST_BEFORE_COLLECTION, 2 * (len(self) + len(self._sessions)))

    def _session(self, session_id: bytes, host: intake_pb2.Host | None = None) -> _Session:
        session = self._sessions.get(session_id)
        if session is None:
            session = _Session(self._new_session_index(session_id), host or intake_pb2.Host(), UNKNOWN_OWNER)
            session.unnamed = self._new_owner(session, "")
            self._sessions[session_id] = session
        session.used = self._windows
        return session

    def _new_session_index(self, session_id: bytes) -> int:
        if self._free_sessions:
            index = self._free_sessions.pop()
        else:
            index = self._session_count
            self._session_count += 1
            self._watermark_ns = _with_room(self._watermark_ns, index)
            self._scope = _with_room(self._scope, index)
        self._watermark_ns[index] = _NEVER
        # The same after a restart, since loopback flows keep their balances.
        self._scope[index] = int.from_bytes(hashlib.blake2b(session_id, digest_size=8).digest(), "little")
        return index

    def _learn(self, session: _Session, processes: Iterable[intake_pb2.Process]) -> None:
        for process in processes:
            if process.id not in session.processes and len(session.processes) >= MOST_PROCESSES:
                self.processes_refused += 1
            elif process.id:
                session.processes[process.id] = self._named(session, process.name)
        session.lookup = None

    def _named(self, session: _Session, name: str) -> int:
        owner = session.owners.get(name) if name else session.unnamed
        if owner is not None:
            return owner
        if len(self) >= MOST_OWNERS:
            self.processes_refused += 1
            return session.unnamed
        owner = session.owners[name] = self._new_owner(session, name)
        return owner

    def _new_owner(self, session: _Session, name: str) -> int:
        if self._free_owners:
            number = self._free_owners.pop()
            self._owners[number] = Owner(session.host, name)
        else:
            number = len(self._owners)
            self._owners.append(Owner(session.host, name))
            self._session_of = _with_room(self._session_of, number)
        self._session_of[number] = session.index
        return number


def _with_room(array: np.ndarray, index: int) -> np.ndarray:
    """Return *array*, or a longer copy that has *index*."""
    return array if index < len(array) else np.concatenate((array, np.zeros_like(array)))
