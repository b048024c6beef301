from __future__ import annotations

import pytest

from tests.fuzz.kernel_inputs import TARGETS, run


@pytest.mark.parametrize("target", TARGETS)
def test_a_short_run(target):
    """`python -m tests.fuzz.kernel_inputs` makes a long one."""
    outcome = run(target, 3_000, seed=3)
    assert outcome.total() == 3_000
    assert outcome["taken"] > 100
    assert target == "sockets" or outcome["refused"] > 100
