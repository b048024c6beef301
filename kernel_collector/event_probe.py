"""A probe that is one program and its ring: what it tells, as arrays of one record (bpf/records.h)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Self

from kernel_collector.bpf_object import BpfObject
from kernel_collector.objects import OBJECTS
from kernel_collector.ring import Ring

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    import numpy as np

    from kernel_collector.btf import Btf


class EventProbe:
    """The events of one program, while it is open.

    Args:
        file: name of the compiled object.
        program: that is attached.
        record_dtype: gives the dtype of its records by the object's BTF.
        objects: the directory of the compiled programs.

    Attributes:
        record: the dtype of its arrays.

    Raises:
        LibbpfError: the kernel, or the lack of a capability or of libbpf, does not allow it.
        BtfError: the object is of another version than this module.

    """

    def __init__(
        self, file: str, program: str, record_dtype: Callable[[Btf], np.dtype], objects: Path = OBJECTS
    ) -> None:
        self._object = BpfObject(objects / file)
        try:
            self.record = record_dtype(self._object.btf)
            self._object.load()
            self._ring = Ring(self._object, self.record)
            self._object.attach(program)
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
        """How many events found the ring buffer full."""
        return self._ring.lost

    @property
    def wakeup_fd(self) -> int:
        """Readable when `drain` should be called before its time; at other times call it as often as suits."""
        return self._ring.wakeup_fd

    def drain(self) -> np.ndarray:
        """Return the events since the call before, in their order."""
        return self._ring.drain()
