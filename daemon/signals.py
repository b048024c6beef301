"""How a daemon is ended."""

from __future__ import annotations

import asyncio
import signal

_SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)


def stop_event() -> asyncio.Event:
    """Return an event of the running loop that SIGTERM, SIGINT or SIGHUP sets; a second one ends the process at once.

    SIGHUP comes where the terminal is closed; nohup(1) has it ignored, and so it stays then.
    """
    signals = [each for each in _SIGNALS if each != signal.SIGHUP or signal.getsignal(each) != signal.SIG_IGN]
    stopping = asyncio.Event()
    loop = asyncio.get_running_loop()

    def stop() -> None:
        stopping.set()
        for number in signals:
            loop.remove_signal_handler(number)

    for number in signals:
        loop.add_signal_handler(number, stop)
    return stopping
