"""Ends what waits for a peer that drips: the time-out of a socket is that of each read, not of the whole answer."""

from __future__ import annotations

import contextlib
import socket
import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator


@contextlib.contextmanager
def cut_off_after(seconds: float, sockets: Callable[[], Iterable[socket.socket | None]]) -> Iterator[None]:
    """Shut down *sockets*, asked for then, where what is within takes longer.

    Raises:
        TimeoutError: it took longer; in place of what this led to.

    """
    cut = threading.Event()

    def cut_off() -> None:
        cut.set()
        for each in sockets():
            if each is not None:
                with contextlib.suppress(OSError):
                    # That of a socket of TLS would take its state from who reads it.
                    socket.socket.shutdown(each, socket.SHUT_RDWR)

    timer = threading.Timer(seconds, cut_off)
    timer.daemon = True
    timer.start()
    try:
        yield
    except Exception:
        if not cut.is_set():
            raise
    finally:
        timer.cancel()
    if cut.is_set():  # also where what came until then looks like an answer: its end may be that of the connection
        raise TimeoutError("timed out")
