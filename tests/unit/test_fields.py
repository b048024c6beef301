from __future__ import annotations

import pytest

from intake.clock import SECOND_NS
from k8s_collector.fields import MOST_ADDRESSES, packed, unix_ns


def test_addresses_are_16_bytes_each_once():
    v4, v6 = bytes(10) + b"\xff\xff\x0a\x00\x00\x01", bytes.fromhex("fd00") + bytes(13) + b"\x01"
    assert packed(["10.0.0.1", "fd00::1", "10.0.0.1", "None", "", None, "host"]) == [v4, v6]


def test_addresses_are_bounded():
    assert len(packed(f"10.0.0.{i}" for i in range(200))) == MOST_ADDRESSES


@pytest.mark.parametrize("text", ["1970-01-01T00:01:00Z", "1970-01-01T00:01:00.999Z", "1970-01-01T01:01:00+01:00"])
def test_times_are_whole_seconds(text):
    assert unix_ns(text) == 60 * SECOND_NS


def test_no_time():
    assert unix_ns(None) == 0
