"""A receiver of OTLP logs over HTTP on loopback, for tests: it keeps what it was sent, and can refuse."""

from __future__ import annotations

import gzip
import socket
import threading
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any

from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import (
    ExportLogsPartialSuccess,
    ExportLogsServiceRequest,
    ExportLogsServiceResponse,
)

from tests.ports import free_ports

if TYPE_CHECKING:
    import ssl
    from collections.abc import Iterator


@dataclass(frozen=True)
class Record:
    """A log record: its event, its attributes and those of its resource."""

    event: str
    time_unix_ns: int
    attributes: dict[str, Any]
    resource: dict[str, Any] = field(repr=False)


def records_of(body: bytes) -> list[Record]:
    """Return the records of a request, compressed by gzip."""
    found = []
    for resource_logs in ExportLogsServiceRequest.FromString(gzip.decompress(body)).resource_logs:
        resource = _values(resource_logs.resource.attributes)
        for record in (record for scope in resource_logs.scope_logs for record in scope.log_records):
            assert record.severity_number == 9
            found.append(Record(record.event_name, record.time_unix_nano, _values(record.attributes), resource))
    return found


def _values(attributes: Any) -> dict[str, Any]:
    values = {each.key: _value(each.value) for each in attributes}
    assert len(values) == len(attributes), "an attribute comes twice"
    return values


def _value(value: Any) -> Any:
    kind = value.WhichOneof("value")
    return [_value(each) for each in value.array_value.values] if kind == "array_value" else getattr(value, kind)


@dataclass
class LogSink:
    """What a receiver was sent, and how it is to answer.

    Attributes:
        answers: status and headers of the next answers; without any left, 200.
        rejected: how many records each answer of 200 says are rejected.
    """

    port: int = 0
    answers: list[tuple[int, dict[str, str]]] = field(default_factory=list)
    rejected: int = 0
    records: list[Record] = field(default_factory=list)
    requests: list[dict[str, str]] = field(default_factory=list)
    sizes: list[int] = field(default_factory=list)

    def of(self, event: str, **attributes: Any) -> list[Record]:
        """Return the records of an event with these attributes; `process__pid` is `process.pid`."""
        wanted = {name.replace("__", "."): value for name, value in attributes.items()}
        return [each for each in self.records if each.event == event and wanted.items() <= each.attributes.items()]


@contextmanager
def log_sink(sink: LogSink | None = None, tls: ssl.SSLContext | None = None) -> Iterator[LogSink]:
    """Run a receiver at the sink's port, or at a new one."""
    sink = sink or LogSink()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"]))
            sink.requests.append({"path": self.path, **{name.lower(): text for name, text in self.headers.items()}})
            status, headers = sink.answers.pop(0) if sink.answers else (200, {})
            if status == 200:
                sink.sizes.append(len(gzip.decompress(body)))
                sink.records += records_of(body)
            partial = ExportLogsPartialSuccess(rejected_log_records=sink.rejected, error_message="too old")
            answer = ExportLogsServiceResponse(partial_success=partial if sink.rejected else None).SerializeToString()
            self.send_response(status)
            for name, text in headers.items():
                self.send_header(name, text)
            self.send_header("content-length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, *_: object) -> None:
            pass

    connections: list[socket.socket] = []

    class Server(ThreadingHTTPServer):
        daemon_threads = True
        request_queue_size = 64

        def get_request(self) -> Any:
            connection, address = super().get_request()
            connections.append(connection)
            return connection, address

        def handle_error(self, *_: object) -> None:
            pass  # a client that is gone

    sink.port = sink.port or free_ports(1)[0]
    server = Server(("127.0.0.1", sink.port), Handler)
    if tls:
        server.socket = tls.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield sink
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
        for connection in connections:
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
