"""The HTTP probe alone: requests that do not wait for the response to the one before."""

from __future__ import annotations

import time

from tests.lab.http_connection import CHUNKED, GET, NO_CONTENT, OK, PIPELINED, Told, both, tables


def test_pipelining_in_one_packet(probe, connection):
    connection.ask(GET * 5)
    connection.answer(OK + OK, OK, CHUNKED + b"1\r\na\r\n0\r\n\r\n" + NO_CONTENT)
    assert both(probe, connection) == Told(5, {200: 4, 204: 1}, 5)
    head = b"HEAD / HTTP/1.1\r\nHost: a\r\n\r\n"
    post = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\n\r\n" + GET + b"x" * (100 - len(GET))
    connection.ask(head + GET + post + GET)
    long = b"HTTP/1.1 201 Created\r\nContent-Length: 3000\r\n\r\n" + OK + b"x" * (3000 - len(OK))
    not_modified = b"HTTP/1.1 304 Not Modified\r\nContent-Length: 500\r\n\r\n"
    connection.answer(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n" + not_modified + long[:100], long[100:] + OK)
    assert both(probe, connection) == Told(4, {200: 2, 304: 1, 201: 1}, 4)
    assert probe.grown("heads_unknown") == probe.grown("packets_cut") == 0


def test_pipelined_one_after_the_other(probe, connection):
    connection.ask(GET, GET, GET)
    connection.answer(OK)
    connection.ask(GET)
    connection.answer(OK, CHUNKED, b"1\r\n", b"a\r\n", b"0\r\n\r\n", OK)
    assert both(probe, connection) == Told(4, {200: 4}, 4)
    connection.ask(GET)
    connection.answer(OK)
    assert both(probe, connection) == Told(1, {200: 1}, 1)
    assert probe.grown("heads_unknown") == 0


def test_pipelined_responses_split_anywhere(probe, connection):
    posted = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % len(GET)
    asked = GET + posted + GET + GET  # the second GET is a body
    answered = OK + CHUNKED + b"1\r\na\r\n0\r\n\r\n" + OK
    connection.ask(GET * 2)  # from here on it is known to pipeline
    connection.answer(OK * 2)
    assert both(probe, connection) == Told(2, {200: 2}, 2)
    for at in range(1, len(answered)):
        connection.ask(asked)
        connection.answer(answered[:at], answered[at:])
        assert both(probe, connection) == Told(3, {200: 3}, 3), at
    for at in range(1, len(asked)):
        connection.ask(asked[:at], asked[at:])
        connection.answer(answered)
        assert both(probe, connection) == Told(3, {200: 3}, 3), at
    assert probe.grown("heads_unknown") == 0


def test_beyond_the_bound_all_is_counted_and_some_not_timed(probe, connection):
    connection.ask(GET * 100)
    connection.answer(OK * 60, OK * 40)
    assert both(probe, connection) == Told(100, {200: 100}, PIPELINED)
    assert probe.grown("requests_untimed") == 2 * (100 - PIPELINED)
    connection.ask(GET)
    connection.answer(OK)
    assert both(probe, connection) == Told(1, {200: 1}, 1)
    assert probe.grown("packets_cut") == 0


def test_latencies_of_pipelined_requests_are_matched_in_order(probe, connection):
    began = []
    for _ in range(3):
        began.append(time.monotonic())
        connection.ask(GET)
        time.sleep(0.05)
    connection.answer(OK, OK, OK)
    at_most_ms = 1e3 * sum(time.monotonic() - asked for asked in began)
    found = tables(probe)["http"]["latency_sum_us"] / 1e3
    assert ((found > 300) & (found < at_most_ms)).all()  # 150 + 100 + 50 ms, and more on a busy machine
