"""What all tests share."""

from __future__ import annotations

import fcntl
import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import settings

if TYPE_CHECKING:
    from collections.abc import Iterator

# On a build machine the same examples each time, and no verdict on the machine's speed.
settings.register_profile("ci", derandomize=True, deadline=None, print_blob=True)
if os.environ.get("CI"):
    settings.load_profile("ci")


@pytest.fixture
def alone_with_the_dns() -> Iterator[None]:
    """Keep other tests, also of other runs, from asking over TCP: a DNS probe counts that of the whole machine."""
    with Path("/tmp/ebpfnet-dns.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
