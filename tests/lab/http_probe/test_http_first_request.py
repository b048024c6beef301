"""The HTTP probe alone: the first request of a socket, which has a place in a table, and what leads on from there."""

from __future__ import annotations

import contextlib
import socket
import struct
import time

import pytest

from kernel_collector.bpf.libbpf import ITERATOR_READ_BYTES
from tests.lab.http_connection import GET, NO_CONTENT, OK, Connection, Told, both, opened_probe, sent_again, told
from tests.lab.sockets import cookie

PLACES_BITS = 12
SPREAD = 0x9E3779B97F4A7C15
MOST_COOKIES = 1 << 18
HEAD = b"HEAD / HTTP/1.1\r\nHost: a\r\n\r\n"


def place(number):
    return (number * SPREAD % (1 << 64)) >> (64 - PLACES_BITS)


def socket_with_place(host, number):
    """Return a new socket whose cookie leads to the place *number*."""
    with host.entered():
        for _ in range(MOST_COOKIES):
            opened = socket.socket()
            if place(cookie(opened)) == number:
                return opened
            opened.close()
    raise AssertionError(f"no socket has the place {number}")


def with_same_place(connection, other):
    """Return how many sockets of a connection have the place of one of another's: that of the server often as well."""
    places = [place(each) for each in (other.client_cookie, other.server_cookie)]
    return sum(place(each) in places for each in (connection.client_cookie, connection.server_cookie))


def test_request_and_response_are_told_by_the_poll_after_each(probe, connection):
    connection.ask(GET)
    assert both(probe, connection) == Told(1, {}, 0)
    assert both(probe, connection) == Told(0, {}, 0)
    connection.answer(OK)
    assert both(probe, connection) == Told(0, {200: 1}, 1)
    assert both(probe, connection) == Told(0, {}, 0)
    connection.ask(GET)
    assert both(probe, connection) == Told(1, {}, 0)
    connection.answer(NO_CONTENT)
    assert both(probe, connection) == Told(0, {204: 1}, 1)


def test_what_was_not_told_moves_with_the_second_request(probe, connection):
    connection.ask(GET)
    connection.answer(NO_CONTENT)
    connection.ask(GET)
    assert both(probe, connection) == Told(2, {204: 1}, 1)
    connection.answer(OK)
    assert both(probe, connection) == Told(0, {200: 1}, 1)


def test_a_poll_of_more_than_the_kernel_gives_at_once(host, probe):
    """What finds no room in the buffer of one read is told in the next."""
    with contextlib.ExitStack() as stack:
        opened = [stack.enter_context(contextlib.closing(Connection(host))) for _ in range(150)]
        for connection in opened:
            connection.ask(GET)
        found = probe.poll()
        assert found.nbytes > ITERATOR_READ_BYTES
        ends = {cookie for each in opened for cookie in (each.client_cookie, each.server_cookie)}
        assert dict(zip(found["cookie"].tolist(), found["requests"].tolist(), strict=True)) == dict.fromkeys(ends, 1)
        for connection in opened:
            connection.answer(OK)
        assert told(probe) == dict.fromkeys(ends, Told(0, {200: 1}, 1))


@pytest.mark.parametrize("told_before", [True, False])
def test_a_second_request_before_the_response(probe, connection, told_before):
    connection.ask(HEAD)
    if told_before:
        assert both(probe, connection) == Told(1, {}, 0)
    connection.ask(GET)
    connection.answer(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n" + NO_CONTENT)
    assert both(probe, connection) == Told(1 if told_before else 2, {200: 1, 204: 1}, 2)
    assert probe.grown("heads_unknown") == 0


def test_what_the_bodies_of_its_response_hold_does_not_count(probe, connection):
    connection.ask(GET)
    connection.answer(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % (2 * len(OK) + len(GET)), OK, GET, OK)
    assert both(probe, connection) == Told(1, {200: 1}, 1)
    connection.ask(GET)
    connection.answer(OK)
    assert both(probe, connection) == Told(1, {200: 1}, 1)


@pytest.mark.parametrize("body", [b"", b"ab" + GET])
def test_its_body_in_the_same_packet(probe, connection, body):
    for method in (b"POST", b"DELETE"):
        connection.ask(b"%s / HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % (method, len(body)) + body)
        connection.answer(OK)
        assert both(probe, connection) == Told(1, {200: 1}, 1)
    assert probe.grown("heads_unknown") == 0


@pytest.mark.parametrize("size", [1, 10, 40])
def test_its_body_goes_on_in_the_next_packet(probe, connection, size):
    head = b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % (size + len(GET))
    connection.ask(head + b"a" * size, GET)
    connection.answer(OK)
    connection.ask(GET)
    connection.answer(NO_CONTENT)
    assert both(probe, connection) == Told(2, {200: 1, 204: 1}, 2)


@pytest.mark.parametrize("parts", [(b"\r\n" + GET,), (b"\r\n", GET)])
def test_an_empty_line_behind_it(probe, connection, parts):
    connection.ask(GET, *parts)
    connection.answer(OK + OK)
    connection.ask(GET)
    connection.answer(OK)
    assert both(probe, connection) == Told(3, {200: 3}, 3)


def test_its_response_comes_after_an_informational_one(probe, connection):
    connection.ask(GET)
    connection.answer(b"HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n", NO_CONTENT)
    assert both(probe, connection) == Told(1, {204: 1}, 1)


@pytest.mark.parametrize("size", [1, 11, 12, 13])
def test_its_response_is_split_over_packets(probe, connection, size):
    connection.ask(GET)
    connection.answer(OK[:size], OK[size:])
    assert both(probe, connection) == Told(1, {200: 1}, 1)


def test_something_else_before_its_response(probe, connection):
    connection.ask(GET)
    connection.answer(b"what this is nobody knows\r\n", OK)
    assert both(probe, connection) == Told(1, {200: 1}, 1)


@pytest.mark.parametrize("answered", [True, False])
def test_a_socket_that_ends_is_told_and_leaves_its_place(host, probe, answered):
    first = Connection(host)
    first.ask(GET)
    if answered:
        first.answer(OK)
    numbers = [place(each) for each in (first.client_cookie, first.server_cookie)]
    first.close()
    expected = Told(1, {200: 1}, 1) if answered else Told(1, {}, 0)
    assert told(probe) == dict.fromkeys((first.client_cookie, first.server_cookie), expected)
    for number in numbers:
        with contextlib.closing(Connection(host, client=socket_with_place(host, number))) as second:
            second.ask(GET)
            second.answer(OK)
            assert both(probe, second) == Told(1, {200: 1}, 1)
    assert probe.grown("places_taken") == 0


def test_two_sockets_with_the_same_place(host, probe, connection):
    connection.ask(GET)
    client = socket_with_place(host, place(connection.client_cookie))
    with contextlib.closing(Connection(host, client=client)) as displaced:
        for status in (200, 404):
            displaced.ask(GET)
            displaced.answer(b"HTTP/1.1 %d X\r\nContent-Length: 0\r\n\r\n" % status)
        connection.answer(OK)
        found = told(probe)
        for each in (displaced.client_cookie, displaced.server_cookie):
            assert found[each] == Told(2, {200: 1, 404: 1}, 2)
        for each in (connection.client_cookie, connection.server_cookie):
            assert found[each] == Told(1, {200: 1}, 1)
    assert probe.grown("places_taken") == with_same_place(displaced, connection) > 0


@pytest.mark.parametrize("told_before", [True, False])
def test_a_place_of_which_all_was_told_long_ago_is_another_sockets(host, told_before):
    """So those do not stay taken of whose end the kernel did not tell."""
    with opened_probe(host, http_place_kept_ns=struct.pack("Q", 1)) as probe, contextlib.ExitStack() as stack:
        first = stack.enter_context(contextlib.closing(Connection(host)))
        first.ask(GET)
        first.answer(OK)
        if told_before:
            assert both(probe, first) == Told(1, {200: 1}, 1)
        client = socket_with_place(host, place(first.client_cookie))
        second = stack.enter_context(contextlib.closing(Connection(host, client=client)))
        for connection in (second, first):
            connection.ask(GET)
            connection.answer(NO_CONTENT)
        found = told(probe)
        for each in (second.client_cookie, second.server_cookie):
            assert found[each] == Told(1, {204: 1}, 1)
        for each in (first.client_cookie, first.server_cookie):
            assert found[each] == (Told(1, {204: 1}, 1) if told_before else Told(2, {200: 1, 204: 1}, 2))
        assert (
            probe.places_taken == with_same_place(second, first) > 0
        )  # told: by the first one, which has them no more


def test_what_overtakes_its_response_is_none(host, probe, connection):
    connection.ask(GET)
    body = b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n"
    response = b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body
    # The status, behind a TCP header with time stamps.
    host.firewall("loss", input_rules=f"tcp sport {connection.server.getsockname()[1]} @th,320,32 0x20323030 drop")
    connection.server.sendall(response[: -len(body)])
    connection.server.sendall(body)
    time.sleep(0.1)
    host.firewall("loss")
    read = 0
    while read < len(response):
        read += len(connection.client.recv(10_000))
    assert sent_again(connection.server)
    assert both(probe, connection) == Told(1, {200: 1}, 1)
