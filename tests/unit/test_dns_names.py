import numpy as np
from ebpf_net.v1 import intake_pb2
from hypothesis import given
from hypothesis import strategies as st

from reducer.knowledge import dns_names as module
from reducer.knowledge.dns_names import DnsNames
from reducer.knowledge.timeline import place_of
from tests.flow_rows import connector_row
from tests.named_flows import (
    CLIENT_SESSION,
    PUBLIC,
    SERVER_SESSION,
    Case,
    dns,
    sent,
)
from tests.rows import packed


def answer(name, *addresses):
    return intake_pb2.DnsName(name=name, addresses=map(packed, addresses))


def places(*addresses):
    return place_of(np.frombuffer(b"".join(map(packed, addresses)), np.uint64).reshape(-1, 2))


def found(names, *addresses, at=100, scope=1):
    numbers = names.find(
        places(*addresses), np.full(len(addresses), scope, np.uint64), np.full(len(addresses), at, np.int64)
    )
    return [names.names[number] and names.names[number].name for number in numbers.tolist()]


def known(*answers):
    """Return what is known after answers as (scope, time, name, addresses…)."""
    names = DnsNames()
    for scope, time, *told in answers:
        names.learn(scope, [answer(*told)], time)
    names.begin_window(names.take())
    return names


def test_each_session_has_names_of_its_own():
    names = known((1, 5, "a.example", "10.0.0.1", "fd00::1"), (2, 5, "b.example", "10.0.0.1"))
    assert found(names, "10.0.0.1", "fd00::1", "10.0.0.2") == ["a.example", "a.example", None]
    assert found(names, "10.0.0.1", "fd00::1", scope=2) == ["b.example", None]
    assert found(DnsNames(), "10.0.0.1") == [None]


def test_a_name_holds_from_its_answer_to_that_of_another():
    names = known((1, 5, "a.example", "10.0.0.1"), (1, 9, "b.example", "10.0.0.1"), (1, 7, "a.example", "10.0.0.1"))
    assert [found(names, "10.0.0.1", at=time)[0] for time in (1, 5, 8, 9, 20)] == [
        *("a.example", "a.example", "a.example"),
        *("b.example", "b.example"),
    ]
    assert len(names) == 2


def test_answers_without_a_name_or_address_are_nothing():
    names = known((1, 5, "", "10.0.0.1"), (1, 5, "a.example"))
    assert len(names) == 0


def test_an_address_with_ever_other_names_takes_no_room():
    names = known(*((1, time, f"n{time}.example", "10.0.0.1") for time in range(1000)))
    assert len(names) == module.MOST_OF_ADDRESS
    assert found(names, "10.0.0.1", at=2000) == ["n999.example"]


def test_what_was_used_last_stays(monkeypatch):
    monkeypatch.setattr(module, "MOST_OF_SESSION", 10)
    names = known(*((1, 5, f"n{index}.example", f"10.0.0.{index}") for index in range(10)))
    names.learn(2, [answer("other.example", "10.0.0.1")], 5)
    names.begin_window(names.take())
    assert found(names, *(f"10.0.0.{index}" for index in range(5))) == [f"n{index}.example" for index in range(5)]
    generation = names.generation
    names.learn(1, [answer("more.example", "10.0.1.1", "10.0.1.2", "10.0.1.3")], 5)
    names.begin_window(names.take())
    assert names.generation > generation
    assert found(names, *(f"10.0.0.{index}" for index in range(5))) == [f"n{index}.example" for index in range(5)]
    assert found(names, "10.0.1.1", "10.0.1.3") == ["more.example"] * 2
    assert found(names, *(f"10.0.0.{index}" for index in range(5, 10))).count(None) >= 3
    assert found(names, "10.0.0.1", scope=2) == ["other.example"]


def test_all_sessions_together_are_limited(monkeypatch):
    monkeypatch.setattr(module, "MOST_ROWS", 100)
    names = DnsNames()
    for scope in range(300):
        names.learn(scope, [answer(f"n{scope}.example", "10.0.0.1")], 5)
        names.begin_window(names.take())
    assert 85 <= len(names) <= 100
    assert len(names.names) < 310
    assert found(names, "10.0.0.1", scope=299) == ["n299.example"]
    names.learn(1, [answer("n.example", *(f"10.0.0.{index}" for index in range(101)))], 5)
    assert (names.refused, names.take()) == (101, [])


@given(st.lists(st.tuples(st.integers(1, 2), st.integers(0, 9), st.sampled_from("abc"), st.integers(1, 3))), st.data())
def test_how_answers_come_means_nothing(answers, data):
    """Neither their order within a window, nor how windows split them, nor that some come again."""
    told = [(scope, time, name, f"10.0.0.{address}") for scope, time, name, address in answers]
    told = list({(scope, time, address): each for each in told for scope, time, _, address in [each]}.values())
    whole = known(*told)
    parts = DnsNames()
    cut = data.draw(st.integers(0, 10))
    for window in ([each for each in told if each[1] < cut], [each for each in told if each[1] >= cut]):
        for scope, time, *each in data.draw(st.permutations(window)) + window[:3]:
            parts.learn(scope, [answer(*each)], time)
        parts.begin_window(parts.take())
    for scope in (1, 2):
        for time in range(11):
            asked = [f"10.0.0.{address}" for address in (1, 2, 3)]
            assert found(parts, *asked, at=time, scope=scope) == found(whole, *asked, at=time, scope=scope)


def test_names_of_the_dns_name_what_was_resolved_on_that_machine():
    case = Case()
    case.feed.session(SERVER_SESSION, "curl")
    case.tell(CLIENT_SESSION, **dns("api.example.com", PUBLIC, "2606:2800::1"))
    case.tell(SERVER_SESSION, **dns("other.example.com", PUBLIC))
    case.dials(PUBLIC)
    case.feed.take(SERVER_SESSION, 6, connector_row(local_address="10.0.0.3", remote_address=PUBLIC, bytes_sent=9))
    window = case.feed.seal()
    (labels,), (of_other,) = sent(window).values(), sent(window, "curl").values()
    assert labels == {
        "workload.name": "api.example.com",
        "resolution_type": "DNS",
        "availability_zone": "(unknown)",
        "environment": "(no agent)",
        "id": PUBLIC,
        "ip": PUBLIC,
    }
    assert of_other["workload.name"] == "other.example.com"
    assert case.unknown() == {}


def test_a_name_of_the_dns_is_that_of_the_time_when_the_flow_began():
    case = Case()
    case.tell(CLIENT_SESSION, at_s=2, **dns("a.example.com", PUBLIC))
    case.dials(PUBLIC, at_s=5, bytes_sent=1)
    case.tell(CLIENT_SESSION, at_s=10, **dns("b.example.com", PUBLIC))
    case.dials(PUBLIC, at_s=15, bytes_sent=2, local_port=2, socket=2)
    assert {moved: labels["workload.name"] for moved, labels in case.seal().items()} == {
        1: "a.example.com",
        2: "b.example.com",
    }
    case.tell(CLIENT_SESSION, at_s=40, **dns("c.example.com", PUBLIC))
    case.dials(PUBLIC, at_s=45, opened=0, bytes_sent=3)
    assert [labels["workload.name"] for labels in case.seal(1).values()] == ["a.example.com"]


def test_a_name_that_one_poll_told_with_the_connections_is_theirs():
    case = Case()
    case.tell(CLIENT_SESSION, at_s=2, **dns("a.example.com", PUBLIC))
    case.dials(PUBLIC, at_s=5, bytes_sent=1, age_ms=2_000)
    case.tell(CLIENT_SESSION, at_s=10, **dns("b.example.com", PUBLIC))
    case.dials(PUBLIC, at_s=10, bytes_sent=2, local_port=2, socket=2, age_ms=4_000)
    assert {moved: labels["workload.name"] for moved, labels in case.seal().items()} == {
        1: "a.example.com",
        2: "b.example.com",
    }


def test_a_name_that_comes_after_the_flow_names_it_while_the_window_is_open():
    case = Case()
    case.dials(PUBLIC)
    case.tell(CLIENT_SESSION, at_s=10, **dns("a.example.com", PUBLIC))
    assert [labels["workload.name"] for labels in case.seal().values()] == ["a.example.com"]
