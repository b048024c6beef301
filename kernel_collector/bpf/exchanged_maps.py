"""A hash map in which programs count, in two copies, so that it is read without a loss and without telling twice.

One copy is in an outer map of one element, and is counted in. The reader puts the other one there, upon which the
kernel waits for the programs that still run (map_update_elem, synchronize_rcu), and empties the one in which nobody
counts any more.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from kernel_collector.bpf.bpf_object import BpfObject


class ExchangedMaps:
    """The maps *name*, *name*_0 and *name*_1 of a loaded object.

    Args:
        source: the object.
        name: of the outer map.
        added: a variable of the programs, how many entries they have added so far.
        key: the dtype of its keys.
        value: the dtype of its values.

    """

    def __init__(self, source: BpfObject, name: str, added: np.ndarray, key: np.dtype, value: np.dtype) -> None:
        self._object = source
        self._name = name
        self._added = added
        self._key = key
        self._value = value
        self._counted_in = 0
        self._added_before = 0

    def drain(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the keys and values since the call before."""
        added = int(self._added[0])
        if added == self._added_before:  # to exchange the maps takes the kernel milliseconds
            return np.empty(0, self._key), np.empty(0, self._value)
        expected, self._added_before = added - self._added_before, added
        idle, self._counted_in = self._counted_in, 1 - self._counted_in
        counted_in = self._object.map_fd(f"{self._name}_{self._counted_in}")
        self._object.update(self._name, bytes(4), counted_in.to_bytes(4, "little"))
        return self._object.empty(f"{self._name}_{idle}", self._key, self._value, expected)
