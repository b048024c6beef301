"""Calls that block, in threads that the end of the program does not wait for, and that end."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import sys
import threading
from typing import TYPE_CHECKING, NoReturn, ParamSpec, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

P = ParamSpec("P")
T = TypeVar("T")


def in_daemon_thread(call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> asyncio.Future[T]:
    """Start *call* in a thread of its own, and return the future of what it returns or raises.

    For what may wait for another machine: the threads of asyncio.to_thread are waited for at the end of the program,
    for as long as they take.
    """
    loop = asyncio.get_running_loop()
    future: asyncio.Future[T] = loop.create_future()

    def settle(result: T | None, error: BaseException | None) -> None:
        if future.done():  # It was cancelled.
            return
        if error is None:
            future.set_result(result)  # type: ignore[arg-type]
        else:
            future.set_exception(error)

    def run() -> None:
        result, error = None, None
        try:
            result = call(*args, **kwargs)
        except BaseException as raised:  # noqa: BLE001 - it is raised where the future is awaited
            error = raised
        with contextlib.suppress(RuntimeError):  # The loop is closed: nobody waits any longer.
            loop.call_soon_threadsafe(settle, result, error)

    threading.Thread(target=run, daemon=True).start()
    return future


def exit_at_once() -> NoReturn:
    """End the program, with status 0, when all is done and closed.

    Without taking the interpreter apart: where a machine is busy that takes seconds, and threads of `in_daemon_thread`
    may be in the middle of something.
    """
    logging.shutdown()
    for stream in filter(None, (sys.stdout, sys.stderr)):  # they may have been closed from the start
        with contextlib.suppress(OSError):
            stream.flush()
    os._exit(0)
