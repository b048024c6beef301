"""The exec probe: what each process of the machine executes or forks, as arrays of `exec_record` (bpf/records.h)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kernel_collector.bpf.event_probe import EventProbe
from kernel_collector.bpf.records import exec_record_dtype
from kernel_collector.objects import OBJECTS

if TYPE_CHECKING:
    from pathlib import Path

OBJECT = "process.bpf.o"
EVENTS = "process_executed"
FORKS = "process_forked"


class ExecProbe(EventProbe):
    """Execs and forks of every process, while it is open; `arguments` holds `arguments_length` bytes.

    Args:
        objects: the directory of the compiled programs.

    """

    def __init__(self, objects: Path = OBJECTS) -> None:
        super().__init__(OBJECT, (EVENTS, FORKS), exec_record_dtype, objects)
