from __future__ import annotations

import socket
import ssl
import subprocess
import sys
import threading
import time
from http.client import HTTPConnection
from typing import TYPE_CHECKING

import grpc
import pytest
from opentelemetry.proto.collector.metrics.v1.metrics_service_pb2 import ExportMetricsServiceRequest

from daemon.errors import StartupError
from daemon.export_outcome import Accepted, Refused, Unavailable
from reducer.outputs.request import Signal
from reducer.outputs.transport import GrpcTransport, HttpTransport, Transport, _Adapter
from tests.http_answers import HEAD, server_that_answers
from tests.lab.waiting import wait_until
from tests.otlp_sink import Answer, OtlpSink

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


# Frames of HTTP/2 (RFC 9113): length, type, flags, stream.
SETTINGS = bytes([0, 0, 0, 4, 0, 0, 0, 0, 0])
ACCEPTED_SETTINGS = bytes([0, 0, 0, 4, 1, 0, 0, 0, 0])
ONE_BYTE_OF_ANSWER = bytes([0, 0, 1, 0, 0, 0, 0, 0, 1, 0])
# The HEADERS of an answer (RFC 7541): status 200 and the content type of gRPC.
HEADER_FIELDS = b"\x88\x5f\x10application/grpc"
HEAD_OF_ANSWER = bytes([0, 0, len(HEADER_FIELDS), 1, 4, 0, 0, 0, 1]) + HEADER_FIELDS


def request(size: int = 1) -> bytes:
    message = ExportMetricsServiceRequest()
    metric = message.resource_metrics.add().scope_metrics.add().metrics.add(name="m")
    for number in range(size):
        metric.sum.data_points.add(as_int=number)
    return message.SerializeToString()


@pytest.fixture(autouse=True)
def _no_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("ENDPOINT", "HEADERS", "COMPRESSION", "TIMEOUT", "CERTIFICATE", "INSECURE"):
        monkeypatch.delenv(f"OTEL_EXPORTER_OTLP_{name}", raising=False)
        for signal in ("METRICS", "LOGS"):
            monkeypatch.delenv(f"OTEL_EXPORTER_OTLP_{signal}_{name}", raising=False)
    # Authorities for all that is asked by HTTP; those of OTEL_EXPORTER_OTLP_CERTIFICATE come before them.
    for name in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"):
        monkeypatch.setenv(name, ssl.get_default_verify_paths().cafile or "/etc/ssl/certs/ca-certificates.crt")


@pytest.fixture
def sink() -> Iterator[OtlpSink]:
    with OtlpSink() as sink:
        yield sink


@pytest.fixture(params=["grpc", "http"])
def transport(request: pytest.FixtureRequest, sink: OtlpSink) -> Iterator[Transport]:
    transport: Transport = (
        GrpcTransport(sink.grpc_endpoint)
        if request.param == "grpc"
        else HttpTransport(f"{sink.http_endpoint}/v1/metrics")
    )
    yield transport
    transport.close()


def test_bytes_arrive_as_they_are(sink: OtlpSink, transport: Transport) -> None:
    # No serializer would make the empty message at the end.
    odd = request() + b"\x0a\x00"
    assert transport.send(odd) == Accepted()
    assert sink.requests == [odd]


def test_partial_success_tells_how_many_points_and_why(sink: OtlpSink, transport: Transport) -> None:
    sink.answers.append(Answer(rejected_points=3, message="too\nold\x1b[31m"))
    assert transport.send(request()) == Accepted(3, "too old [31m")


@pytest.mark.parametrize("way", ["grpc", "http"])
def test_logs_go_to_their_own_service(sink: OtlpSink, monkeypatch: pytest.MonkeyPatch, way: str) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", sink.http_endpoint)
    both: Transport = GrpcTransport(sink.grpc_endpoint, Signal) if way == "grpc" else HttpTransport(signals=Signal)
    sink.answers += [Answer(rejected_points=2, message="old"), Answer()]
    assert both.send(b"\x0a\x00", Signal.LOGS) == Accepted(2, "old")
    assert both.send(request()) == Accepted()
    assert (sink.log_requests, sink.requests) == ([b"\x0a\x00"], [request()])
    both.close()


@pytest.mark.parametrize("way", ["grpc", "http"])
def test_logs_may_go_elsewhere(sink: OtlpSink, monkeypatch: pytest.MonkeyPatch, way: str) -> None:
    with OtlpSink() as other:
        if way == "grpc":
            monkeypatch.setenv("OTEL_EXPORTER_OTLP_LOGS_ENDPOINT", other.grpc_endpoint)
            both: Transport = GrpcTransport(sink.grpc_endpoint, Signal)
        else:
            monkeypatch.setenv("OTEL_EXPORTER_OTLP_LOGS_ENDPOINT", f"{other.http_endpoint}/v1/logs")
            both = HttpTransport(f"{sink.http_endpoint}/v1/metrics", Signal)
        assert both.send(b"\x0a\x00", Signal.LOGS) == Accepted()
        assert (other.log_requests, sink.seen) == ([b"\x0a\x00"], 0)
        both.close()


@pytest.mark.parametrize(
    "code",
    [grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.INTERNAL],
    ids=lambda code: code.name,
)
def test_refused(sink: OtlpSink, transport: Transport, code: grpc.StatusCode) -> None:
    sink.answers.append(Answer(code, "no such thing"))
    outcome = transport.send(request())
    assert isinstance(outcome, Refused)
    assert sink.seen == 1


def test_refusal_over_grpc_has_the_receivers_words(sink: OtlpSink) -> None:
    transport = GrpcTransport(sink.grpc_endpoint)
    sink.answers.append(Answer(grpc.StatusCode.INVALID_ARGUMENT, "no such thing" + "!" * 1000))
    outcome = transport.send(request())
    assert isinstance(outcome, Refused)
    assert outcome.reason.startswith("INVALID_ARGUMENT: no such thing!!")
    assert len(outcome.reason) < 400
    transport.close()


def test_unavailable_is_told_once_a_call_with_the_wait_asked_for(sink: OtlpSink, transport: Transport) -> None:
    sink.answers.append(Answer(grpc.StatusCode.UNAVAILABLE, "later", retry_after_s=2))
    outcome = transport.send(request())
    assert isinstance(outcome, Unavailable)
    assert outcome.retry_after_s == 2
    assert sink.seen == 1
    assert transport.send(request()) == Accepted()


def test_exhausted_may_be_sent_again_only_where_grpc_says_when(sink: OtlpSink) -> None:
    transport = GrpcTransport(sink.grpc_endpoint)
    sink.answers.append(Answer(grpc.StatusCode.RESOURCE_EXHAUSTED, "slow down", retry_after_s=0.5))
    assert transport.send(request()) == Unavailable("RESOURCE_EXHAUSTED: slow down", 0.5)
    # A message that is too large comes with this code too, and stays too large.
    assert isinstance(transport.send(request(1) + b"\x0a\x00" * 3_000_000), Refused)
    transport.close()


def test_http_429_may_be_sent_again(sink: OtlpSink) -> None:
    transport = HttpTransport(f"{sink.http_endpoint}/v1/metrics")
    sink.answers.append(Answer(grpc.StatusCode.RESOURCE_EXHAUSTED))
    assert isinstance(transport.send(request()), Unavailable)
    transport.close()


def test_endpoint_that_is_down_and_comes_back(sink: OtlpSink, transport: Transport) -> None:
    assert transport.send(request()) == Accepted()
    sink.stop()
    for _ in range(3):
        assert isinstance(transport.send(request()), Unavailable)
    sink.start()
    wait_until(lambda: transport.send(request()) == Accepted(), 60, "it to be found again")


def test_wrong_path_is_refused(sink: OtlpSink) -> None:
    transport = HttpTransport(f"{sink.http_endpoint}/other")
    reason = "404 Not Found; is the path of the endpoint that of its OTLP receiver?"
    assert transport.send(request()) == Refused(reason)
    transport.close()


def test_settings_of_the_environment(sink: OtlpSink, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", "api-key=secret")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_COMPRESSION", "gzip")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "1")
    for protocol, endpoint in ((GrpcTransport, sink.grpc_endpoint), (HttpTransport, sink.http_endpoint)):
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint)
        transport: Transport = protocol()
        assert transport.send(request(1000)) == Accepted()
        assert sink.headers[-1]["api-key"] == "secret"
        sink.answers.append(Answer(delay_s=30))
        started = time.monotonic()
        assert isinstance(transport.send(request()), Unavailable)
        assert time.monotonic() - started < 3
        transport.close()
    assert request(1000) in sink.requests
    assert sink.headers[-2]["content-encoding"] == "gzip"


def test_headers_come_before_netrc(sink: OtlpSink, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "netrc").write_text(f"machine {sink.host} login other password other\n")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_HEADERS", "authorization=Bearer%20told")
    for endpoint, authorization in (
        (sink.http_endpoint, "Bearer told"),
        (sink.http_endpoint.replace("//", "//me:mine@"), "Basic bWU6bWluZQ=="),
    ):
        transport = HttpTransport(f"{endpoint}/v1/metrics")
        assert transport.send(request()) == Accepted()
        assert sink.headers[-1]["authorization"] == authorization
        transport.close()


def test_proxies_of_the_environment_are_used(sink: OtlpSink, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", sink.http_endpoint)
    monkeypatch.delenv("no_proxy", raising=False)
    transport = HttpTransport("http://receiver.invalid/v1/metrics")
    outcome = transport.send(request())
    # The sink knows of no paths that are URLs.
    assert isinstance(outcome, Refused)
    assert outcome.reason.startswith("404 ")
    transport.close()


def made_certificate(directory: Path, of_host: str) -> tuple[Path, Path]:
    certificate, key = directory / "cert.pem", directory / "key.pem"
    command = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 1 -subj /CN=localhost"
    names = ["-addext", f"subjectAltName={of_host}"]
    subprocess.run([*command.split(), *names, "-keyout", key, "-out", certificate], check=True, capture_output=True)
    return certificate, key


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return made_certificate(tmp_path_factory.mktemp("tls"), "IP:127.0.0.1")


@pytest.mark.parametrize("protocol", [GrpcTransport, HttpTransport])
def test_tls(protocol: type[Transport], certificate: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    with OtlpSink(tls=certificate) as sink:
        endpoint = sink.grpc_endpoint if protocol is GrpcTransport else sink.http_endpoint
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint)
        stranger = protocol()
        outcome = stranger.send(request())
        assert isinstance(outcome, Unavailable)
        assert outcome.reason.endswith("is its authority in the file that OTEL_EXPORTER_OTLP_CERTIFICATE names?")
        stranger.close()
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_CERTIFICATE", str(certificate[0]))
        friend = protocol()
        assert friend.send(request()) == Accepted()
        friend.close()
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint.replace("127.0.0.1", "localhost"))
        misnamed = protocol()
        outcome = misnamed.send(request())
        assert isinstance(outcome, Unavailable)
        assert sink.seen == 1
        assert outcome.reason.endswith("the endpoint must have a name that the certificate has")
        misnamed.close()


@pytest.mark.parametrize("protocol", [GrpcTransport, HttpTransport])
def test_address_that_the_certificate_has_not(
    protocol: type[Transport], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    certificate = made_certificate(tmp_path, "DNS:localhost")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_CERTIFICATE", str(certificate[0]))
    with OtlpSink(tls=certificate) as sink:
        endpoint = sink.grpc_endpoint if protocol is GrpcTransport else sink.http_endpoint
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", endpoint)
        transport = protocol()
        outcome = transport.send(request())
        assert isinstance(outcome, Unavailable)
        assert outcome.reason.endswith("the endpoint must have a name that the certificate has")
        assert sink.seen == 0
        transport.close()


@pytest.mark.parametrize("protocol", [GrpcTransport, HttpTransport])
def test_certificate_that_is_not_there(protocol: type[Transport], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_CERTIFICATE", "/nowhere/ca.pem")
    with pytest.raises(StartupError, match=r"/nowhere/ca\.pem, which OTEL_EXPORTER_OTLP_CERTIFICATE names"):
        protocol()


@pytest.mark.parametrize("protocol", [GrpcTransport, HttpTransport])
@pytest.mark.parametrize("variable", ["CERTIFICATE", "CLIENT_CERTIFICATE"])
def test_certificate_that_is_none(
    protocol: type[Transport], variable: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "junk.pem").write_text("junk")
    monkeypatch.setenv(f"OTEL_EXPORTER_OTLP_{variable}", str(tmp_path / "junk.pem"))
    with pytest.raises(StartupError, match=r"files of PEM.*junk\.pem"):
        protocol()


@pytest.mark.parametrize("protocol", [GrpcTransport, HttpTransport])
def test_certificate_without_its_key(
    protocol: type[Transport], certificate: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE", str(certificate[0]))
    with pytest.raises(StartupError, match="a certificate and its key"):
        protocol()


@pytest.mark.parametrize("protocol", [GrpcTransport, HttpTransport])
@pytest.mark.parametrize(("variable", "value"), [("COMPRESSION", "lzma"), ("TIMEOUT", "soon")])
def test_settings_that_mean_nothing(
    protocol: type[Transport], variable: str, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(f"OTEL_EXPORTER_OTLP_{variable}", value)
    with pytest.raises(StartupError, match="OTEL_EXPORTER_OTLP_"):
        protocol()


@pytest.mark.parametrize("compression", ["none", ""])
@pytest.mark.parametrize("protocol", [GrpcTransport, HttpTransport])
def test_no_compression_and_variables_that_are_empty(
    sink: OtlpSink, protocol: type[Transport], compression: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("METRICS_TIMEOUT", "HEADERS", "CERTIFICATE", "INSECURE"):
        monkeypatch.setenv(f"OTEL_EXPORTER_OTLP_{name}", "")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_COMPRESSION", "gzip")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_METRICS_COMPRESSION", compression)
    monkeypatch.setenv(
        "OTEL_EXPORTER_OTLP_ENDPOINT", sink.grpc_endpoint if protocol is GrpcTransport else sink.http_endpoint
    )
    transport = protocol()
    assert transport.send(request(1000)) == Accepted()
    encodings = [value for name, value in sink.headers[-1].items() if name in {"content-encoding", "grpc-encoding"}]
    assert ("gzip" in encodings) == (compression == "" and protocol is HttpTransport)
    transport.close()


@pytest.mark.parametrize("endpoint", ["http://[there:4317", "ftp://there:4317", "there", "the re:4317"])
def test_grpc_endpoint_that_is_none(endpoint: str) -> None:
    with pytest.raises(StartupError, match="must be http://HOST:PORT"):
        GrpcTransport(endpoint)


def test_grpc_endpoint_without_scheme() -> None:
    transport = GrpcTransport("localhost:4317")
    assert transport.endpoint == "localhost:4317"
    transport.close()


def test_http_endpoint_without_scheme() -> None:
    with pytest.raises(StartupError, match="must be http://HOST:PORT"):
        HttpTransport("localhost:4318")


@pytest.mark.parametrize(
    ("protocol", "head", "byte", "reason"),
    [
        (HttpTransport, b"HTTP/1.1 200 OK\r\nX: ", b"x", "timed out"),
        (HttpTransport, HEAD, b"x", "timed out"),
        (GrpcTransport, SETTINGS + ACCEPTED_SETTINGS + HEAD_OF_ANSWER, ONE_BYTE_OF_ANSWER, "DEADLINE_EXCEEDED"),
    ],
    ids=["http-head", "http-body", "grpc"],
)
def test_an_answer_that_drips_is_cut_off_in_time(
    protocol: type[Transport], head: bytes, byte: bytes, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "500")
    with server_that_answers([head, *[byte] * 600], 0.1) as port:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", f"http://127.0.0.1:{port}")
        transport = protocol()
        began = time.monotonic()
        outcome = transport.send(request())
        assert time.monotonic() - began < 4
        assert isinstance(outcome, Unavailable)
        assert reason in outcome.reason
        transport.close()


def test_grpc_connects_anew_where_the_receiver_went_without_a_word(
    sink: OtlpSink, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "3000")
    transport = GrpcTransport(sink.grpc_endpoint)
    sink.stop()
    with socket.create_server((sink.host, sink.grpc_port)) as listener:
        listener.settimeout(60)
        outcomes: list[object] = []
        sending = threading.Thread(target=lambda: outcomes.append(transport.send(request())))
        sending.start()
        connection, _ = listener.accept()
    with connection:  # which is never closed, as by a machine that lost its power
        connection.sendall(SETTINGS + ACCEPTED_SETTINGS)
        sending.join()
        assert isinstance(outcomes[0], Unavailable)
        sink.start()
        wait_until(lambda: transport.send(request()) == Accepted(), 60, "it to be found again")
    transport.close()


def test_grpc_has_a_connection_of_its_own_whoever_else_speaks_with_the_receiver() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(60)
        transports = [GrpcTransport(f"http://127.0.0.1:{listener.getsockname()[1]}") for _ in range(2)]
        sending = [threading.Thread(target=transport.send, args=(request(),)) for transport in transports]
        connections = []
        for each in sending:
            each.start()
            connections.append(listener.accept()[0])
            connections[-1].sendall(SETTINGS + ACCEPTED_SETTINGS)
    for connection in connections:
        connection.close()
    for transport, each in zip(transports, sending, strict=True):
        each.join()
        transport.close()


def test_an_answer_that_is_too_long_is_not_read() -> None:
    with server_that_answers([HEAD, *[bytes(1 << 20)] * 10]) as port:
        transport = HttpTransport(f"http://127.0.0.1:{port}/v1/metrics")
        outcome = transport.send(request())
        assert isinstance(outcome, Unavailable)
        assert "an answer of more than 1048576 bytes" in outcome.reason
        transport.close()


def test_connections_may_be_made_while_their_sockets_are_asked_for() -> None:
    adapter = _Adapter()
    kept = []

    def connect() -> None:
        kept.extend(adapter._connection(HTTPConnection, host="localhost") for _ in range(3000))

    thread = threading.Thread(target=connect)
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        thread.start()
        while thread.is_alive():
            adapter.sockets()
    finally:
        sys.setswitchinterval(interval)
        thread.join()
    assert adapter.sockets() == [None] * 3000
