from __future__ import annotations

import asyncio

import pytest

from daemon.events import set_within


def test_an_event_is_waited_for_a_limited_time():
    async def scenario():
        event = asyncio.Event()
        assert not await set_within(event, 0.01)
        asyncio.get_running_loop().call_later(0.01, event.set)
        assert await set_within(event, None)
        assert await set_within(event, 0)

    asyncio.run(scenario())


@pytest.mark.parametrize("steps", range(4))
def test_a_cancellation_at_the_moment_of_the_event_is_not_lost(steps):
    async def scenario():
        event = asyncio.Event()
        waiting = asyncio.create_task(set_within(event, 60))
        for _ in range(3):
            await asyncio.sleep(0)
        event.set()
        for _ in range(steps):
            await asyncio.sleep(0)
        had_ended = waiting.done()
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        assert waiting.cancelled() != had_ended

    asyncio.run(scenario())
