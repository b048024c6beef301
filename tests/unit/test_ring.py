"""What of a ring can be had without the kernel: records that its programs are still writing."""

from __future__ import annotations

import threading

import numpy as np
import pytest

from kernel_collector.bpf import ring as module
from kernel_collector.bpf.ring import Ring

SLOTS, SLOT_BYTES = 4, 16
BUSY = 1 << 31


@pytest.fixture
def ring():
    """A ring in which records wait, the second of which is being written."""
    made = Ring.__new__(Ring)
    made.size, made._slot_size = 4096, SLOT_BYTES
    made._consumed, made._produced = np.zeros(1, np.uint64), np.full(1, SLOTS * SLOT_BYTES, np.uint64)
    memory = np.zeros(SLOTS * SLOT_BYTES, np.uint8)
    made._mapped = lambda start, length: memory[start : start + length]
    made.heads = memory.view(np.uint32)[:: SLOT_BYTES // 4]
    made.heads[1] = BUSY | 8
    return made


def test_what_is_being_written_is_waited_for(ring):
    timer = threading.Timer(0.1, lambda: ring.heads.__setitem__(1, 8))
    timer.start()
    ring.settle()
    assert ring.heads[1] == 8
    timer.join()


def test_it_is_not_waited_for_for_ever(ring, monkeypatch):
    monkeypatch.setattr(module, "_SETTLE_S", 0.05)
    ring.settle()
    assert ring.heads[1] == BUSY | 8


def test_an_empty_ring_is_settled(ring):
    ring._produced[0] = 0
    ring.settle()
