from __future__ import annotations

import contextlib
import os

import pytest

from tests.fuzz.packets import TARGETS
from tests.lab.network import Network

pytestmark = [
    pytest.mark.lab,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root, for network namespaces and BPF"),
]


@pytest.mark.parametrize("target", TARGETS)
def test_a_short_run(target):
    """`python -m tests.fuzz.packets` makes a long one."""
    with contextlib.closing(Network()) as network:
        outcome = TARGETS[target](network.centre, 4_000, 3)
    assert outcome["inputs"] >= 4_000
    for name, told in outcome.items():
        assert name == "packets cut" or told > 0, name
