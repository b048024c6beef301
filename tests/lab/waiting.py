"""Waiting for what is bound to happen."""

from __future__ import annotations

import contextlib
import time
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable


def undisturbed_s() -> float:
    """Return a clock that stands still while programs wait for a processor, so that a busy machine does not change it.

    It runs on where the kernel does not tell of that (PSI, CONFIG_PSI).
    """
    waited_us = 0
    with contextlib.suppress(OSError):
        waited_us = int(Path("/proc/pressure/cpu").read_text().split()[4].removeprefix("total="))
    return time.monotonic() - waited_us / 1e6


def wait_until(condition: Callable[[], bool], timeout_s: float, what: str) -> None:
    """Return as soon as *condition* holds.

    Raises:
        AssertionError: it does not in time; the message names *what* was waited for.

    """
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, f"waited {timeout_s:g} s in vain for {what}"
        time.sleep(0.02)
