"""The client of otlp_log with a receiver on loopback that is down, busy, wrong or slow."""

from __future__ import annotations

import asyncio
import contextlib
import email.utils
import logging
import ssl
import subprocess
import time
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import numpy as np
import pytest
from ebpf_net.v1 import intake_pb2

from daemon.export_outcome import Unavailable
from intake.columns import empty_columns
from intake.credentials import ClientCredentials, client_credentials
from kernel_collector.otlp_log import client as otlp_log
from kernel_collector.otlp_log import receiver as log_receiver
from kernel_collector.otlp_log.client import OtlpLogClient
from kernel_collector.otlp_log.receiver import LogReceiver
from tests.http_answers import server_that_answers
from tests.intake_ends import until
from tests.otlp_log_sink import LogSink, log_sink

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(autouse=True)
def _soon(monkeypatch):
    monkeypatch.setattr(otlp_log, "_FIRST_BACKOFF_S", 0.05)
    monkeypatch.setattr(otlp_log, "_LONGEST_BACKOFF_S", 0.2)


def submit(client, first, count=10):
    rows = empty_columns(count)
    rows["socket"][:] = np.arange(first, first + count)
    rows["bytes_sent"][:] = 3
    return client.submit(time.time_ns(), intake_pb2.Entities(), {"tcp": rows}, intake_pb2.CollectorStatistics())


def sockets(sink):
    return [record.attributes["ebpf_net.socket.cookie"] for record in sink.of("ebpf_net.tcp")]


@asynccontextmanager
async def running(port, credentials=None, **limits):
    host = intake_pb2.Host(name="node")
    client = OtlpLogClient("127.0.0.1", port, host, credentials or ClientCredentials(), **limits)
    task = asyncio.create_task(client.run())
    try:
        yield client
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


def test_records_come_in_order_and_the_host_once():
    async def scenario():
        with log_sink() as sink:
            async with running(sink.port, ClientCredentials(token="secret")) as client:
                for number in range(1, 4):
                    assert submit(client, 10 * number) == number
                assert client.acknowledged == 3
                assert await client.finish(60)
        assert sockets(sink) == list(range(10, 40))
        assert len(sink.of("ebpf_net.host", host__name="node")) == 1
        assert client.bytes == client.rows_dropped == client.requests_refused == 0
        assert {request["path"] for request in sink.requests} == {"/v1/logs"}
        assert {request["authorization"] for request in sink.requests} == {"Bearer secret"}
        assert {request["content-type"] for request in sink.requests} == {"application/x-protobuf"}

    asyncio.run(scenario())


def test_a_receiver_that_is_down_for_a_while_gets_all(caplog):
    async def scenario():
        with log_sink() as sink:
            pass
        async with running(sink.port) as client:
            for number in range(20):
                submit(client, 10 * number + 1)
                await asyncio.sleep(0.05)
            with log_sink(sink):
                await until(lambda: not client.bytes)
                assert len(sockets(sink)) == 200
            for number in range(20, 30):  # gone again
                submit(client, 10 * number + 1)
                await asyncio.sleep(0.02)
            with log_sink(sink):
                assert await client.finish(60)
        assert sorted(sockets(sink)) == list(range(1, 301))
        assert client.rows_dropped == 0

    with caplog.at_level(logging.INFO):
        asyncio.run(scenario())
    told = [record.levelname for record in caplog.records]
    assert told[:2] == ["WARNING", "INFO"]
    assert len(told) <= 4


@pytest.mark.parametrize("status", [429, 502, 503, 504])
def test_waits_as_long_as_the_receiver_says(status):
    async def scenario():
        with log_sink(LogSink(answers=[(status, {"Retry-After": "1"})])) as sink:
            async with running(sink.port) as client:
                started = time.monotonic()
                submit(client, 1)
                await until(lambda: len(sockets(sink)) == 10)
                assert time.monotonic() - started >= 1
                assert client.requests_refused == 0

    asyncio.run(scenario())


@pytest.mark.parametrize("status", [400, 401, 404, 413, 500, 301])
def test_what_is_refused_is_counted_and_told_once(status, caplog):
    async def scenario():
        with log_sink(LogSink(answers=[(status, {"Location": "/elsewhere"})] * 2)) as sink:
            async with running(sink.port) as client:
                for number in range(3):
                    submit(client, 10 * number + 1)
                assert await client.finish(60)
        assert sockets(sink) == list(range(21, 31))
        assert client.requests_refused == 2
        assert len(sink.requests) == 3

    asyncio.run(scenario())
    [error] = [record.message for record in caplog.records if record.levelname == "ERROR"]
    assert f"refused 12 records: {status}" in error


def test_partial_success_is_told(caplog):
    async def scenario():
        with log_sink(LogSink(rejected=4)) as sink:
            async with running(sink.port) as client:
                submit(client, 1)
                assert await client.finish(60)
        assert client.requests_refused == 1

    asyncio.run(scenario())
    assert "rejected 4 records: too old" in caplog.text


def test_bounded_and_counted():
    async def scenario():
        with log_sink() as sink:
            pass
        async with running(sink.port, limit=5_000) as client:
            for number in range(100):
                submit(client, 10 * number + 1)
                assert client.bytes <= 5_000
            dropped = client.rows_dropped
            assert 0 < dropped < 1_000
            assert client.bytes_dropped == 3 * dropped
            with log_sink(sink):
                assert await client.finish(60)
        assert sorted(sockets(sink)) == list(range(dropped + 1, 1_001))  # the oldest are lost
        [last] = {record.attributes.get("ebpf_net.collector.spool_rows_dropped", 0) for record in sink.records[-1:]}
        assert 0 < last <= dropped

    asyncio.run(scenario())


def test_the_end_does_not_wait_for_a_receiver_that_is_down():
    async def scenario():
        with log_sink() as sink:
            pass
        async with running(sink.port) as client:
            submit(client, 1)
            started = time.monotonic()
            assert not await client.finish(0.3)
            assert time.monotonic() - started < 2

    asyncio.run(scenario())


def test_an_idle_connection_that_the_receiver_closed_is_no_failure(caplog):
    async def scenario():
        with log_sink() as sink:
            async with running(sink.port) as client:
                submit(client, 1)
                await until(lambda: not client.bytes)
                assert len(sockets(sink)) == 10
                client._receiver._connection.sock.shutdown(2)
                submit(client, 11)
                assert await client.finish(60)
        assert sockets(sink) == list(range(1, 21))

    asyncio.run(scenario())
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


def test_retry_after_in_both_forms():
    soon = email.utils.formatdate(time.time() + 30, usegmt=True)
    assert log_receiver._seconds("7") == 7
    assert 25 < log_receiver._seconds(soon) <= 30
    assert log_receiver._seconds("Wed, 21 Oct 2015 07:28:00 GMT") == 0
    for nonsense in ("", "soon", "-1", "1e999", "²"):
        assert log_receiver._seconds(nonsense) == 0


def test_urls():
    assert LogReceiver("::1", 4318, ClientCredentials()).url == "http://[::1]:4318/v1/logs"
    assert (
        LogReceiver("host", 443, ClientCredentials(tls=ssl.create_default_context())).url == "https://host:443/v1/logs"
    )


def test_tls(tmp_path: Path):
    certificate, key = tmp_path / "certificate.pem", tmp_path / "key.pem"
    request = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=localhost"
    names = ("-addext", "subjectAltName=DNS:localhost", "-keyout", key, "-out", certificate)
    subprocess.run([*request.split(), *names], check=True, capture_output=True)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    files = dict.fromkeys(("intake_tls_certificate", "intake_tls_key", "intake_token_file"))
    credentials = client_credentials("localhost", intake_tls_ca=certificate, **files)
    with log_sink(tls=context) as sink:
        body = b"\x1f\x8b" + b"x"
        trusting = LogReceiver("localhost", sink.port, credentials)
        sink.answers.append((503, {}))
        assert trusting.send(body) == Unavailable("503 Service Unavailable")
        trusting.close()
        wary = LogReceiver("localhost", sink.port, ClientCredentials(tls=ssl.create_default_context()))
        outcome = wary.send(body)
        assert isinstance(outcome, Unavailable)
        assert "certificate" in outcome.reason
        assert len(sink.requests) == 1


def test_an_answer_that_drips_is_cut_off_in_time(monkeypatch):
    monkeypatch.setattr(log_receiver, "TIMEOUT_S", 0.5)
    with server_that_answers([b"HTTP/1.1 200 OK\r\nX: ", *[b"x"] * 60], 0.1) as port:
        receiver = LogReceiver("127.0.0.1", port, ClientCredentials())
        began = time.monotonic()
        assert receiver.send(b"") == Unavailable("timed out")
        assert time.monotonic() - began < 4
        receiver.close()
