from __future__ import annotations

from k8s_collector.claims import Claims

A, B = b"a" * 16, b"b" * 16


def test_the_one_that_started_last_has_it():
    claims = Claims()
    assert claims.put("old", [A], 10) == set()
    assert claims.superseded_ns("old", [A]) == 0
    assert claims.put("new", [A, B], 20) == {"old"}
    assert (claims.superseded_ns("old", [A]), claims.superseded_ns("new", [A, B])) == (20, 0)


def test_whatever_the_order_in_which_they_come():
    claims = Claims()
    claims.put("new", [A], 20)
    assert claims.put("old", [A], 10) == {"new"}
    assert (claims.superseded_ns("old", [A]), claims.superseded_ns("new", [A])) == (20, 0)


def test_one_that_starts_later_than_it_said():
    claims = Claims()
    claims.put("old", [A], 10)
    claims.put("new", [A], 12)
    claims.put("new", [A], 15)
    assert claims.superseded_ns("old", [A]) == 15


def test_one_that_is_dropped_gives_it_back():
    claims = Claims()
    claims.put("old", [A], 10)
    claims.put("new", [A], 20)
    assert claims.drop("new", [A]) == {"old"}
    assert claims.superseded_ns("old", [A]) == 0
    assert claims.drop("old", [A]) == set()
    assert claims._claims == {}
