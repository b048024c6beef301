"""What every benchmark says of itself, and what it reads of a process."""

from __future__ import annotations

import os
import platform
import re
import time
from dataclasses import dataclass
from pathlib import Path

from daemon.version import VERSION

TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")


def conditions() -> str:
    """Return machine and versions as one line."""
    model = re.search(r"model name\s*: (.+)", Path("/proc/cpuinfo").read_text())
    cpu = model[1] if model else platform.machine()
    return (
        f"ebpf-net {VERSION}; {os.cpu_count()} cores, {cpu}; Linux {platform.release()}; "
        f"Python {platform.python_version()}"
    )


def busy_s() -> float:
    """Return how long the machine's processors were busy, all in all, since some point in time.

    It is the time less that which they were idle, of which the kernel keeps account to the microsecond (NO_HZ); what it
    says of being busy it only samples.
    """
    _user, _nice, _system, idle, waiting, _irq, _softirq, stolen = map(
        int, Path("/proc/stat").read_text().splitlines()[0].split()[1:9]
    )
    return time.monotonic() * (os.cpu_count() or 1) - (idle + waiting + stolen) / TICKS_PER_SECOND


def forget_peak() -> None:
    """Let what this process has in memory now be the most that it had so far."""
    Path("/proc/self/clear_refs").write_text("5")  # CLEAR_REFS_MM_HIWATER_RSS


@dataclass(frozen=True)
class Usage:
    """What a process used so far: CPU seconds of all its threads, and MiB of memory now and at most."""

    cpu_s: float
    resident_mib: float
    peak_mib: float


def usage(pid: int | str) -> Usage:
    """Read what a process used so far, by its id or `self`."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    status = Path(f"/proc/{pid}/status").read_text()
    resident, peak = (int(re.findall(rf"{name}:\s+(\d+)", status)[0]) / 1024 for name in ("VmRSS", "VmHWM"))
    return Usage((int(fields[11]) + int(fields[12])) / TICKS_PER_SECOND, resident, peak)
