"""Network namespaces: how they are looked for, and which are read again."""

from __future__ import annotations

import numpy as np
import pytest

from kernel_collector.nat import other_namespaces
from kernel_collector.nat.conntrack_messages import CONNECTION
from kernel_collector.nat.other_namespaces import MOST_READ_AGAIN, OtherNamespaces

OWN = 1000


class Ids:
    """Numbers of namespaces: an inode number less 1000."""

    own: int | None = None
    gone: frozenset[int] = frozenset()

    def of(self, inode):
        return inode - 1000

    def known(self, _inode):
        return self.own

    def ended(self):
        return self.gone

    def close(self):
        pass


class Opened:
    def __init__(self, path):
        self.inode = self.fd = OWN if "thread-self" in str(path) else OWN + int(path.parts[-3])

    def __enter__(self):
        return self

    def __exit__(self, *_):
        pass

    def close(self):
        pass


@pytest.fixture
def machine(monkeypatch, tmp_path):
    """Namespaces by inode number with a process in each, how often they were looked for, and what knows them."""

    class Machine:
        looks = 0
        now_ns = 10**12
        ids = Ids()

        def found(self, _proc):
            self.looks += 1
            self.now_ns += 10**7
            return self.processes

        def others(self):
            return OtherNamespaces(tmp_path)

    made = Machine()
    made.processes = {OWN: 0}
    monkeypatch.setattr(other_namespaces, "processes_by_network_namespace", made.found)
    monkeypatch.setattr(other_namespaces, "NetworkNamespace", Opened)
    monkeypatch.setattr(other_namespaces, "NamespaceIds", lambda: made.ids)
    monkeypatch.setattr(other_namespaces.time, "monotonic_ns", lambda: made.now_ns)
    monkeypatch.setattr(OtherNamespaces, "_dump", lambda _self, _namespace: np.zeros(1, CONNECTION))
    return made


def test_that_its_own_number_is_refused_leaves_the_others(machine, monkeypatch, caplog):
    def refused(_inode):
        raise PermissionError

    monkeypatch.setattr(machine.ids, "known", refused)
    machine.processes = {OWN: 0, OWN + 7: 7}
    assert machine.others().inode(7) == OWN + 7
    assert len(caplog.records) == 1


def test_it_looks_once_for_a_batch_and_a_fiftieth_of_the_time(machine):
    others = machine.others()
    others.seek(range(300))
    assert machine.looks == 2
    begin_ns = machine.now_ns
    for number in range(300, 10_000):
        others.seek([number])
        machine.now_ns += 10**7
    taken_ns = (machine.looks - 2) * 10**7
    assert taken_ns <= (machine.now_ns - begin_ns + other_namespaces._AHEAD_NS) / 50 + 10**7


def test_the_machines_own_number_is_its_own_and_never_ends(machine):
    machine.ids.own = 5
    others = machine.others()
    assert others.inode(5) == OWN
    machine.ids.gone = frozenset({5})
    assert others.ended() == []


def test_one_that_tracks_nothing_is_told_as_empty(machine, monkeypatch):
    machine.processes[OWN + 7] = 7
    monkeypatch.setattr(OtherNamespaces, "_tracks", lambda _self, _pid: False)
    assert [(dumped.inode, len(dumped.connections)) for dumped in machine.others().dumps()] == [(OWN + 7, 0)]


def test_what_is_still_due_is_read_first(machine):
    machine.processes |= {OWN + number: number for number in range(1, 11)}
    others = machine.others()
    assert len(list(others.dumps())) == 10
    read = []
    for _ in range(3):
        others.read_again()
        read += [dumped.inode for dumped in others.dumps()]
    assert len(read) == 3 * MOST_READ_AGAIN
    assert set(read) == set(machine.processes) - {OWN}
