"""Waiting for an event, for a limited time."""

from __future__ import annotations

import asyncio
import contextlib


async def set_within(event: asyncio.Event, seconds: float | None) -> bool:
    """Return whether *event* is set within *seconds*; None: however long that takes.

    asyncio.wait_for, before Python 3.12, loses a cancellation that comes at the same moment as what it waits for.
    """
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await event.wait()
    return event.is_set()
