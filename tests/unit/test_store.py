from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from reducer.outputs.disk_store import DiskStore
from reducer.outputs.request import Request, Signal
from reducer.outputs.store import MemoryStore, Store, WindowExport

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

A, B = b"a" * 16, b"b" * 16


def window(number: int, *bodies: bytes, **acknowledge: int) -> WindowExport:
    sessions = {name.encode() * 16: value for name, value in acknowledge.items()}
    return WindowExport(number * 30, [Request(len(body), body) for body in bodies], sessions, b"state %d" % number)


@pytest.fixture(params=["memory", "disk"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Store]:
    store: Store = MemoryStore(100) if request.param == "memory" else DiskStore(tmp_path, 100)
    yield store
    store.close()


def deliver(store: Store) -> tuple[bytes, dict[bytes, int]]:
    request = store.next()
    assert request is not None
    return request.body, store.done(request.id)


def test_requests_keep_their_signal(store: Store) -> None:
    store.put(WindowExport(30, [Request(1, b"a"), Request(2, b"b", Signal.LOGS)]))
    signals = []
    while request := store.next():
        signals.append((request.body, request.signal))
        store.done(request.id)
    assert signals == [(b"a", Signal.METRICS), (b"b", Signal.LOGS)]


def test_requests_come_in_order_and_stay_until_done(store: Store) -> None:
    store.put(window(1, b"1", b"22"))
    store.put(window(2, b"333"))
    assert store.next() == store.next()
    assert [deliver(store)[0] for _ in range(3)] == [b"1", b"22", b"333"]
    assert store.next() is None


def test_memory_is_safe_when_exported_disk_when_written(store: Store) -> None:
    at_put = [store.put(window(1, b"1", b"2", a=5)), store.put(window(2, a=6, b=1)), store.put(window(3, b"3", b=2))]
    at_done = [deliver(store)[1] for _ in range(3)]
    if isinstance(store, MemoryStore):
        assert at_put == [{}, {}, {}]
        # The second window has no requests: it is exported when the first one is.
        assert at_done == [{}, {A: 6, B: 1}, {B: 2}]
    else:
        assert at_put == [{A: 5}, {A: 6, B: 1}, {B: 2}]
        assert at_done == [{}, {}, {}]


def test_nothing_to_export_is_safe_at_once(store: Store) -> None:
    assert store.put(window(1, a=7)) == {A: 7}
    assert store.statistics().requests == 0


def test_oldest_window_is_dropped_when_full(store: Store, caplog: pytest.LogCaptureFixture) -> None:
    store.put(window(1, b"1" * 40, b"2" * 10, a=1))
    on_its_way = store.next()
    assert on_its_way is not None
    safe = store.put(window(2, b"3" * 60, a=2))
    assert "50 points of the window that ended" in caplog.text
    # Its collectors need not keep what cannot be exported any more.
    assert safe == ({A: 1} if isinstance(store, MemoryStore) else {A: 2})
    statistics = store.statistics()
    assert (statistics.windows_dropped, statistics.points_dropped) == (1, 50)
    assert (statistics.requests, statistics.bytes) == (1, 60)
    # Its first request arrives all the same: that removes nothing else.
    store.done(on_its_way.id)
    assert deliver(store)[0] == b"3" * 60


def test_window_larger_than_the_queue(store: Store) -> None:
    store.put(window(1, b"1" * 101, a=1))
    assert store.next() is None
    assert store.statistics().points_dropped == 101
    assert store.statistics().bytes == 0
    store.put(window(2, b"2", a=2))
    assert deliver(store)[0] == b"2"


def test_statistics_follow(store: Store) -> None:
    store.put(window(1, b"1", b"22"))
    assert (store.statistics().requests, store.statistics().bytes) == (2, 3)
    deliver(store)
    assert (store.statistics().requests, store.statistics().bytes) == (1, 2)


def test_what_ends_with_the_process_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    store = MemoryStore()
    logs = Request(2, b"l", Signal.LOGS)
    store.put(WindowExport(30, [Request(3, b"1"), logs], {A: 1}))
    store.put(WindowExport(60, [Request(4, b"2"), logs], {A: 2}))
    assert deliver(store)[0] == b"1"
    store.close()
    assert "4 log records and 4 points of 2 windows could not be sent before the end and are lost" in caplog.text
    assert "--data-dir keeps them" in caplog.text
    assert store.statistics().requests == 0
