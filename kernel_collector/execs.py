"""The exec probe: what each process of the machine executes, as arrays of `exec_record` (bpf/records.h)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Self

from kernel_collector.libbpf import BpfObject
from kernel_collector.objects import OBJECTS
from kernel_collector.records import exec_record_dtype
from kernel_collector.ring import Ring

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np

OBJECT = "process.bpf.o"
EVENTS = "process_executed"
PROGRAMS = (EVENTS,)


class ExecProbe:
    """Execs of every process, while it is open.

    Args:
        objects: the directory of the compiled programs.

    Attributes:
        record: the dtype of its arrays.

    Raises:
        LibbpfError: the kernel, or the lack of a capability or of libbpf, does not allow it.
        BtfError: the object is of another version than this module.

    """

    def __init__(self, objects: Path = OBJECTS) -> None:
        self._object = BpfObject(objects / OBJECT)
        try:
            self.record = exec_record_dtype(self._object.btf)
            self._object.load()
            self._ring = Ring(self._object, self.record)
            self._object.attach(EVENTS)
        except BaseException:
            self._object.close()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Detach and unload."""
        self._ring.close()
        self._object.close()

    @property
    def events_lost(self) -> int:
        """How many execs found the ring buffer full."""
        return self._ring.lost

    @property
    def wakeup_fd(self) -> int:
        """Readable when `drain` should be called before its time; at other times call it as often as suits."""
        return self._ring.wakeup_fd

    def drain(self) -> np.ndarray:
        """Return the execs since the call before, in their order; `arguments` holds `arguments_length` bytes."""
        return self._ring.drain()
