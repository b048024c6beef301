from __future__ import annotations

import socket
import time

import pytest

from kernel_collector.machine.bounded_http import AnswerError, Service
from tests.cloud_services import served


def soon():
    return time.monotonic() + 60


def test_an_answer():
    with served(lambda method, path, headers: (200, {"X-Seen": headers["X-Sent"]}, f"{method} {path}")) as service:
        answer = service.fetch("/a?b=c", soon(), method="PUT", headers={"X-Sent": "1"})
    assert (answer.body, answer.headers["x-seen"]) == (b"PUT /a?b=c", "1")


@pytest.mark.parametrize("status", [201, 204, 301, 302, 401, 404, 500])
def test_another_status_is_an_error_that_tells_it(status):
    with served(lambda *_: (status, {"Location": "/elsewhere"}, "")) as service, pytest.raises(AnswerError) as raised:
        service.fetch("/", soon())
    assert raised.value.status == status


def test_an_answer_is_taken_up_to_the_bound():
    with served(lambda _, path, __: (200, {}, b"x" * int(path[1:]))) as there:
        service = Service(there.address, most_bytes=1000)
        assert len(service.fetch("/1000", soon()).body) == 1000
        with pytest.raises(AnswerError, match="more than 1000 bytes"):
            service.fetch("/1001", soon())


@pytest.mark.parametrize("backlog", [1, None], ids=["nobody accepts", "nobody listens"])
def test_silence_ends_at_the_deadline(backlog):
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        if backlog:
            silent.listen(backlog)
        started = time.monotonic()
        with pytest.raises(OSError, match=r"timed out|refused"):
            Service(silent.getsockname()).fetch("/", started + 0.3)
        assert time.monotonic() - started < 1


def test_a_deadline_that_is_over():
    with served(lambda *_: (200, {}, "")) as service, pytest.raises(TimeoutError):
        service.fetch("/", time.monotonic())
