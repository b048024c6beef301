from __future__ import annotations

import pytest

from daemon.errors import StartupError
from intake.labels import labelled_host, operator_labels


def test_labels_may_be_numbers_and_empty():
    assert operator_labels({"zone": 7, "service": None}, {}) == {"zone": "7"}


@pytest.mark.parametrize(
    ("labels", "environ", "message"),
    [
        ({"zome": "a"}, {}, "did you mean 'zone'"),
        ({"zone": "a" * 41}, {}, "41 characters"),
        ({}, {"EBPF_NET_AGENT_SERVICE": "a" * 41}, "41 characters"),
        (["zone"], {}, "must be a mapping"),
        ({}, {"EBPF_NET_AGENT_ZONE": "a\udcff"}, r"label zone: 'a\\udcff' is no text"),
    ],
)
def test_labels_that_are_refused(labels, environ, message):
    with pytest.raises(StartupError, match=message):
        operator_labels(labels, environ)


@pytest.mark.parametrize(
    ("labels", "environment"),
    [({}, ""), ({"cluster": "c"}, "c"), ({"environment": "e", "cluster": "c"}, "e")],
)
def test_the_cluster_is_the_environment_where_no_other_is_named(labels, environment):
    host = labelled_host("name", {"zone": "z", "namespace": "n"} | labels)
    assert (host.name, host.environment, host.namespace, host.zone) == ("name", environment, "n", "z")
