"""A probe that is some programs and their ring: what they tell, as arrays of one record (bpf/records.h)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kernel_collector.bpf.bpf_object import BpfObject
from kernel_collector.bpf.ring import Ring
from kernel_collector.closing import Closing
from kernel_collector.objects import OBJECTS

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    import numpy as np

    from kernel_collector.bpf.btf import Btf


class EventProbe(Closing):
    """The events of the programs of an object, while it is open.

    Args:
        file: name of the compiled object.
        programs: that are attached, in this order.
        record_dtype: gives the dtype of its records by the object's BTF.
        objects: the directory of the compiled programs.
        load: loads the object.

    Attributes:
        record: the dtype of its arrays.
        links: of the programs, by their names.

    Raises:
        LibbpfError: the kernel, or the lack of a capability or of libbpf, does not allow it.
        BtfError: the object is of another version than this module.

    """

    def __init__(
        self,
        file: str,
        programs: Sequence[str],
        record_dtype: Callable[[Btf], np.dtype],
        objects: Path = OBJECTS,
        load: Callable[[BpfObject], None] = BpfObject.load,
    ) -> None:
        self._object = BpfObject(objects / file)
        try:
            self.record = record_dtype(self._object.btf)
            load(self._object)
            self._ring = Ring(self._object, self.record)
            self.links = {program: self._object.attach(program) for program in programs}
        except BaseException:
            self._object.close()
            raise

    def close(self) -> None:
        """Detach and unload."""
        self._ring.close()
        self._object.close()

    @property
    def events_lost(self) -> int:
        """How many events found the ring buffer full."""
        return self._ring.lost

    @property
    def wakeup_fd(self) -> int:
        """Readable when `drain` should be called before its time; at other times call it as often as suits."""
        return self._ring.wakeup_fd

    def settle(self) -> None:
        """Wait until `drain` has all events up to now; without it, those after one that is being written come later."""
        self._ring.settle()

    def drain(self) -> np.ndarray:
        """Return the events since the call before, in their order."""
        return self._ring.drain()
