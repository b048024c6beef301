from __future__ import annotations

import pytest
from ebpf_net.v1 import intake_pb2

from kernel_collector.replay.recording import Player, Tape
from kernel_collector.replay.transcript import TranscriptEndError, TranscriptError


class Entries:
    """A transcript in memory."""

    writing = True

    def __init__(self):
        self.entries = []
        self.flushed = 0

    def write(self, entry):
        self.entries.append(entry)

    def flush(self):
        self.flushed = len(self.entries)


class Part:
    def __init__(self, identify=None):
        self.lost = 3
        self.identify = identify

    def add(self, first, second):
        return first + second

    def same(self, tables):
        return tables

    def fail(self):
        raise ProcessLookupError(3, "gone")

    def fill(self, statistics):
        statistics.events_lost += 2

    def remind(self, entities):
        entities.retired_processes.append(7)

    def read(self):
        return self.identify(10) + self.identify(20)


def use(part):
    """Use a part as the core does; return all that it said."""
    statistics = intake_pb2.CollectorStatistics()
    part.fill(statistics)
    with pytest.raises(ProcessLookupError) as caught:
        part.fail()
    tables = {"tcp": {}}
    return [part.add(1, 2), part.lost, statistics, str(caught.value), part.same(tables) is tables, part.read()]


def recording():
    """Return the entries of two moments, and what the core was told in them."""
    entries = Entries()
    tape = Tape(entries)
    tape.begin(intake_pb2.Host(name="node"), 256, every_container=False)
    part = tape.outside("part", Part(tape.inside("identify", lambda records: records * 2)))
    told = []
    for name in ("begin", "poll"):
        tape.moment(name, lambda: told.append(use(part)))
        assert entries.flushed == len(entries.entries)
    return entries.entries, told


def test_a_replay_answers_as_it_was():
    entries, told = recording()
    player = Player(iter(entries))
    assert player.begin()["host"].name == "node"
    calls = []

    def identify(records):
        calls.append(records)
        return 0  # the answer does not come from here

    player.inside("identify", identify)
    part = player.outside("part")
    for name, expected in zip(("begin", "poll"), told, strict=True):
        assert player.next_moment() == name
        assert use(part) == expected
    assert player.next_moment() is None
    assert calls == [10, 20, 10, 20]
    assert told[0][-1] == 60


def test_what_is_asked_between_moments_is_not_recorded():
    entries = Entries()
    entities = intake_pb2.Entities()
    Tape(entries).outside("part", Part()).remind(entities)
    assert entities.retired_processes == [7]
    assert entries.entries == []


def test_another_version_is_told():
    entries, _ = recording()
    player = Player(iter(entries))
    player.begin()
    player.next_moment()
    with pytest.raises(TranscriptError, match=r"answer part\.fill where part\.other is asked for"):
        player.outside("part").other()
    with pytest.raises(TranscriptError, match="the next moment"):
        player.next_moment()


def test_the_end_is_told():
    entries, _ = recording()
    player = Player(iter(entries[:3]))
    player.begin()
    assert player.next_moment() == "begin"
    part = player.outside("part")
    part.fill(intake_pb2.CollectorStatistics())
    with pytest.raises(TranscriptEndError):
        part.fail()
    with pytest.raises(TranscriptEndError):
        Player(iter([])).begin()
