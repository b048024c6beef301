"""The drops probe: packets that the kernel dropped, by flow and reason, and what it calls the reasons."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from kernel_collector.bpf.bpf_object import BpfObject, ProgramCost
from kernel_collector.bpf.exchanged_maps import ExchangedMaps
from kernel_collector.bpf.libbpf import kernel_enum
from kernel_collector.bpf.records import drop_record_dtypes
from kernel_collector.bpf.watched_namespaces import load_watching
from kernel_collector.closing import Closing
from kernel_collector.objects import OBJECTS

if TYPE_CHECKING:
    from pathlib import Path

    import numpy as np

OBJECT = "drops.bpf.o"
PROGRAM = "packet_dropped"
MOST_FLOWS = 16_384
_OF_SUBSYSTEMS = 512  # from here on; bpf/drops.bpf.c
_PREFIX = "SKB_DROP_REASON_"
_NOT_DROPS = ("SKB_NOT_DROPPED_YET", "SKB_CONSUMED", f"{_PREFIX}MAX", f"{_PREFIX}SUBSYS_MASK")
_WITHOUT_REASONS = {2: "NOT_SPECIFIED"}  # before Linux 5.17


class Drops(NamedTuple):
    """Arrays of `drop_key` and `drop_counts`, a row each, no key twice."""

    keys: np.ndarray
    counts: np.ndarray


class DropsProbe(Closing):
    """Drops on the machine, or in some network namespaces, while it is open.

    Args:
        network_namespaces: inode numbers; drops in others are passed over in the kernel. Empty: all are seen.
        most_flows: flows and reasons that are told apart between two calls of `drain`.
        objects: the directory of the compiled programs.

    Raises:
        LibbpfError: the kernel, or the lack of a capability or of libbpf, does not allow it.
        BtfError: the object is of another version than this module.

    """

    def __init__(
        self,
        network_namespaces: frozenset[int] = frozenset(),
        most_flows: int = MOST_FLOWS,
        objects: Path = OBJECTS,
    ) -> None:
        self._most_flows = most_flows
        self._object = BpfObject(objects / OBJECT)
        try:
            key, counts = drop_record_dtypes(self._object.btf)
            load_watching(self._object, network_namespaces)
            self._variables = self._object.variables()
            added = self._variables["drops_entries_added"]
            self._maps = ExchangedMaps(self._object, "drops", added, key, counts)
            self._allow_more()
            self._object.attach(PROGRAM)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """Detach and unload."""
        self._variables = {}
        self._object.close()

    @property
    def of_other_flows(self) -> int:
        """How many packets are told without their flow since there were too many."""
        return int(self._variables["drops_of_other_flows"][0])

    @property
    def untracked(self) -> int:
        """How many packets found no room, and are not counted."""
        return int(self._variables["drops_untracked"][0])

    def drain(self) -> Drops:
        """Return the drops since the call before."""
        drained = Drops(*self._maps.drain())
        self._allow_more()
        return drained

    def cost(self) -> dict[str, ProgramCost]:
        """Return what the program cost so far, while kernel.bpf_stats_enabled is 1."""
        return {PROGRAM: self._object.cost(PROGRAM)}

    def _allow_more(self) -> None:
        self._variables["drops_entries_limit"][0] = self._variables["drops_entries_added"][0] + self._most_flows


def reason_names() -> dict[int, str]:
    """Return what this machine's kernel calls the reasons of drops, without SKB_DROP_REASON_, by their numbers.

    Raises:
        LibbpfError: its types (BTF) cannot be read.

    """
    numbers = kernel_enum("skb_drop_reason")
    if not numbers:
        return dict(_WITHOUT_REASONS)
    return {number: name.removeprefix(_PREFIX) for name, number in numbers.items() if name not in _NOT_DROPS}


def name_of_unknown(number: int) -> str:
    """Return the name of a reason that has none: of a subsystem (mac80211, openvswitch), whose are its module's."""
    if number >= _OF_SUBSYSTEMS:
        return f"SUBSYSTEM_{number >> 6 & 7}_{number & 63}"
    return f"REASON_{number}"
