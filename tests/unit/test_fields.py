from __future__ import annotations

import pytest

from intake.clock import SECOND_NS
from k8s_collector.fields import unix_ns


@pytest.mark.parametrize("text", ["1970-01-01T00:01:00Z", "1970-01-01T00:01:00.999Z", "1970-01-01T01:01:00+01:00"])
def test_times_are_whole_seconds(text):
    assert unix_ns(text) == 60 * SECOND_NS


def test_no_time():
    assert unix_ns(None) == 0
