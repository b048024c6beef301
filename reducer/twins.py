"""Collectors that watch the same sockets: of what they all tell, what the one says that was connected first counts."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from reducer.session import HEARTBEAT_INTERVAL_NS, MOST_AHEAD_NS

if TYPE_CHECKING:
    from reducer.session import Session

# A collector that says nothing for so long counts no more where another one watches the same.
SILENCE_NS = 6 * HEARTBEAT_INTERVAL_NS


@dataclass(slots=True)
class _Watch:
    """What collectors watch: the connected sessions, the one that counts first, and until when that told all."""

    sessions: dict[bytes, Session] = field(default_factory=dict)
    told_ns: int = 0


@dataclass(slots=True)
class Twins:
    """The connected sessions by what they watch."""

    _watches: dict[str, _Watch] = field(default_factory=dict)

    def connected(self, session: Session, watches: str) -> None:
        """Note what a session watches; empty: it does not tell."""
        if session.watches != watches:
            self.disconnected(session)
            session.watches = watches
        if watches:
            self._watches.setdefault(watches, _Watch()).sessions[session.id] = session

    def disconnected(self, session: Session) -> None:
        """Note that a session watches nothing any more."""
        watch = self._watches.get(session.watches)
        if watch is not None:
            watch.sessions.pop(session.id, None)
            if not watch.sessions:
                del self._watches[session.watches]

    def __contains__(self, session: Session) -> bool:
        """Return whether another collector, which was connected before, tells what this one does."""
        watch = self._watches.get(session.watches)
        return watch is not None and next(iter(watch.sessions)) != session.id

    def is_left_out(self, session: Session, time_ns: int, now_unix_ns: int) -> bool:
        """Return whether the rows of a batch of that time are left out: another collector told them, or some."""
        watch = self._watches.get(session.watches)
        if watch is None:
            return False
        first = next(iter(watch.sessions.values()))
        if now_unix_ns - first.heard_unix_ns > SILENCE_NS:
            watch.sessions[first.id] = watch.sessions.pop(first.id)  # it hangs, and is the last from now on
        watch.told_ns = min(watch.told_ns, now_unix_ns + MOST_AHEAD_NS)  # the clock may have been set back
        # The batches of a poll have one time: they are left out all together.
        if session in self or 0 < session.left_out_ns < watch.told_ns or session.left_out_ns == time_ns:
            session.left_out_ns = time_ns
            return True
        session.left_out_ns, watch.told_ns = 0, max(watch.told_ns, time_ns)
        return False
