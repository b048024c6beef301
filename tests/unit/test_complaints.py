from __future__ import annotations

import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import TYPE_CHECKING

import pytest
import requests
from google.rpc.status_pb2 import Status

from daemon.export_outcome import Refused, Unavailable
from reducer.outputs import complaints
from reducer.outputs.transport import HttpTransport

if TYPE_CHECKING:
    from collections.abc import Iterator


@contextmanager
def http_answers(status: int, headers: dict[str, str], body: bytes) -> Iterator[str]:
    """Yield the URL of a server that answers everything with the same."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            self.send_response(status)
            for name, value in headers.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()


@pytest.mark.parametrize(
    ("status", "headers", "body", "expected"),
    [
        (400, {"Content-Type": "text/plain; charset=utf-8"}, b"bad\nunit", "400 Bad Request: bad unit"),
        (400, {"Content-Type": "application/json"}, b'{"code": 3, "message": "bad unit"}', "400 Bad Request: bad unit"),
        (400, {"Content-Type": "application/json"}, b'["bad"]', "400 Bad Request: ['bad']"),
        (400, {"Content-Type": "application/json"}, b"{", "400 Bad Request"),
        (400, {"Content-Type": "application/json"}, b"[" * 100_000, "400 Bad Request"),
        (
            400,
            {"Content-Type": "application/x-protobuf"},
            Status(message="bad").SerializeToString(),
            "400 Bad Request: bad",
        ),
        (400, {"Content-Type": "text/html"}, b"<html>bad</html>", "400 Bad Request"),
        (400, {}, b"\xff\xff", "400 Bad Request"),
        (401, {}, b"", "401 Unauthorized; are OTEL_EXPORTER_OTLP_HEADERS right?"),
        (
            413,
            {"Content-Type": "text/plain"},
            b"4 MiB",
            "413 Request Entity Too Large: 4 MiB; --otlp-grpc-batch-size makes requests smaller",
        ),
        (500, {"Content-Type": "text/plain"}, b"oops", "500 Internal Server Error: oops"),
        (
            307,
            {"Location": "https://else.where/v1/metrics"},
            b"",
            "307 Temporary Redirect: redirects are not followed, this one leads to https://else.where/v1/metrics",
        ),
    ],
)
def test_what_an_answer_says(status: int, headers: dict[str, str], body: bytes, expected: str) -> None:
    with http_answers(status, headers, body) as url:
        transport = HttpTransport(f"{url}/v1/metrics")
        assert transport.send(b"") == Refused(expected)
        transport.close()


def test_a_connection_that_fails_is_told_of_by_its_cause() -> None:
    transport = HttpTransport("http://127.0.0.1:1/v1/metrics")
    assert transport.send(b"") == Unavailable("Connection refused")
    transport.close()


def test_a_cause_that_has_itself_as_cause_ends() -> None:
    error = requests.ConnectionError("odd")
    error.__cause__ = error
    assert complaints.of_exception(error) == "odd"
    assert complaints.of_exception(TimeoutError()) == "TimeoutError"


def test_what_is_said_is_one_short_line() -> None:
    assert complaints.shortened("a\x1b[31m\n\tb") == "a [31m b"
    assert len(complaints.shortened("x" * 10_000)) == complaints.MOST_CHARACTERS + 1
