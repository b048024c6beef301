"""Ends what waits for a peer that drips: the time-out of a socket is that of each read, not of the whole answer."""

from __future__ import annotations

import contextlib
import socket
import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

_AGAIN_S = 0.2


@contextlib.contextmanager
def cut_off_after(seconds: float, sockets: Callable[[], Iterable[socket.socket | None]]) -> Iterator[None]:
    """Shut down *sockets*, asked for then and again until what is within has ended, where it takes longer.

    Raises:
        TimeoutError: it took longer; in place of what this led to.

    """
    ended, cut = threading.Event(), threading.Event()

    def cut_off() -> None:
        if ended.wait(seconds):
            return
        cut.set()
        _shut_down(sockets())
        while not ended.wait(_AGAIN_S):  # it may have had no connection yet, or have made another
            _shut_down(sockets())

    watch = threading.Thread(target=cut_off, name="cut off", daemon=True)
    watch.start()
    try:
        yield
    except Exception:
        if not cut.is_set():
            raise
    finally:
        ended.set()
        watch.join()  # so that it shuts down nothing that is made after this
    if cut.is_set():  # also where what came until then looks like an answer: its end may be that of the connection
        raise TimeoutError("timed out")


def _shut_down(sockets: Iterable[socket.socket | None]) -> None:
    for each in sockets:
        if each is not None:
            with contextlib.suppress(OSError):
                # That of a socket of TLS would take its state from who reads it.
                socket.socket.shutdown(each, socket.SHUT_RDWR)
