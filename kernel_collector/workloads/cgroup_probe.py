"""The cgroup probe: each cgroup of the v2 hierarchy that is made, as arrays of `cgroup_record` (bpf/records.h)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kernel_collector.bpf.event_probe import EventProbe
from kernel_collector.bpf.records import cgroup_record_dtype
from kernel_collector.objects import OBJECTS

if TYPE_CHECKING:
    from pathlib import Path

OBJECT = "cgroup.bpf.o"
EVENTS = "cgroup_made"


class CgroupProbe(EventProbe):
    """Cgroups that are made, while it is open; its reader is woken for each.

    Args:
        objects: the directory of the compiled programs.

    """

    def __init__(self, objects: Path = OBJECTS) -> None:
        super().__init__(OBJECT, (EVENTS,), cgroup_record_dtype, objects)
