"""The laws of the pipeline: whatever happens to collectors and reducer, the series add up to the truth."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING
from unittest import mock

from ebpf_net.v1 import intake_pb2
from hypothesis import given, settings
from hypothesis import strategies as st

from intake.clock import SECOND_NS
from reducer.columns.series import FLOWS, LEVELS
from reducer.columns.value_columns import VALUE_COLUMNS
from reducer.matching import grouping
from reducer.pipeline import Pipeline
from tests.worlds import (
    GRACE_S,
    POLL_S,
    START_S,
    STEPS,
    WINDOW_S,
    Collector,
    WorldPlan,
    collectors_of,
    truth_of,
    worlds,
)

if TYPE_CHECKING:
    import random
    from collections.abc import Sequence

    from reducer.columns.series import SealedWindow

# After the last step everything is polled, sent and sealed; a silent window follows.
SETTLED = STEPS + 26
REQUEST_COLUMNS = [
    name for name in VALUE_COLUMNS if name.startswith(("dns_", "http_")) and not name.endswith("_active")
]
LAW = settings(deadline=None, max_examples=60)


def new_pipeline(most_series: int = 1000, levels: Sequence[str] = LEVELS) -> Pipeline:
    times = (WINDOW_S * SECOND_NS, GRACE_S * SECOND_NS, POLL_S * SECOND_NS)
    return Pipeline(*times, levels, keep_loopback=True, most_series=most_series)


@dataclass
class Totals:
    """What the sealed windows add up to."""

    bytes: Counter = field(default_factory=Counter)
    az_bytes: int = 0
    packets: int = 0
    counts: Counter = field(default_factory=Counter)
    requests: Counter = field(default_factory=Counter)
    windows: list[tuple[int, int]] = field(default_factory=list)

    def add(self, window: SealedWindow) -> None:
        assert not self.windows or window.start_ns >= self.windows[-1][1]
        self.windows.append((window.start_ns, window.end_ns))
        az, *partly, by_node = window.levels
        self.az_bytes += int(az.values["bytes"].sum() + az.values["udp_bytes"].sum())
        self.packets += int(az.values["packets"].sum() + az.values["udp_packets"].sum())
        for name, values in az.values.items():
            assert (values >= 0).all(), name
            if name != "min_rtt_us":
                assert {values.sum()} == {level.values[name].sum() for level in (*partly, by_node)}, name
        for name in ("opened", "closed", *REQUEST_COLUMNS):
            self.counts[name] += int(az.values[name].sum())
        assert az.bins.keys() == by_node.bins.keys()
        for kind, bins in az.bins.items():
            told, by_nodes = Counter(), Counter()
            for each, counter in ((bins, told), (by_node.bins[kind], by_nodes)):
                for number, amount in zip(each.bin.tolist(), each.amount.tolist(), strict=True):
                    counter[kind.name, number] += amount
            assert told == by_nodes
            self.counts += told
        moved = by_node.values["bytes"] + by_node.values["udp_bytes"]
        requests = by_node.values["dns_queries"] + by_node.values["http_requests"]
        for source, dest, amount, asked in zip(by_node.source, by_node.dest, moved, requests, strict=True):
            ends = tuple(dict(window.ends.labels[end])["ip"] for end in (source, dest))
            self.bytes[ends] += int(amount)
            self.requests[ends] += int(asked)


@dataclass
class Sums(Totals):
    """What they add up to where ends have lost their addresses."""

    most_series: int = 1

    def add(self, window: SealedWindow) -> None:
        for level in window.levels:
            assert len(level.source) <= self.most_series
            self.bytes[level.name] += int(level.values["bytes"].sum() + level.values["udp_bytes"].sum())
        self.counts["opened"] += int(window.levels[0].values["opened"].sum())


class World:
    """Plays a plan against a pipeline."""

    def __init__(self, plan: WorldPlan, shuffle: random.Random | None = None) -> None:
        self.plan = plan
        self.collectors = collectors_of(plan)
        self.shuffle = shuffle
        self.totals = Totals()
        self.stored = b""
        self.safe: dict[bytes, int] = {}
        self.new_pipeline = new_pipeline
        self.pipeline = new_pipeline()
        self.connected: set[int] = set()

    def run(self) -> Totals:
        for step in range(SETTLED):
            if step in self.plan.restarts:
                self._restart()
            now = (START_S + step) * SECOND_NS
            self.pipeline.next_due(now)
            order = list(self.collectors)
            if self.shuffle:
                self.shuffle.shuffle(order)
            for collector in order:
                self._collect(collector, step, now)
            while (window := self.pipeline.seal(now)) is not None:
                self._keep(window)
        for window in self.pipeline.finish((START_S + SETTLED) * SECOND_NS):
            self._keep(window)
        for collector in self.collectors:
            assert self.safe.get(collector.session, 0) == collector.taken
        return self.totals

    def _collect(self, collector: Collector, step: int, now: int) -> None:
        host = collector.host
        if step < host.starts:
            return
        if step == host.starts:
            collector.start(step)
        if step > host.starts and step % POLL_S == host.phase and step < STEPS + 6:
            collector.poll(step)
        if host.cut(step):
            self.connected.discard(collector.number)
            return
        if collector.number not in self.connected:
            self.pipeline.hello(collector.session, collector.hello())
            self.pipeline.snapshot(collector.session, collector.entities())
            self.connected.add(collector.number)
        for number, time_ns, tables in collector.unsent:
            self.pipeline.take(collector.session, number, time_ns, intake_pb2.Batch(number=number), tables)
        collector.unsent.clear()
        self.pipeline.heard(collector.session, now)

    def _keep(self, window: SealedWindow) -> None:
        """Put a window into the store, and acknowledge."""
        self.totals.add(window)
        self.stored = window.balances
        for session, number in window.acknowledge.items():
            assert number > self.safe.get(session, 0)
            self.safe[session] = number
        for collector in self.collectors:
            safe = self.safe.get(collector.session, 0)
            collector.unacknowledged = [batch for batch in collector.unacknowledged if batch[0] > safe]

    def _restart(self) -> None:
        self.pipeline = self.new_pipeline()
        if self.stored:
            self.pipeline.restore(self.stored)
        self.connected.clear()
        for collector in self.collectors:
            collector.unsent = list(collector.unacknowledged)


def check(plan: WorldPlan, shuffle: random.Random | None = None) -> Totals:
    truth = truth_of(plan)
    totals = World(plan, shuffle).run()
    assert +totals.bytes == +truth.bytes
    assert totals.az_bytes == totals.bytes.total()
    assert +totals.requests == +truth.requests
    assert +totals.counts == +truth.counts + Counter(opened=truth.opened, closed=truth.closed)
    return totals


@LAW
@given(worlds())
def test_series_add_up_to_what_was_sent(plan):
    check(plan)


@LAW
@given(worlds(), st.integers(1, 8))
def test_under_every_budget_the_sums_are_the_same(plan, most_series):
    world = World(plan)
    world.pipeline, world.totals = new_pipeline(most_series), Sums(most_series=most_series)
    totals = world.run()
    truth = truth_of(plan)
    assert +totals.bytes == +Counter(dict.fromkeys(LEVELS, truth.bytes.total()))
    assert totals.counts["opened"] == truth.opened


@LAW
@given(worlds(reuse=True))
def test_ports_used_again_count_each_time(plan):
    check(plan)


@LAW
@given(worlds(late=True))
def test_collectors_that_start_late(plan):
    check(plan)


@LAW
@given(worlds(cut=True, reuse=True))
def test_collectors_that_are_cut_off_and_send_later(plan):
    check(plan)


@LAW
@given(worlds(restarts=True, reuse=True))
def test_reducer_killed_at_any_point(plan):
    check(plan)


@LAW
@given(worlds(restarts=True, cut=True))
def test_reducer_killed_while_collectors_are_cut_off(plan):
    check(plan)


@LAW
@given(worlds(restarts=True, late=True))
def test_reducer_killed_while_collectors_start(plan):
    check(plan)


@LAW
@given(worlds(cut=True), st.randoms(use_true_random=False))
def test_order_of_arrival_changes_no_total(plan, shuffle):
    assert check(plan).bytes == check(plan, shuffle).bytes


@LAW
@given(worlds())
def test_exchanged_ends_change_no_total(plan):
    """The low endpoint becomes the high one."""
    before = check(plan)
    addresses = [host.address for host in plan.hosts]
    mirrored = dict(zip(addresses, (f"192.168.0.{9 - index}" for index in range(len(addresses))), strict=True))
    other = replace(plan, hosts=tuple(replace(host, address=mirrored[host.address]) for host in plan.hosts))
    after = check(other)
    mirrored["127.0.0.1"] = "127.0.0.1"
    assert {(mirrored[a], mirrored[b]): total for (a, b), total in before.bytes.items()} == after.bytes
    assert before.packets == after.packets


@LAW
@given(worlds())
def test_split_batches_change_nothing(plan):
    whole = World(plan).run()
    halves = World(plan)
    for collector in halves.collectors:
        collector.poll = split_poll(collector)
    halves.run()
    assert (halves.totals.bytes, halves.totals.counts, halves.totals.packets) == (
        whole.bytes,
        whole.counts,
        whole.packets,
    )


@LAW
@given(worlds(restarts=True, cut=True, reuse=True), st.integers(1, 6), st.sampled_from((1000, 7)))
def test_windows_taken_in_parts_are_the_same(plan, rows, most_series):
    assert told_of(plan, grouping.MOST_ROWS_OF_PART, most_series) == told_of(plan, rows, most_series)


def told_of(plan: WorldPlan, rows: int, most_series: int) -> list:
    """Return all that is told of each window, where so many rows are a part."""
    with mock.patch.object(grouping, "MOST_ROWS_OF_PART", rows):
        world = World(plan)
        world.new_pipeline = partial(new_pipeline, most_series, (*LEVELS, FLOWS))
        world.pipeline, world.totals = world.new_pipeline(), Everything()
        return world.run().told


@dataclass
class Everything(Totals):
    """All that windows tell, with labels for the indexes of ends."""

    told: list = field(default_factory=list)

    def add(self, window: SealedWindow) -> None:
        levels = []
        for level in window.levels:
            names = [[window.ends.labels[end] for end in ends] for ends in (level.source, level.dest)]
            columns = {**level.values, **{name: getattr(level, name, None) for name in PORT_COLUMNS}}
            series = zip(*names, *(column.tolist() for column in columns.values() if column is not None), strict=True)
            bins = {
                kind: sorted(
                    (names[0][place], names[1][place], *_ports(level, place), number, amount)
                    for place, number, amount in zip(*(map(list, vars(each).values())), strict=True)
                )
                for kind, each in level.bins.items()
            }
            levels.append((level.name, sorted(series), bins))
        self.told.append((window.start_ns, window.end_ns, levels, window.acknowledge))


PORT_COLUMNS = ("protocol", "source_port", "dest_port")


def _ports(level, place: int) -> list[int]:
    return [int(getattr(level, name)[place]) for name in PORT_COLUMNS if hasattr(level, name)]


def split_poll(collector: Collector):
    """Send each row in a batch of its own."""
    poll = type(collector).poll

    def split(step: int) -> None:
        sockets = collector.sockets
        for socket in sockets:
            collector.sockets = [socket]
            poll(collector, step)
        collector.sockets = sockets

    return split
