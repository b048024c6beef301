"""A real OTLP receiver of metrics and logs, gRPC and HTTP, that keeps what it was sent and answers as it is told.

In a test::

    with OtlpSink() as sink:
        sink.answers.append(Answer(grpc.StatusCode.UNAVAILABLE))  # the next request; those after it are accepted
        ...  # send to sink.grpc_endpoint or sink.http_endpoint
        assert sink.total("tcp.bytes") == 1000

As a process, for instance in another network namespace, it writes each accepted point as a line of JSON::

    python tests/otlp_sink.py --host 0.0.0.0 --grpc-port 4317 --http-port 4318 --output points.jsonl
"""

from __future__ import annotations

import argparse
import contextlib
import gzip
import json
import logging
import signal
import socket
import ssl
import threading
import time
import zlib
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import TYPE_CHECKING

import grpc
from google.protobuf.duration_pb2 import Duration
from google.rpc.error_details_pb2 import RetryInfo
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceRequest, ExportLogsServiceResponse
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import (
    ExportMetricsServiceRequest,
    ExportMetricsServiceResponse,
)

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Self

    from opentelemetry.proto.logs.v1.logs_pb2 import LogRecord

HTTP_STATUS = {
    grpc.StatusCode.OK: 200,
    grpc.StatusCode.INVALID_ARGUMENT: 400,
    grpc.StatusCode.UNAUTHENTICATED: 401,
    grpc.StatusCode.PERMISSION_DENIED: 403,
    grpc.StatusCode.UNIMPLEMENTED: 404,
    grpc.StatusCode.RESOURCE_EXHAUSTED: 429,
    grpc.StatusCode.INTERNAL: 500,
    grpc.StatusCode.UNAVAILABLE: 503,
    grpc.StatusCode.DEADLINE_EXCEEDED: 504,
}


@dataclass(frozen=True)
class Answer:
    """What the sink says to one request; over HTTP the status that OTLP names for the same thing."""

    code: grpc.StatusCode = grpc.StatusCode.OK
    message: str = ""
    rejected_points: int = 0
    retry_after_s: float | None = None
    delay_s: float = 0.0
    # Kept although the answer is an error: the answer was lost, not the request.
    kept: bool = False


ACCEPT = Answer()


@dataclass(frozen=True)
class Point:
    """One number of a metric, with what its metric, scope and resource say of it."""

    metric: str
    unit: str
    kind: str  # "sum" or "gauge"
    start_ns: int
    time_ns: int
    value: float
    attributes: dict[str, str]
    resource: dict[str, str] = field(default_factory=dict)
    temporality: int = 0
    monotonic: bool = False


def points_of(request: ExportMetricsServiceRequest) -> list[Point]:
    """Return the points of a request, in its order; the value of a histogram's is the sum of its readings."""
    points = []
    for resource_metrics in request.resource_metrics:
        resource = {item.key: item.value.string_value for item in resource_metrics.resource.attributes}
        for scope_metrics in resource_metrics.scope_metrics:
            for metric in scope_metrics.metrics:
                kind = metric.WhichOneof("data")
                data = getattr(metric, kind)
                points += [
                    Point(
                        metric.name,
                        metric.unit,
                        kind,
                        point.start_time_unix_nano,
                        point.time_unix_nano,
                        point.sum if kind == "exponential_histogram" else getattr(point, point.WhichOneof("value")),
                        {item.key: item.value.string_value for item in point.attributes},
                        resource,
                        data.aggregation_temporality if kind != "gauge" else 0,
                        data.is_monotonic if kind == "sum" else False,
                    )
                    for point in data.data_points
                ]
    return points


class OtlpSink:
    """The receiver; the ports given as 0 are chosen by the system and kept over `stop` and `start`.

    Attributes:
        answers: what the next requests are told, in order; when it is empty, `default`.
        default: accepted, unless changed.
        requests: the bytes of every kept request of metrics, uncompressed, in order of arrival.
        arrived_ns: when each of them was here, nanoseconds since the epoch.
        log_requests: those of logs.
        headers: of every request, kept or not, names in lower case.
        seen: how many requests came, kept or not.

    """

    def __init__(
        self,
        host: str = "127.0.0.1",
        grpc_port: int = 0,
        http_port: int = 0,
        *,
        tls: tuple[Path, Path] | None = None,
        on_request: Callable[[bytes], None] | None = None,
    ) -> None:
        self.host = host
        self.grpc_port = grpc_port
        self.http_port = http_port
        self.answers: deque[Answer] = deque()
        self.default = ACCEPT
        self.requests: list[bytes] = []
        self.arrived_ns: list[int] = []
        self.log_requests: list[bytes] = []
        self.headers: list[dict[str, str]] = []
        self.seen = 0
        self._tls = tls
        self._on_request = on_request or self.requests.append
        self._lock = threading.Lock()
        self._arrived = threading.Condition(self._lock)
        self._stopped = threading.Event()
        self._grpc: grpc.Server | None = None
        self._http: ThreadingHTTPServer | None = None

    @property
    def grpc_endpoint(self) -> str:
        return f"{'https' if self._tls else 'http'}://{self.host}:{self.grpc_port}"

    @property
    def http_endpoint(self) -> str:
        return f"{'https' if self._tls else 'http'}://{self.host}:{self.http_port}"

    def points(self) -> list[Point]:
        """Return all points kept."""
        return [
            point
            for request in list(self.requests)
            for point in points_of(ExportMetricsServiceRequest.FromString(request))
        ]

    def log_records(self) -> list[LogRecord]:
        """Return all log records kept."""
        return [
            record
            for request in list(self.log_requests)
            for resource in ExportLogsServiceRequest.FromString(request).resource_logs
            for scope in resource.scope_logs
            for record in scope.log_records
        ]

    def total(self, metric: str, **attributes: str) -> float:
        """Return the sum over the points of *metric* with these attributes, `source__workload__name` for dots."""
        wanted = {name.replace("__", "."): value for name, value in attributes.items()}
        return sum(p.value for p in self.points() if p.metric == metric and wanted.items() <= p.attributes.items())

    def wait(self, condition: Callable[[OtlpSink], bool], timeout_s: float = 60.0) -> None:
        """Return as soon as *condition* holds; it is looked at after each request."""
        with self._arrived:
            if not self._arrived.wait_for(lambda: condition(self), timeout_s):
                raise TimeoutError(f"after {timeout_s} s and {self.seen} requests")

    def start(self) -> Self:
        """Listen on both ports."""
        self._stopped.clear()
        self._grpc = grpc.server(ThreadPoolExecutor(8), options=[("grpc.so_reuseport", 0)])
        for exported in ("metrics", "logs"):
            handler = grpc.unary_unary_rpc_method_handler(partial(self._export_grpc, exported))
            service = f"opentelemetry.proto.collector.{exported}.v1.{exported.capitalize()}Service"
            self._grpc.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(service, {"Export": handler}),))
        address = f"{self.host}:{self.grpc_port}"
        if self._tls:
            certificate, key = (path.read_bytes() for path in self._tls)
            credentials = grpc.ssl_server_credentials([(key, certificate)])
            self.grpc_port = self._grpc.add_secure_port(address, credentials)
        else:
            self.grpc_port = self._grpc.add_insecure_port(address)
        self._grpc.start()

        self._http = _HttpServer((self.host, self.http_port), _HttpHandler)
        self._http.sink = self
        if self._tls:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(*self._tls)
            self._http.socket = context.wrap_socket(self._http.socket, server_side=True)
        self.http_port = self._http.server_port
        threading.Thread(target=self._http.serve_forever, args=(0.05,), daemon=True).start()
        return self

    def stop(self) -> None:
        """Close both ports: senders find nobody there until `start`."""
        if self._grpc:
            self._grpc.stop(0).wait()
            self._grpc = None
        if self._http:
            self._http.shutdown()
            self._http.server_close()
            self._http.cut_connections()
            self._http = None
        # What would be answered later still is not, and holds up nobody.
        self._stopped.set()

    __enter__ = start

    def __exit__(self, *exception: object) -> None:
        self.stop()

    def take(self, request: bytes, headers: dict[str, str], exported: str = "metrics") -> Answer:
        """Record a request and return what to answer."""
        with self._arrived:
            answer = self.answers.popleft() if self.answers else self.default
            self.seen += 1
            self.headers.append(headers)
            if answer.code is grpc.StatusCode.OK or answer.kept:
                if exported == "metrics":
                    self.arrived_ns.append(time.time_ns())
                (self.log_requests.append if exported == "logs" else self._on_request)(request)
            self._arrived.notify_all()
        self._stopped.wait(answer.delay_s)
        return answer

    def _export_grpc(self, exported: str, request: bytes, context: grpc.ServicerContext) -> bytes:
        metadata = {item.key: str(item.value) for item in context.invocation_metadata()}
        answer = self.take(request, metadata, exported)
        if answer.code is not grpc.StatusCode.OK:
            if answer.retry_after_s is not None:
                context.set_trailing_metadata((("google.rpc.retryinfo-bin", _retry_info(answer.retry_after_s)),))
            context.abort(answer.code, answer.message)
        return _response(answer, exported)


def _retry_info(seconds: float) -> bytes:
    return RetryInfo(retry_delay=Duration(seconds=int(seconds), nanos=round(seconds % 1 * 1e9))).SerializeToString()


def _response(answer: Answer, exported: str) -> bytes:
    response = ExportLogsServiceResponse() if exported == "logs" else ExportMetricsServiceResponse()
    if answer.rejected_points or answer.message:
        rejected = "rejected_log_records" if exported == "logs" else "rejected_data_points"
        setattr(response.partial_success, rejected, answer.rejected_points)
        response.partial_success.error_message = answer.message
    return response.SerializeToString()


class _HttpServer(ThreadingHTTPServer):
    daemon_threads = True
    sink: OtlpSink

    def __init__(self, *arguments: object) -> None:
        self._connections: set[socket.socket] = set()
        super().__init__(*arguments)

    def process_request(self, request: socket.socket, client_address: object) -> None:
        self._connections.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: socket.socket) -> None:
        self._connections.discard(request)
        super().shutdown_request(request)

    def cut_connections(self) -> None:
        for connection in list(self._connections):
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def handle_error(self, request: object, client_address: object) -> None:
        logging.getLogger(__name__).debug("connection from %s broke", client_address)


class _HttpHandler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _HttpServer

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        exported = self.path.removeprefix("/v1/")
        if exported not in {"metrics", "logs"}:
            self._send(404, b"", {})
            return
        encoding = self.headers.get("Content-Encoding")
        decode = {"gzip": gzip.decompress, "deflate": zlib.decompress}.get(encoding, bytes)
        headers = {name.lower(): value for name, value in self.headers.items()}
        answer = self.server.sink.take(decode(body), headers, exported)
        if answer.code is grpc.StatusCode.OK:
            self._send(200, _response(answer, exported), {})
        else:
            retry = {} if answer.retry_after_s is None else {"Retry-After": f"{answer.retry_after_s:g}"}
            self._send(HTTP_STATUS[answer.code], answer.message.encode(), {"Content-Type": "text/plain"} | retry)

    def _send(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in (
            {"Content-Type": "application/x-protobuf", "Content-Length": str(len(body))} | headers
        ).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--grpc-port", type=int, default=0)
    parser.add_argument("--http-port", type=int, default=0)
    parser.add_argument("--output", type=Path, required=True, help="a line of JSON for each accepted point")
    arguments = parser.parse_args()
    with arguments.output.open("a", buffering=1) as output:

        def write(request: bytes) -> None:
            points = points_of(ExportMetricsServiceRequest.FromString(request))
            output.write("".join(json.dumps(asdict(point)) + "\n" for point in points))

        with OtlpSink(arguments.host, arguments.grpc_port, arguments.http_port, on_request=write) as sink:
            print(f"listening: grpc {sink.grpc_port} http {sink.http_port}", flush=True)  # noqa: T201
            signal.sigwait({signal.SIGTERM, signal.SIGINT})


if __name__ == "__main__":
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGINT})
    main()
