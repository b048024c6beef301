"""A collector, and a sink for what it sends, as benchmarks need them."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from tests.lab.daemons import INTAKE_PORT

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tests.lab.daemons import Lab
    from tests.lab.network import Host
    from tests.lab.programs import Program

POLL_INTERVAL_S = 5.0


def start_intake_sink(lab: Lab) -> None:
    """Start a sink in the centre that acknowledges what collectors send."""
    command = (sys.executable, "-m", "benchmarks.intake_sink", f"{INTAKE_PORT}", f"{POLL_INTERVAL_S}")
    lab.programs.start("intake-sink", *command, host=lab.centre).wait_for("listening")


def start_collector(lab: Lab, hosts: Sequence[Host], options: Sequence[str] = ()) -> Program:
    """Start a collector in the centre that sees all *hosts*, and wait until it is connected."""
    return lab.start_collector(lab.centre, *hosts, options=options)
