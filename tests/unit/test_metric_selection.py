import pytest

from reducer.outputs.metric_selection import chosen_metrics, own_metrics_chosen
from reducer.outputs.metrics import ENABLED_METRICS, METRICS

DEFAULT = {metric.name for metric in ENABLED_METRICS}
BY_GROUP = {group: {m.name for m in METRICS if m.group == group} for group in ("tcp", "udp", "dns", "http", "drops")}


def chosen(disable: str = "", enable: str = "", *, percentiles: bool = False) -> set[str]:
    return {metric.name for metric in chosen_metrics(disable, enable, percentiles=percentiles)}


@pytest.mark.parametrize(
    ("disable", "enable", "expected"),
    [
        ("", "", DEFAULT),
        ("none", "", DEFAULT),
        (" NONE ", "http.responses", DEFAULT | {"http.responses"}),
        ("tcp.bytes", "", DEFAULT - {"tcp.bytes"}),
        (" TCP.Bytes , udp.all,, ", "", DEFAULT - {"tcp.bytes"} - BY_GROUP["udp"]),
        ("tcp.all", "tcp.rtt.num_measurements", DEFAULT - BY_GROUP["tcp"] | {"tcp.rtt.num_measurements"}),
        ("tcp.bytes", "tcp.all", DEFAULT | BY_GROUP["tcp"]),
        ("zone.all,drops.all,dns.all,http.all,udp.all,tcp.all", "", set()),
    ],
)
def test_lists(disable: str, enable: str, expected: set[str]) -> None:
    assert chosen(disable, enable) == expected


def test_percentiles_are_given_where_asked_for_but_may_be_disabled() -> None:
    percentiles = chosen(percentiles=True) - DEFAULT
    assert len(percentiles) == 15
    assert chosen("dns.all", percentiles=True) == (DEFAULT | percentiles) - BY_GROUP["dns"]


def test_order_is_the_tables() -> None:
    assert [m.name for m in chosen_metrics("", "http.responses,tcp.all", percentiles=True)] == [m.name for m in METRICS]


@pytest.mark.parametrize(
    ("disable", "enable", "given"),
    [
        ("", "", ("up", "connections")),
        ("none", "", ("up", "connections")),
        ("tcp.all,EBPF_net.up", "", ("connections",)),
        (" ebpf_net.all ", "", ()),
        ("ebpf_net.all", "ebpf_net.up", ("up",)),
        ("ebpf_net.up,ebpf_net.connections", "ebpf_net.all", ("up", "connections")),
    ],
)
def test_the_reducers_own_metrics_are_named_in_the_same_lists(
    disable: str, enable: str, given: tuple[str, ...], caplog: pytest.LogCaptureFixture
) -> None:
    wanted = own_metrics_chosen(disable, enable)
    assert tuple(name for name in ("up", "connections") if wanted(f"ebpf_net.{name}")) == given
    chosen(disable, enable)
    assert not caplog.messages


def test_names_in_vain_are_logged(caplog: pytest.LogCaptureFixture) -> None:
    assert chosen("tcp.syn.timeouts,ebpf_net.message", "bogus") == DEFAULT
    assert caplog.messages == [
        "--disable-metrics names tcp.syn.timeouts, which is no metric: is tcp.syn_timeouts meant?",
        "--enable-metrics names bogus, which is no metric",
    ]
