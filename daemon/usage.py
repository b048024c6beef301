"""What this process uses."""

from __future__ import annotations

import resource
from pathlib import Path


def resident_bytes() -> int:
    """Return the memory that it has now."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
