from __future__ import annotations

import pytest

from reducer.outputs.expositions import OPENMETRICS, PROTOBUF, TEXT, negotiated

MESSAGE = "application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;encoding=delimited"


@pytest.mark.parametrize(
    ("accept", "expected"),
    [
        ("", TEXT),
        ("*/*", TEXT),
        ("text/html", TEXT),
        ("application/openmetrics-text; version=1.0.0; q=0.5,text/plain;q=0.4", OPENMETRICS),
        ("text/plain;version=0.0.4;q=0.5,application/openmetrics-text;q=0.4", TEXT),
        ("application/openmetrics-text;q=0", TEXT),
        ("application/openmetrics-text;q=many", TEXT),
        ("text/plain;Q=0.1,application/openmetrics-text; q =0.9", OPENMETRICS),
        ('application/vnd.google.protobuf;Proto="io.prometheus.client.MetricFamily";encoding="delimited"', PROTOBUF),
        # Prometheus with native histograms, 2.42 and 3.
        (f"{MESSAGE},application/openmetrics-text;version=1.0.0;q=0.8,text/plain;q=0.5,*/*;q=0.1", PROTOBUF),
        (f"{MESSAGE};q=0.6,application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.5", PROTOBUF),
        ("application/vnd.google.protobuf;proto=io.prometheus.client.MetricFamily;encoding=text;q=0.7", TEXT),
    ],
)
def test_the_format_that_is_preferred(accept, expected):
    assert negotiated(accept) is expected
