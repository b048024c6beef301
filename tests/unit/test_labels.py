from __future__ import annotations

import pytest

from daemon.errors import StartupError
from intake.labels import operator_labels


def test_labels_may_be_numbers_and_empty():
    assert operator_labels({"zone": 7, "service": None}, {}) == {"zone": "7"}


@pytest.mark.parametrize(
    ("labels", "environ", "message"),
    [
        ({"zome": "a"}, {}, "did you mean 'zone'"),
        ({"zone": "a" * 41}, {}, "41 characters"),
        ({}, {"EBPF_NET_AGENT_SERVICE": "a" * 41}, "41 characters"),
        (["zone"], {}, "must be a mapping"),
    ],
)
def test_labels_that_are_refused(labels, environ, message):
    with pytest.raises(StartupError, match=message):
        operator_labels(labels, environ)
