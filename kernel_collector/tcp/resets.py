"""Which connections an end of this machine reset: events of resets (RST) that were sent, and the lives they end.

The kernel sends a reset a moment before or after it closes the socket, so its event comes before or after the close
event. Nothing else tells it: an abort from FIN_WAIT2 closes as an orderly end does, and a socket that resets because
of data after its own close (RFC 1122 4.2.2.13) gets the error of one that was reset (tcp_rcv_state_process).
"""

from __future__ import annotations

import numpy as np


def reset_lives(resets: np.ndarray, cookies: np.ndarray, begins_ns: np.ndarray) -> np.ndarray:
    """Return the indexes of the lives in which a reset was sent: of several of a socket, the last begun by then.

    Args:
        resets: `tcp_record`s of the kind RESET_SENT, of any sockets.
        cookies: of the lives, uint64, sorted, those of one socket in order of time.
        begins_ns: of the first record of each.

    """
    first, after = (np.searchsorted(cookies, resets["cookie"], side) for side in ("left", "right"))
    found = first < after
    resets, first, after = resets.compress(found), first[found], after[found]
    last = first.copy()
    begins_ns = np.append(begins_ns, 0)
    while len(later := np.flatnonzero((last + 1 < after) & (begins_ns[last + 1] <= resets["time_ns"]))):
        last[later] += 1
    return np.unique(last)
