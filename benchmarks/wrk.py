"""wrk against the lab's nginx: as fast as it goes, or at a pace."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from tests.lab.traffic import HTTP_PORT

if TYPE_CHECKING:
    from pathlib import Path

    from tests.lab.network import Host

# wrk knows no rate, but waits before each request as long as a script says: each connection on its own, at random.
PACE = "function delay() return math.random(0, {longest_ms}) end\n"
_UNIT_MS = {"us": 1e-3, "ms": 1, "s": 1e3}


def wrk_command(
    server: Host, seconds: int, directory: Path, *, connections: int = 64, connection: str = "keep-alive", rate: int = 0
) -> list[str]:
    """Return the command of one thread.

    Args:
        server: where nginx is.
        seconds: how long.
        directory: for a script.
        connections: how many at a time.
        connection: the header.
        rate: requests/s; 0: as many as it can. The time to an answer comes on top of what it waits, so it stays below.

    """
    command = ["wrk", "--threads", "1", "--connections", f"{connections}", "--duration", f"{seconds}", "--latency"]
    if rate:
        script = directory / "pace.lua"
        script.write_text(PACE.format(longest_ms=round(2 * 1000 * connections / rate)))
        command += ["-s", str(script)]
    return [*command, "-H", f"Connection: {connection}", f"http://{server.ipv4}:{HTTP_PORT}/"]


def wrk_figures(report: str) -> dict[str, float]:
    """Return requests/s and percentiles of the time to an answer, milliseconds, of what wrk printed."""
    figures = {"requests/s": float(re.findall(r"Requests/sec:\s+([\d.]+)", report)[0])}
    for percent in (50, 99):
        [(number, unit)] = re.findall(rf"{percent}%\s+([\d.]+)(us|ms|s)", report)
        figures[f"p{percent} ms"] = float(number) * _UNIT_MS[unit]
    return figures
