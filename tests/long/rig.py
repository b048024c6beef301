"""The reducer and its load, as the long runs have them, and what both say of themselves."""

from __future__ import annotations

import json
import re
import signal
import sys
from typing import TYPE_CHECKING

from tests.lab.daemons import INTAKE_PORT, Lab, script

if TYPE_CHECKING:
    from tests.lab.programs import Program

WINDOW_S = 5
LEVELS = ("az_az", "id_id")


def start_load(lab: Lab, *options: str) -> Program:
    """Start the load, and wait until it tells."""
    load = lab.programs.start(
        "load", sys.executable, "-m", "tests.long.load", f"127.0.0.1:{INTAKE_PORT}", *options, host=lab.centre
    )
    load.wait_for("^telling$", 60)
    return load


def end_load(load: Program) -> dict[str, int]:
    """End the load, and return what it told."""
    assert load.stop(signal.SIGTERM, 400) == 0, load.tail()
    return told_by(load)


def told_by(load: Program) -> dict[str, int]:
    """Return what a load told that has ended."""
    return json.loads(load.output().splitlines()[-1])


def start_reducer(lab: Lab, *options: str, window_s: int = WINDOW_S, **env: str) -> Program:
    """Start a reducer with two levels."""
    command = (
        *(script("reducer"), "--port", f"{INTAKE_PORT}", "--window", f"{window_s}", "--poll-interval", "1"),
        *("--enable-id-id", "--log-console", "--no-log-file", *options),
    )
    reducer = lab.programs.start("reducer", *command, host=lab.centre, env=env)
    lab.wait_until_ready(reducer)
    return reducer


def complaints(program: Program, *allowed: str) -> list[str]:
    """Return the lines of its log that warn of something, but for those that match *allowed*."""
    lines = program.output().splitlines()
    warnings = [line for line in lines if re.search(r"\b(level=)?(warn|warning|error|critical)\b", line, re.IGNORECASE)]
    return [line for line in warnings if not any(re.search(pattern, line) for pattern in allowed)]


def own_metric(page: str, name: str) -> float:
    """Return one of the reducer's own metrics."""
    [value] = re.findall(rf"^ebpf_net_{name} (\S+)", page, re.MULTILINE)
    return float(value)
