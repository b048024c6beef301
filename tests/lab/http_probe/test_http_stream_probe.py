"""The HTTP probe alone: where in a stream heads begin, whatever bodies hold, and packets do."""

from __future__ import annotations

import time

import pytest

from tests.lab.http_connection import CHUNKED, GET, NO_CONTENT, OK, Told, both, sent_again
from tests.lab.waiting import wait_until


@pytest.mark.parametrize("size", [1, 3, 5, 11, 12, 13, 20])
def test_heads_split_over_packets(probe, connection, size):
    connection.ask(*(GET[at : at + size] for at in range(0, len(GET), size)))
    connection.answer(*(OK[at : at + size] for at in range(0, len(OK), size)))
    connection.ask(GET)
    connection.answer(NO_CONTENT)
    assert both(probe, connection) == Told(2, {200: 1, 204: 1}, 2)
    assert probe.grown("heads_unknown") == 0


def test_what_bodies_hold_does_not_count(probe, connection):
    head = b"POST /x HTTP/1.1\r\nHost: a\r\ncontent-length: %d\r\n\r\n" % (2 * len(GET))
    connection.ask(head, GET, GET)
    connection.answer(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % (2 * len(OK)), OK, OK)
    connection.ask(head + GET, GET)
    connection.answer(CHUNKED, b"29\r\n", OK + b"\r\n", b"0\r\n\r\n")
    connection.ask(
        b"PUT /x HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n", b"1b\r\n", GET, b"\r\n0\r\n\r\n"
    )
    connection.answer(OK)
    connection.ask(GET)
    connection.answer(OK)
    assert both(probe, connection) == Told(4, {200: 4}, 4)
    assert probe.grown("heads_unknown") == 0


def test_informational_responses_are_none(probe, connection):
    connection.ask(b"POST / HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 3\r\n\r\n")
    connection.answer(b"HTTP/1.1 100 Continue\r\n\r\n")
    connection.ask(b"abc")
    connection.answer(b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n" + OK)
    assert both(probe, connection) == Told(1, {200: 1}, 1)
    connection.ask(GET)
    connection.answer(OK)
    assert both(probe, connection) == Told(1, {200: 1}, 1)


def test_responses_that_nobody_asked_for_do_not_count(probe, connection):
    connection.ask(GET)
    connection.answer(OK + OK)
    connection.ask(GET + GET)
    connection.answer(OK + OK + OK)
    connection.answer(OK)
    assert both(probe, connection) == Told(3, {200: 3}, 3)


def test_a_body_that_the_server_does_not_want(probe, connection):
    head = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 9\r\nExpect: 100-continue\r\n\r\n"
    for _ in range(3):
        connection.ask(head)
        connection.answer(b"HTTP/1.1 417 no\r\nContent-Length: 0\r\n\r\n")
        connection.ask(GET)
        connection.answer(OK)
        connection.ask(head)
        connection.answer(b"HTTP/1.1 100 Continue\r\n\r\n")
        connection.ask(b"GET / HTTP"[:9])
        connection.answer(OK)
    assert both(probe, connection) == Told(9, {200: 6, 417: 3}, 9)


def test_empty_lines_before_requests(probe, connection):
    """RFC 9112, 2.2: some clients send one behind the body of a request; whether in its packet or the next."""
    post = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc"
    for parts in ((post,), (b"\r\n" + GET,), (post, b"\r\n"), (b"\r\n" + post + b"\r\n",), (GET,)):
        connection.ask(*parts)
        connection.answer(OK)
    connection.ask(post + b"\r\n" + GET)
    connection.answer(OK + OK)
    assert both(probe, connection) == Told(7, {200: 7}, 7)


def test_long_heads(probe, connection):
    long = b"GET /%s HTTP/1.1\r\nHost: a\r\nCookie: %s\r\n\r\n" % (b"x" * 3000, b"y" * 5000)
    for parts in ((long,), (long[:1000], long[1000:]), (long + GET,)):
        connection.ask(*parts)
        connection.answer(OK)
    connection.answer(OK)
    assert both(probe, connection) == Told(4, {200: 4}, 4)


def test_what_is_lost_and_sent_again_counts_once(host, probe, connection):
    rules = f"tcp dport {connection.server.getsockname()[1]} drop"
    host.firewall("loss", input_rules=rules)
    connection.client.sendall(GET)
    wait_until(lambda: sent_again(connection.client) > 0, 60, "it to be sent again")
    host.firewall("loss")
    assert connection.server.recv(100) == GET
    host.firewall("loss", input_rules=f"tcp sport {connection.server.getsockname()[1]} drop")
    connection.server.sendall(OK)
    wait_until(lambda: sent_again(connection.server) > 0, 60, "it to be sent again")
    host.firewall("loss")
    assert connection.client.recv(100) == OK
    assert both(probe, connection) == Told(1, {200: 1}, 1)


def test_a_response_whose_head_is_lost_first(host, probe, connection):
    """The body arrives before the head, which is sent again."""
    connection.ask(GET)
    port = connection.server.getsockname()[1]
    head, body = b"HTTP/1.1 200 OK\r\nContent-Length: 3000\r\n\r\n", b"x" * 3000
    # The first bytes of the payload, after a TCP header with time stamps.
    host.firewall("loss", input_rules=f"tcp sport {port} @th,256,32 0x48545450 drop")
    connection.server.sendall(head)
    connection.server.sendall(body)
    time.sleep(0.1)
    host.firewall("loss")
    read = 0
    while read < len(head + body):
        read += len(connection.client.recv(10_000))
    assert sent_again(connection.server)
    connection.ask(GET)
    connection.answer(OK)
    assert both(probe, connection) == Told(2, {200: 2}, 2)


def test_a_request_body_with_a_gap(host, probe, connection):
    head = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 9000\r\n\r\n"
    connection.ask(head)
    host.firewall("loss", input_rules=f"tcp dport {connection.server.getsockname()[1]} @th,256,32 0x78787878 drop")
    connection.client.sendall(b"x" * 4000)
    connection.client.sendall(b"y" * 5000)
    time.sleep(0.1)
    host.firewall("loss")
    read = 0
    while read < 9000:
        read += len(connection.server.recv(10_000))
    assert sent_again(connection.client)
    connection.answer(OK)
    connection.ask(GET)
    connection.answer(OK)
    assert both(probe, connection) == Told(2, {200: 2}, 2)
    assert probe.grown("heads_unknown") == 0


def test_early_answers_and_requests_with_unexpected_bodies(probe, connection):
    connection.ask(b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 6000\r\n\r\n", b"x" * 3000)
    connection.answer(b"HTTP/1.1 413 Too Large\r\nContent-Length: 0\r\n\r\n")
    connection.ask(b"x" * 3000, GET)
    connection.answer(OK)
    connection.ask(b"GET /search HTTP/1.1\r\nHost: a\r\nContent-Length: 8\r\n\r\n", b'{"a": 1}')
    connection.answer(OK)
    connection.ask(GET)
    connection.answer(OK)
    assert both(probe, connection) == Told(4, {413: 1, 200: 3}, 4)
