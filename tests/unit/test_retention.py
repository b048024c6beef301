from __future__ import annotations

from k8s_collector.resources import PODS
from k8s_collector.retention import Key, Retention


def key(uid):
    return Key(PODS, uid)


def uids(keys):
    return [each.uid for each in keys]


def test_kept_until_its_time_is_over():
    retention = Retention(10, 100)
    retention.keep(key("a"), 0)
    retention.keep(key("b"), 5)
    retention.keep(key("a"), 9)  # deleted once
    assert uids(retention.expired(9)) == []
    assert uids(retention.expired(10)) == ["a"]
    assert uids(retention.expired(15)) == ["b"]
    assert len(retention) == 0


def test_what_is_there_again_does_not_expire():
    retention = Retention(10, 100)
    retention.keep(key("a"), 0)
    retention.forget(key("a"))
    assert uids(retention.expired(100)) == []


def test_beyond_the_capacity_the_oldest_goes_and_is_counted():
    retention = Retention(10, 2)
    for uid in "abcd":
        retention.keep(key(uid), 0)
    assert uids(retention.expired(1)) == ["a", "b"]
    assert retention.dropped == 2
