"""How a daemon is ended."""

from __future__ import annotations

import asyncio
import os
import signal

_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


def stop_event() -> asyncio.Event:
    """Return an event of the running loop that SIGTERM, SIGINT or SIGHUP sets.

    A second SIGTERM or SIGINT ends the process at once. SIGHUP comes where the terminal is closed, from the shell and
    once more from the kernel; nohup(1) has it ignored, and so it stays then.
    """
    signals = [each for each in _SIGNALS if each != signal.SIGHUP or signal.getsignal(each) != signal.SIG_IGN]
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()

    def stop() -> None:
        stopping.set()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(number)
            # The kernel keeps signals without a handler from the first process of a container.
            signal.signal(number, lambda number, _: os._exit(128 + number))

    for number in signals:
        loop.add_signal_handler(number, stop)
    return stopping
