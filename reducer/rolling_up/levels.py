"""The levels of a window: who the ends of its flows are, and the series that they add up to.

Flows come some at a time, so that only the series of all of them stand beside each other.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from reducer.columns.series import FLOWS
from reducer.matching.flows import other
from reducer.naming.parties import flows_of
from reducer.naming.zones import Zones
from reducer.rolling_up.budget import MOST_SERIES, Budget
from reducer.rolling_up.flow_level import FlowRoller
from reducer.rolling_up.roll_up import LevelSum, roll_up, rolled_up

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from reducer.columns.series import Level
    from reducer.matching.matched import Matched
    from reducer.naming.name import Names
    from reducer.naming.parties import Parties


class Levels:
    """Makes the levels of these *names*, at most *most_series* series of each, window after window."""

    def __init__(
        self, levels: Sequence[str], parties: Parties, names: Names, seed: int, most_series: int = MOST_SERIES
    ) -> None:
        self._names = names
        self._parties = parties
        self._seed = seed
        self._sums = {name: LevelSum() for name in levels if name != FLOWS}
        self._budgets = {name: Budget(most_series) for name in self._sums}
        self._flow_roller = FlowRoller(most_series)
        self._levels = levels
        self._with_nodes = any("id" in name or name == FLOWS for name in levels)
        self._zones = Zones()

    @property
    def series_rolled_up(self) -> int:
        """How many series of windows were added to others since the start, since a level had too many."""
        return sum(budget.series_rolled_up for budget in (*self._budgets.values(), self._flow_roller.budget))

    @property
    def flows_without_ports(self) -> int:
        """How many flows of windows were told without ports since there were too many."""
        return self._flow_roller.without_ports

    def of_window(self, parts: Iterable[Matched], end_ns: int) -> list[Level]:
        """Return the levels of a window of one part or more that ends at *end_ns*; parties and names have begun it."""
        for matched in parts:
            self._add(matched, end_ns)
        return [self._take(name) for name in self._levels]

    def _add(self, matched: Matched, end_ns: int) -> None:
        flows = flows_of(matched, end_ns)
        party = self._parties.find(flows)
        ends = {"az": self._names.identities(party, matched.special, self._parties)}
        if self._with_nodes:
            ends["id"] = self._names.nodes(party, matched.special, flows.address, self._parties, self._seed)
        zoned = self._zones.columns(ends["az"], other(ends["az"]), matched.values, self._names.ends)
        matched = replace(matched, values=matched.values | zoned)
        for name, total in self._sums.items():
            source, dest = name.split("_")
            total.add(roll_up(name, ends[source], other(ends[dest]), matched.values, matched.cells))
        if FLOWS in self._levels:
            self._flow_roller.add(matched, ends["id"])

    def _take(self, name: str) -> Level:
        if name == FLOWS:
            return self._flow_roller.take(self._names.ends)
        level = self._sums[name].take()
        stand_in = self._budgets[name].fit(level, self._names.ends)
        return level if stand_in is None else rolled_up(level, stand_in[level.source], stand_in[level.dest])
