from __future__ import annotations

import asyncio
import subprocess
import sys
import threading
import time

import pytest

from daemon.threads import in_daemon_thread

ENDS_AT_ONCE = """
import atexit
from daemon.threads import exit_at_once

atexit.register(print, "taken apart")
print("all is done")
exit_at_once()
"""
ENDS_WHILE_A_CALL_BLOCKS = """
import asyncio, time
from daemon.threads import in_daemon_thread

async def main():
    in_daemon_thread(time.sleep, 60)

asyncio.run(main())
"""


def test_what_a_call_returns_or_raises() -> None:
    async def main() -> None:
        assert await in_daemon_thread(divmod, 7, 2) == (3, 1)
        with pytest.raises(ZeroDivisionError):
            await in_daemon_thread(divmod, 7, 0)

    asyncio.run(main())


def test_a_call_of_which_nobody_wants_the_result_any_more() -> None:
    blocked = threading.Event()
    raised: list[object] = []

    async def main() -> None:
        asyncio.get_running_loop().set_exception_handler(lambda _, context: raised.append(context))
        waiting = in_daemon_thread(blocked.wait, 10)
        waiting.cancel()
        blocked.set()
        await in_daemon_thread(time.sleep, 0.05)

    asyncio.run(main())
    assert not raised


def test_the_end_does_not_wait() -> None:
    started = time.monotonic()
    subprocess.run([sys.executable, "-c", ENDS_WHILE_A_CALL_BLOCKS], check=True, timeout=50)
    assert time.monotonic() - started < 40


def test_an_end_at_once_loses_no_output() -> None:
    assert subprocess.check_output([sys.executable, "-c", ENDS_AT_ONCE], text=True) == "all is done\n"


def test_an_end_at_once_with_closed_outputs_is_a_good_one() -> None:
    subprocess.run(["sh", "-c", 'exec "$0" -c "$1" >&- 2>&-', sys.executable, ENDS_AT_ONCE], check=True)
