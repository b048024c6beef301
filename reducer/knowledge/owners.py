"""Who owns sockets: hosts and processes as the sessions told them, as small numbers that rows carry from then on.

An owner is a process name in a cgroup (container, pod, service) on the host of a session. Rows are given their owner
when they are taken, so what an id meant then stays true when the id is retired, or the session is over. What becomes
known of a cgroup later, such as its container's name, holds for the rows that came before as well.
"""

from __future__ import annotations

import hashlib
import itertools
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from ebpf_net.v1 import intake_pb2

from intake.limits import MOST_CGROUPS, MOST_PROCESSES
from reducer.knowledge.owner_lookup import OwnerLookup
from reducer.knowledge.owner_session import IDLE_WINDOWS, NEVER, OwnerSession, ToldProcess, size_of
from reducer.knowledge.realms import public_pairs

if TYPE_CHECKING:
    from collections.abc import Iterable

    from reducer.knowledge.realms import Realms

UNKNOWN_OWNER = 0
DOCKER_PROXY = "docker-proxy"
MOST_OWNERS = 1 << 20
# Of what all sessions tell of processes and cgroups.
MOST_BYTES = 1 << 30
# Of machines, looked at together; what more of them have is left out.
MOST_ADDRESSES = 1 << 20
# One that will not be known should it come back is forgotten as soon as its rows are in no open window.
_IDLE_WINDOWS_AT_END = 2
_LEAST_BEFORE_COLLECTION = 4096


@dataclass(frozen=True, slots=True)
class Owner:
    """A process on the host of a session.

    Attributes:
        host: of the session.
        process: its name; empty where the process is not known.
        service: of the process, where a supervisor without cgroups runs it.
        cgroup: what the socket is in, else what the process is in; None where nothing is known of it.

    """

    host: intake_pb2.Host
    process: str
    service: str = ""
    cgroup: intake_pb2.Cgroup | None = None


@dataclass(frozen=True)
class OwnersView:
    """The owners as they are when a window is sealed; stays as it is while sessions go on.

    Attributes:
        generation: rises when numbers of owners were given again.
        owners: by owner; None at `UNKNOWN_OWNER`.
        revision: by owner, uint32: rises when more is known of the owner.
        session: index of the session by owner, uint32; 0 at `UNKNOWN_OWNER`.
        named: by owner, bool: more than its host is known.
        proxies: by owner, bool: it is a process of Docker's proxy.
        watermark_ns: by session index, int64: the collector has told all until then.
        scope: by session index, uint64: a number that tells the loopback addresses of a session from others'.
        hosts: by session index; None where there is no session.
        hosts_revision: rises when a host is new or more is known of one.
        realms: tells apart equal addresses of several networks; None where there are none.

    """

    generation: int
    owners: list[Owner | None]
    revision: np.ndarray
    session: np.ndarray
    named: np.ndarray
    proxies: np.ndarray
    watermark_ns: np.ndarray
    scope: np.ndarray
    hosts: list[intake_pb2.Host | None]
    hosts_revision: int
    realms: Realms | None = None

    def heard(self, until_ns: int) -> np.ndarray:
        """Return by owner whether its collector has told all until *until_ns*."""
        told: np.ndarray = self.watermark_ns[self.session] >= until_ns
        return told

    def gone(self, since_ns: int) -> np.ndarray:
        """Return by owner whether its collector was not heard since *since_ns*."""
        silent: np.ndarray = (self.session != 0) & (self.watermark_ns[self.session] < since_ns)
        return silent

    def addresses(self, owners: np.ndarray) -> tuple[np.ndarray, int]:
        """Find the addresses of the machines of *owners*: those that others see them by.

        Returns:
            Addresses, (n, 2) uint64, and how many more were left out.

        """
        hosts = [self.hosts[session] for session in np.unique(self.session[owners]).tolist()]
        told = ((*host.addresses, *(pair.public for pair in host.cloud.addresses)) for host in hosts if host)
        addresses = itertools.chain.from_iterable(told)
        taken = b"".join(itertools.islice(addresses, MOST_ADDRESSES))
        return np.frombuffer(taken, np.uint64).reshape(-1, 2), sum(1 for _ in addresses)


class Owners:
    """The sessions' hosts and processes.

    Attributes:
        processes_refused: processes that were not named since a session, or all together, had too many.
        cgroups_refused: the same of cgroups.

    """

    def __init__(self) -> None:
        self.processes_refused = 0
        self.cgroups_refused = 0
        self._sessions: dict[bytes, OwnerSession] = {}
        self._owners: list[Owner | None] = [None]
        self._session_of = np.zeros(_LEAST_BEFORE_COLLECTION, np.uint32)
        self._revision = np.zeros(_LEAST_BEFORE_COLLECTION, np.uint32)
        self._named = np.zeros(_LEAST_BEFORE_COLLECTION, bool)
        self._proxies = np.zeros(_LEAST_BEFORE_COLLECTION, bool)
        self._watermark_ns = np.full(64, NEVER, np.int64)
        self._scope = np.zeros(64, np.uint64)
        self._hosts: list[intake_pb2.Host | None] = [None]
        self._hosts_revision = 0
        self._free_owners: list[int] = []
        self._free_sessions: list[int] = []
        self._session_count = 1  # the first stands for no session
        self._generation = 0
        self._windows = 0
        self._collect_at = _LEAST_BEFORE_COLLECTION
        self._bytes = 0

    def __len__(self) -> int:
        return len(self._owners) - 1 - len(self._free_owners)

    @property
    def sessions(self) -> int:
        """How many sessions are known."""
        return len(self._sessions)

    def hello(self, session_id: bytes, host: intake_pb2.Host) -> None:
        """Note the host of a session."""
        session = self._session(session_id, host)
        session.named, session.most_idle = None, IDLE_WINDOWS
        if session.host != host:
            session.host, session.public = host, None
            self._note_host(session.index, host)
            session.unnamed = self._new_owner(Owner(host, ""), session.index)
            session.owners, session.owned = {}, 0
            session.processes, session.cgroups, session.lookup = {}, {}, None
            self._hold(session, -session.size_bytes)

    def snapshot(self, session_id: bytes, entities: intake_pb2.Entities, *, partial: bool = False) -> None:
        """Replace the processes and cgroups of a session; those after a *partial* snapshot add to it."""
        session = self._session(session_id)
        processes, cgroups = session.named or (set(), set())
        processes |= {process.id for process in entities.processes}
        cgroups |= {cgroup.id for cgroup in entities.cgroups}
        if partial:
            self._learn(session, entities)
            session.named = processes & session.processes.keys(), cgroups & session.cgroups.keys()
            return
        session.named = None
        self._forget_processes(session, session.processes.keys() - processes)
        self._forget_cgroups(session, session.cgroups.keys() - cgroups)
        self._learn(session, entities)

    def learn(self, session_id: bytes, entities: intake_pb2.Entities) -> None:
        """Add what is new in a batch."""
        if entities.processes or entities.cgroups or entities.HasField("host"):
            self._learn(self._session(session_id), entities)

    def retire(self, session_id: bytes, entities: intake_pb2.Entities) -> None:
        """Forget what no row after this batch refers to."""
        if entities.retired_processes or entities.retired_cgroups:
            session = self._session(session_id)
            self._forget_processes(session, entities.retired_processes)
            self._forget_cgroups(session, entities.retired_cgroups)
            session.lookup = None

    def environment(self, session_id: bytes) -> str:
        """Return the environment (cluster) of a session's host."""
        return self._session(session_id).host.environment

    def heard(self, session_id: bytes, time_ns: int) -> None:
        """Note that a collector has told all until *time_ns*."""
        index = self._session(session_id).index
        self._watermark_ns[index] = max(self._watermark_ns[index], time_ns)

    def forget(self, session_id: bytes) -> None:
        """Keep a session no longer than its rows need it."""
        session = self._sessions.get(session_id)
        if session is not None:
            session.most_idle = _IDLE_WINDOWS_AT_END

    def follow_back(self, now_ns: int) -> None:
        """Let no collector have told more than until now, where the clock was set back."""
        np.minimum(self._watermark_ns, now_ns, out=self._watermark_ns)

    def last_batch(self, session_id: bytes, time_ns: int) -> int:
        """Note the time of a batch; return that of the one before, a moment before this one for the first."""
        session = self._session(session_id)
        before = time_ns - 1 if session.batch_ns == NEVER else min(session.batch_ns, time_ns - 1)
        session.batch_ns = time_ns
        return before

    def of(self, session_id: bytes, process: np.ndarray, cgroup: np.ndarray) -> np.ndarray:
        """Return the owners, uint32, of rows with these process and cgroup ids."""
        session = self._session(session_id)
        if session.lookup is None:
            session.lookup = OwnerLookup(len(session.processes) + len(session.cgroups))
        return session.lookup.find(process, cgroup, lambda *ids: self._resolve(session, *ids))

    def view(self) -> OwnersView:
        """Return what a window that is sealed now needs to know."""
        return OwnersView(
            self._generation,
            self._owners,
            self._revision.copy(),
            self._session_of,
            self._named,
            self._proxies,
            self._watermark_ns.copy(),
            self._scope,
            self._hosts,
            self._hosts_revision,
        )

    def public_pairs(self, session_id: bytes) -> np.ndarray:
        """Return the addresses of a session's machine that others see as others, as `realms.public_pairs` does."""
        session = self._session(session_id)
        if session.public is None:
            session.public = public_pairs(session.host)
        return session.public

    def scope(self, session_id: bytes) -> int:
        """Return the number that `OwnersView.scope` has for a session."""
        return int(self._scope[self._session(session_id).index])

    def collect(self, in_use: Iterable[np.ndarray]) -> None:
        """Forget idle sessions, and the owners that are neither a session's nor *in_use*; called once a window.

        A session that has taken more than half of the owners that it may have, and each one where all have taken more
        than half of theirs, keeps only those in use: names of processes that ended are many in a long life.
        """
        self._windows += 1
        crowded = [session for session in self._sessions.values() if session.owned > MOST_PROCESSES // 2]
        if not crowded and len(self) + len(self._sessions) < self._collect_at:
            return
        idle = [key for key, session in self._sessions.items() if self._windows - session.used > session.most_idle]
        for session_id in idle:
            session = self._sessions.pop(session_id)
            self._hold(session, -session.size_bytes)
            index = session.index
            self._note_host(index, None)
            self._session_of[self._session_of == index] = 0
            self._free_sessions.append(index)
        used = np.zeros(len(self._owners), bool)
        used[UNKNOWN_OWNER] = True
        used[self._free_owners] = True
        for owners in in_use:
            used[owners] = True
        for session in self._sessions.values() if len(self) > MOST_OWNERS // 2 else crowded:
            session.keep_only(used)
        for session in self._sessions.values():
            used[session.numbers()] = True
        freed = np.flatnonzero(~used)
        self._session_of[freed] = 0
        self._proxies[freed] = False
        self._free_owners.extend(freed.tolist())
        self._owners = list(self._owners)  # a view that is out keeps its own
        for owner in freed.tolist():
            self._owners[owner] = None
        self._generation += 1
        self._collect_at = max(_LEAST_BEFORE_COLLECTION, min(2 * (len(self) + len(self._sessions)), MOST_OWNERS))

    def _session(self, session_id: bytes, host: intake_pb2.Host | None = None) -> OwnerSession:
        session = self._sessions.get(session_id)
        if session is None:
            host = host or intake_pb2.Host()
            index = self._new_session_index(session_id)
            self._note_host(index, host)
            session = OwnerSession(index, host, self._new_owner(Owner(host, ""), index))
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
        self._watermark_ns[index] = NEVER
        # The same after a restart, since loopback flows keep their balances.
        self._scope[index] = int.from_bytes(hashlib.blake2b(session_id, digest_size=8).digest(), "little")
        return index

    def _note_host(self, index: int, host: intake_pb2.Host | None) -> None:
        self._hosts += [None] * (index + 1 - len(self._hosts))
        self._hosts[index] = host
        self._hosts_revision += 1

    def _learn(self, session: OwnerSession, entities: intake_pb2.Entities) -> None:
        if entities.HasField("host") and entities.host != session.host:
            self._learn_host(session, entities.host)
        for cgroup in entities.cgroups:
            known = session.cgroups.get(cgroup.id)
            more = size_of(cgroup) - size_of(known)
            if (known is None and len(session.cgroups) >= MOST_CGROUPS) or self._bytes + more > MOST_BYTES:
                self.cgroups_refused += 1
            elif cgroup.id and known != cgroup:
                self._hold(session, more)
                self._learn_cgroup(session, cgroup)
        for told in entities.processes:
            process = ToldProcess(told.name, told.service, told.cgroup)
            before = session.processes.get(told.id)
            more = process.size_bytes - (before.size_bytes if before else 0)
            if (before is None and len(session.processes) >= MOST_PROCESSES) or self._bytes + more > MOST_BYTES:
                self.processes_refused += 1
            elif told.id:
                self._hold(session, more)
                session.processes[told.id] = process
        session.lookup = None

    def _hold(self, session: OwnerSession, more_bytes: int) -> None:
        session.size_bytes += more_bytes
        self._bytes += more_bytes

    def _learn_host(self, session: OwnerSession, told: intake_pb2.Host) -> None:
        session.host, session.public = intake_pb2.Host(), None
        session.host.CopyFrom(told)
        self._note_host(session.index, session.host)
        for number in session.numbers():
            owner = self._owners[number]
            assert owner is not None
            self._owners[number] = replace(owner, host=session.host)
            self._revision[number] += 1

    def _learn_cgroup(self, session: OwnerSession, told: intake_pb2.Cgroup) -> None:
        cgroup = intake_pb2.Cgroup()
        cgroup.CopyFrom(told)  # a message that is a part of another keeps all of that in memory
        session.cgroups[cgroup.id] = cgroup
        for (name, service, _), number in session.owners.get(cgroup.id, {}).items():
            self._owners[number] = Owner(session.host, name, service, cgroup)
            self._revision[number] += 1

    def _forget_processes(self, session: OwnerSession, processes: Iterable[int]) -> None:
        for process in list(processes):
            known = session.processes.pop(process, None)
            self._hold(session, -known.size_bytes if known else 0)

    def _forget_cgroups(self, session: OwnerSession, cgroups: Iterable[int]) -> None:
        for cgroup in list(cgroups):
            self._hold(session, -size_of(session.cgroups.pop(cgroup, None)))
            if cgroup:
                session.owned -= len(session.owners.pop(cgroup, ()))

    def _resolve(self, session: OwnerSession, process_id: int, cgroup_id: int) -> int:
        """Return the owner of the rows with these ids, a new one if there is none."""
        process = session.processes.get(process_id, ToldProcess("", "", 0))
        cgroup_id = next((each for each in (cgroup_id, process.cgroup) if each in session.cgroups), 0)
        within = session.owners.setdefault(cgroup_id, {})
        # Its processes are told apart, since each stands for a container of its own (reducer.docker_proxy).
        which = (process.name, process.service, process_id if process.name == DOCKER_PROXY else 0)
        owner = within.get(which)
        if owner is None and not (process.name or process.service or cgroup_id):
            owner = session.unnamed
        if owner is None:
            if session.owned >= MOST_PROCESSES or len(self) >= MOST_OWNERS:
                self.processes_refused += 1
                return session.unnamed
            cgroup = session.cgroups.get(cgroup_id)
            owner = self._new_owner(Owner(session.host, process.name, process.service, cgroup), session.index)
            within[which] = owner
            session.owned += 1
        return owner

    def _new_owner(self, owner: Owner, session_index: int) -> int:
        if self._free_owners:
            number = self._free_owners.pop()
            self._owners[number] = owner
        else:
            number = len(self._owners)
            self._owners.append(owner)
            self._session_of = _with_room(self._session_of, number)
            self._revision = _with_room(self._revision, number)
            self._named = _with_room(self._named, number)
            self._proxies = _with_room(self._proxies, number)
        self._session_of[number] = session_index
        self._named[number] = bool(owner.process or owner.service or owner.cgroup)
        self._proxies[number] = owner.process == DOCKER_PROXY
        return number


def _with_room(array: np.ndarray, index: int) -> np.ndarray:
    """Return *array*, or a longer copy that has *index*."""
    return array if index < len(array) else np.concatenate((array, np.zeros_like(array)))
