"""Sends one encoded OTLP request over gRPC or HTTP, once, and says what became of it.

Channel and session are those of the OpenTelemetry exporters, as OTEL_EXPORTER_OTLP_* ask for them; only what they send
is ours. To send again is the caller's business: what may be sent again follows the OTLP specification, "Failures".
"""

from __future__ import annotations

import math
import os
import threading
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol
from weakref import WeakSet

import grpc
import requests
import requests.adapters
from google.protobuf.message import DecodeError
from google.rpc.error_details_pb2 import RetryInfo  # type: ignore[import-untyped]
from google.rpc.status_pb2 import Status  # type: ignore[import-untyped]
from opentelemetry.exporter.otlp.common import http as otlp_http
from opentelemetry.exporter.otlp.proto.grpc._log_exporter import OTLPLogExporter as GrpcLogExporter
from opentelemetry.exporter.otlp.proto.grpc.metric_exporter import OTLPMetricExporter as GrpcMetricExporter
from opentelemetry.exporter.otlp.proto.http import Compression
from opentelemetry.exporter.otlp.proto.http._log_exporter import OTLPLogExporter as HttpLogExporter
from opentelemetry.exporter.otlp.proto.http.metric_exporter import OTLPMetricExporter as HttpMetricExporter
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceResponse
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceResponse
from requests.auth import HTTPBasicAuth
from requests.utils import get_auth_from_url

from daemon.cut_off import cut_off_after
from daemon.export_outcome import Accepted, Outcome, Refused, Unavailable
from reducer.outputs import complaints
from reducer.outputs.otlp_environment import (
    checked_target,
    checked_url,
    http_endpoint,
    otlp_variables,
    without_secrets,
)
from reducer.outputs.request import Signal

if TYPE_CHECKING:
    import socket
    from collections.abc import Iterable

    from opentelemetry.exporter.http.transport._base import BaseHTTPResult

    from reducer.outputs.otlp_environment import OtlpVariables

RETRYABLE_CODES = frozenset(
    {
        grpc.StatusCode.CANCELLED,
        grpc.StatusCode.DEADLINE_EXCEEDED,
        grpc.StatusCode.ABORTED,
        grpc.StatusCode.OUT_OF_RANGE,
        grpc.StatusCode.UNAVAILABLE,
        grpc.StatusCode.DATA_LOSS,
    }
)
# What gRPC itself says, as UNAUTHENTICATED, before it sends anything to who has another's certificate.
_MISNAMED = "does not match SSL server name"
# The channel connects again by itself: at least this often, where gRPC's own limit is two minutes. Its connection is
# its own: that of a new channel is a new one, whoever else speaks with the receiver.
CHANNEL_OPTIONS = (
    ("grpc.initial_reconnect_backoff_ms", 500),
    ("grpc.max_reconnect_backoff_ms", 5000),
    ("grpc.use_local_subchannel_pool", 1),
)
MOST_ANSWER_BYTES = 1 << 20
SUCCESS_CLASS = 2  # HTTP status 2xx


class Transport(Protocol):
    """A way to one receiver. `send` blocks, and may be called from any thread, by one at a time."""

    endpoint: str

    def send(self, body: bytes, signal: Signal = Signal.METRICS) -> Outcome:
        """Send an encoded request of the signal's service once."""

    def close(self) -> None:
        """Give up the connection."""


class GrpcTransport:
    """OTLP over gRPC to *endpoint*, `http://` or `https://`; None: what OTEL_EXPORTER_OTLP_ENDPOINT says.

    The other signals than metrics go where OTEL_EXPORTER_OTLP_(signal)_ENDPOINT says, if it is set.

    Raises:
        StartupError: the endpoint or an OTEL_EXPORTER_OTLP_* variable cannot be used.

    """

    def __init__(self, endpoint: str | None = None, signals: Iterable[Signal] = (Signal.METRICS,)) -> None:
        self._exporters: dict[Signal, _RawGrpcMetrics | _RawGrpcLogs] = {}
        for signal in signals:
            variables = otlp_variables(signal, "grpc", ("none", "gzip"))
            own = signal is Signal.LOGS and os.environ.get("OTEL_EXPORTER_OTLP_LOGS_ENDPOINT")
            target = own or endpoint
            exporter = _RawGrpcLogs if signal is Signal.LOGS else _RawGrpcMetrics
            self._exporters[signal] = exporter(
                checked_target(target) if target else None,
                insecure=variables.insecure,
                credentials=_credentials(variables),
                headers=tuple(variables.headers.items()),
                timeout=variables.timeout_s,
                compression=grpc.Compression.Gzip
                if variables.compression == "gzip"
                else grpc.Compression.NoCompression,
                channel_options=CHANNEL_OPTIONS,  # type: ignore[arg-type]
            )
        self.endpoint = self._exporters[Signal.METRICS].address

    def send(self, body: bytes, signal: Signal = Signal.METRICS) -> Outcome:
        """Send an encoded request of the signal's service once."""
        try:
            return _accepted(self._exporters[signal].send_raw(body), signal)
        except grpc.RpcError as error:
            if error.code() is grpc.StatusCode.DEADLINE_EXCEEDED:  # perhaps nobody is there, which TCP finds out late
                self._exporters[signal].connect_anew()
            return _outcome_of_grpc(error)
        except ValueError as error:  # The channel was closed.
            return Unavailable(str(error))

    def close(self) -> None:
        """Close the channels; a request on its way is cancelled."""
        for exporter in self._exporters.values():
            exporter.shutdown()


class HttpTransport:
    """OTLP over HTTP to the URL *endpoint* for metrics; None: what OTEL_EXPORTER_OTLP_(METRICS_)ENDPOINT says.

    The other signals go where the variables say.

    Raises:
        StartupError: the endpoint or an OTEL_EXPORTER_OTLP_* variable cannot be used.

    """

    def __init__(self, endpoint: str | None = None, signals: Iterable[Signal] = (Signal.METRICS,)) -> None:
        self._exporters: dict[Signal, _RawHttpMetrics | _RawHttpLogs] = {}
        for signal in signals:
            variables = otlp_variables(signal, "http/protobuf", ("none", "gzip", "deflate"))
            exporter = _RawHttpLogs if signal is Signal.LOGS else _RawHttpMetrics
            told = endpoint if signal is Signal.METRICS else None
            self._exporters[signal] = exporter(
                checked_url(told) if told else http_endpoint(signal),
                certificate_file=variables.authorities,
                client_certificate_file=variables.client_certificate,
                client_key_file=variables.client_key,
                headers=variables.headers,
                timeout=variables.timeout_s,
                compression=Compression(variables.compression),
                session=_Session(),
            )
        self.endpoint = without_secrets(self._exporters[Signal.METRICS].address)

    def send(self, body: bytes, signal: Signal = Signal.METRICS) -> Outcome:
        """Send an encoded request of the signal's service once."""
        result = self._exporters[signal].send_raw(body)
        if result.error is not None:
            return Unavailable(complaints.of_exception(result.error))
        if (result.status_code or 0) // 100 == SUCCESS_CLASS:
            return _accepted(result.content(), signal)
        return _outcome_of_http(result)

    def close(self) -> None:
        """Close the connections."""
        for exporter in self._exporters.values():
            exporter.shutdown()


class _RawGrpc:
    """An exporter with its channel open to what is encoded already."""

    METHOD: str

    @property
    def address(self) -> str:
        return str(self._endpoint)  # type: ignore[attr-defined]

    def _initialize_channel_and_stub(self) -> None:
        super()._initialize_channel_and_stub()  # type: ignore[misc]
        channel: grpc.Channel = self._channel  # type: ignore[attr-defined]
        self._export_raw: grpc.UnaryUnaryMultiCallable[bytes, bytes] = channel.unary_unary(self.METHOD)

    def connect_anew(self) -> None:
        self._channel.close()  # type: ignore[attr-defined]
        if not self._shutdown:  # type: ignore[attr-defined]
            self._initialize_channel_and_stub()

    def send_raw(self, body: bytes) -> bytes:
        headers: tuple[tuple[str, str], ...] = self._headers  # type: ignore[attr-defined]
        return self._export_raw(body, metadata=headers, timeout=self._timeout)  # type: ignore[attr-defined]


class _RawGrpcMetrics(_RawGrpc, GrpcMetricExporter):
    METHOD = "/opentelemetry.proto.collector.metrics.v1.MetricsService/Export"


class _RawGrpcLogs(_RawGrpc, GrpcLogExporter):
    METHOD = "/opentelemetry.proto.collector.logs.v1.LogsService/Export"


class _RawHttp:
    """An exporter with its session open to what is encoded already."""

    @property
    def address(self) -> str:
        return str(self._endpoint)  # type: ignore[attr-defined]

    def send_raw(self, body: bytes) -> BaseHTTPResult:
        client = self._client  # type: ignore[attr-defined]
        # Its public `export` hides the response's body and retries by itself.
        result: BaseHTTPResult = client._submit(client._compress(body), client._timeout)  # noqa: SLF001
        return result


class _RawHttpMetrics(_RawHttp, HttpMetricExporter):
    pass


class _RawHttpLogs(_RawHttp, HttpLogExporter):
    pass


def _credentials(variables: OtlpVariables) -> grpc.ChannelCredentials:
    files = (variables.authorities, variables.client_key, variables.client_certificate)
    return grpc.ssl_channel_credentials(*(Path(file).read_bytes() if file else None for file in files))


class _Session(requests.Session):
    """One that heeds what it was told before what it finds, and bounds each request's time and its answer's size.

    What it was told is authorities before REQUESTS_CA_BUNDLE (psf/requests#3829), and headers before ~/.netrc.
    """

    def __init__(self) -> None:
        super().__init__()
        self.auth = _authorized_by_url
        self._adapter = _Adapter()
        self.mount("http://", self._adapter)
        self.mount("https://", self._adapter)

    def request(self, *arguments: Any, **options: Any) -> requests.Response:
        with cut_off_after(options["timeout"], self._adapter.sockets):
            response = super().request(*arguments, **options | {"stream": True})
            answer = response.raw.read(MOST_ANSWER_BYTES + 1, decode_content=True)
            if len(answer) > MOST_ANSWER_BYTES:
                response.close()
                raise ValueError(f"an answer of more than {MOST_ANSWER_BYTES} bytes")
            response.raw.drain_conn()
            response._content = answer  # noqa: SLF001
        return response

    def merge_environment_settings(self, url: Any, proxies: Any, stream: Any, verify: Any, cert: Any) -> Any:
        told = self.verify if verify is None else verify
        return super().merge_environment_settings(url, proxies, stream, told, cert)


def _authorized_by_url(request: requests.PreparedRequest) -> requests.PreparedRequest:
    told = get_auth_from_url(request.url or "")
    return HTTPBasicAuth(*told)(request) if any(told) else request


class _Adapter(requests.adapters.HTTPAdapter):
    """One that knows its connections."""

    def __init__(self) -> None:
        self._connections: WeakSet[Any] = WeakSet()
        self._lock = threading.Lock()
        super().__init__()

    def sockets(self) -> list[socket.socket | None]:
        """Return those of its connections; None where one is not made."""
        with self._lock:
            return [each.sock for each in self._connections]

    def get_connection_with_tls_context(self, *arguments: Any, **options: Any) -> Any:
        pool = super().get_connection_with_tls_context(*arguments, **options)
        if not isinstance(pool.ConnectionCls, partial):
            pool.ConnectionCls = partial(self._connection, pool.ConnectionCls)  # type: ignore[assignment]
        return pool

    def _connection(self, kind: Any, **options: Any) -> Any:
        connection = kind(**options)
        with self._lock:
            self._connections.add(connection)
        return connection


def _accepted(response: bytes, signal: Signal) -> Outcome:
    try:
        if signal is Signal.LOGS:
            logs = ExportLogsServiceResponse.FromString(response).partial_success
            return Accepted(max(logs.rejected_log_records, 0), complaints.shortened(logs.error_message))
        metrics = ExportMetricsServiceResponse.FromString(response).partial_success
    except DecodeError:
        # It was answered with success: what was answered besides does not take that back.
        return Accepted(message=f"the receiver's answer is no response to an export of {signal}")
    return Accepted(max(metrics.rejected_data_points, 0), complaints.shortened(metrics.error_message))


def _outcome_of_grpc(error: Any) -> Outcome:
    code: grpc.StatusCode = error.code()
    reason = complaints.with_hint(f"{code.name}: {error.details()}")
    retry_after_s = _retry_delay(dict(error.trailing_metadata() or ()))
    misnamed = code is grpc.StatusCode.UNAUTHENTICATED and _MISNAMED in (error.details() or "")
    paced = code is grpc.StatusCode.RESOURCE_EXHAUSTED and retry_after_s is not None
    if code in RETRYABLE_CODES or misnamed or paced:
        return Unavailable(reason, retry_after_s or 0.0)
    return Refused(reason)


def _retry_delay(metadata: dict[str, str | bytes]) -> float | None:
    """Return the seconds of a RetryInfo: by itself, or, as the specification has it, among a status' details."""
    info = RetryInfo()
    try:
        if alone := metadata.get("google.rpc.retryinfo-bin"):
            info.ParseFromString(alone)
            return _seconds(info)
        status = Status.FromString(metadata.get("grpc-status-details-bin", b""))
        for detail in status.details:
            if detail.Unpack(info):
                return _seconds(info)
    except DecodeError:
        pass
    return None


def _seconds(info: RetryInfo) -> float:
    return float(max(info.retry_delay.seconds + info.retry_delay.nanos / 1e9, 0.0))


def _outcome_of_http(result: BaseHTTPResult) -> Outcome:
    reason = complaints.of_response(result)
    if otlp_http._is_retryable(result.status_code):  # noqa: SLF001
        retry_after_s = otlp_http._extract_retry_after(result)  # noqa: SLF001
        return Unavailable(reason, retry_after_s if retry_after_s and math.isfinite(retry_after_s) else 0.0)
    return Refused(reason)
