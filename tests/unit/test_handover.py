"""A pod's address that becomes another's: whose the flows are."""

import pytest

from intake.clock import SECOND_NS
from tests.flow_rows import acceptor_row, series_of
from tests.named_flows import (
    POD,
    SERVER_SESSION,
    Case,
    pod,
    seconds,
    sent,
)


def test_an_address_that_was_given_to_another_pod_names_each_flow_by_its_time():
    case = Case()
    case.tell(pods=[pod("a", POD, **seconds(start=1))])
    case.dials(POD, at_s=5, local_port=1, bytes_sent=1)
    case.dials(POD, at_s=25, local_port=2, bytes_sent=2, socket=2)
    case.tell(at_s=28, pods=[pod("a", POD, **seconds(start=1, end=10)), pod("b", POD, **seconds(start=12))])
    named = {moved: labels["workload.name"] for moved, labels in case.seal().items()}
    assert named == {1: "a-app", 2: "b-app"}


def test_a_connection_stays_with_the_pod_that_it_was_made_with():
    case = Case()
    case.tell(pods=[pod("a", POD)])
    case.dials(POD, at_s=5)
    assert [labels["workload.name"] for labels in case.seal().values()] == ["a-app"]
    case.tell(at_s=40, retired_pods=["uid-a"], pods=[pod("b", POD, **seconds(start=41))])
    case.dials(POD, at_s=50, opened=0)
    case.dials(POD, at_s=51, local_port=2, socket=2, bytes_sent=2)
    assert {moved: labels["workload.name"] for moved, labels in case.seal(1).items()} == {7: "a-app", 2: "b-app"}
    case.dials(POD, at_s=70, socket=3)  # the same ports, by another socket
    assert [labels["workload.name"] for labels in case.seal(2).values()] == ["b-app"]


@pytest.mark.parametrize(("age_ms", "workload"), [(3_500, "old-app"), (1_500, "new-app"), (0, "new-app")])
@pytest.mark.parametrize("what", [{"opened": 1}, {"opened": 0, "failed": 1}], ids=["opened", "failed"])
def test_a_connection_is_with_who_had_the_address_when_it_was_made_within_a_poll(age_ms, workload, what):
    case = Case()
    case.tell(pods=[pod("old", POD, start_time_unix_ns=SECOND_NS, end_time_unix_ns=3 * SECOND_NS)])
    case.tell(pods=[pod("new", POD, start_time_unix_ns=3 * SECOND_NS)])
    case.dials(POD, at_s=5, age_ms=age_ms, **what)
    assert case.seal()[7]["workload.name"] == workload


def test_datagrams_go_to_who_has_the_address():
    case = Case()
    case.tell(pods=[pod("a", POD)])
    case.dials(POD, at_s=5, udp=True)
    assert [labels["workload.name"] for labels in case.seal().values()] == ["a-app"]
    case.tell(at_s=31, retired_pods=["uid-a"], pods=[pod("b", POD, **seconds(start=32))])
    case.dials(POD, at_s=50, udp=True)
    assert [labels["workload.name"] for labels in case.seal(1).values()] == ["b-app"]


def test_datagrams_of_a_socket_that_is_closed_went_to_who_had_the_address():
    case = Case()
    case.tell(pods=[pod("a", POD, **seconds(start=1))])
    case.dials(POD, at_s=5, udp=True)
    case.tell(at_s=28, pods=[pod("a", POD, **seconds(start=1, end=10)), pod("b", POD, **seconds(start=12))])
    assert [labels["workload.name"] for labels in case.seal().values()] == ["a-app"]


def handed_on(case):
    """Let a pod's address be another's from 12 s on."""
    case.tell(at_s=28, pods=[pod("a", POD, **seconds(start=1, end=10)), pod("b", POD, **seconds(start=12))])


def test_ports_used_again_to_an_address_that_was_handed_on_are_two_flows():
    case = Case()
    case.dials(POD, at_s=5, bytes_sent=5, bytes_received=50, closed=1)
    case.dials(POD, at_s=6, bytes_sent=1, opened=0)
    case.dials(POD, at_s=20, bytes_sent=7, bytes_received=70, socket=2)
    handed_on(case)
    window = case.feed.seal()
    assert {moved: labels["workload.name"] for moved, labels in sent(window).items()} == {6: "a-app", 7: "b-app"}
    assert sent(window).keys() == {6, 7}
    back = series_of(window, 1, label="pod")
    assert {source: values["bytes"] for (source, _), values in back.items() if source} == {"a": 50, "b": 70}
    forward = {dest: values for (source, dest), values in back.items() if dest}
    assert {dest: (values["opened"], values.get("closed"), values["active"]) for dest, values in forward.items()} == {
        "a": (1, 1, 1),
        "b": (1, None, 1),
    }


def test_datagrams_of_one_socket_are_each_with_who_had_the_address():
    case = Case()
    for at_s, moved in ((3, 1), (8, 2), (15, 4), (20, 8)):
        case.dials(POD, at_s=at_s, udp=True, bytes_sent=moved, packets_sent=1, bytes_received=10 * moved)
    handed_on(case)
    window = case.feed.seal()
    assert {moved: labels["workload.name"] for moved, labels in sent(window).items()} == {3: "a-app", 12: "b-app"}
    assert sum(window.levels[0].values["udp_bytes"]) == 11 * 15
    assert sum(window.levels[0].values["udp_packets"]) == 4


def test_a_connection_to_an_address_that_was_handed_on_stays_one_flow():
    case = Case()
    for at_s in (5, 15, 25):
        case.dials(POD, at_s=at_s, opened=int(at_s == 5), bytes_sent=1)
    handed_on(case)
    assert {moved: labels["workload.name"] for moved, labels in case.seal().items()} == {3: "a-app"}
    case.dials(POD, at_s=35, opened=0, bytes_sent=1)
    assert {moved: labels["workload.name"] for moved, labels in case.seal(1).items()} == {1: "a-app"}


def test_what_both_ends_tell_of_is_not_split():
    case = Case()
    case.feed.session(SERVER_SESSION, "-", "nginx")
    for at_s in (5, 20):
        case.dials(POD, at_s=at_s, bytes_sent=5)
        case.feed.take(SERVER_SESSION, at_s, acceptor_row(local_address=POD, bytes_received=5))
    handed_on(case)
    assert sum(case.feed.seal(heard=(0, 1)).levels[0].values["bytes"]) == 10
