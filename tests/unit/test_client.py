import asyncio
import contextlib
import logging
import socket
import subprocess
import time

import grpc
import pytest

from intake import client as module
from intake import session, wire
from intake.clock import SECOND_NS
from intake.credentials import ClientCredentials, ServerCredentials
from tests.intake_ends import Network, collector, reducer, submit, until
from tests.ports import free_ports


def run(coroutine):
    return asyncio.run(coroutine)


def test_batches_come_through_and_acknowledgements_back():
    async def scenario():
        async with reducer() as end, collector(end.port) as client:
            for _ in range(3):
                submit(client)
            await until(lambda: end.pipeline.numbers == [1, 2, 3])
            assert (end.pipeline.rows, end.pipeline.bytes, end.pipeline.hosts) == (30, 30, ["node"])
            assert client.poll_interval_ns == 1_000_000_000
            assert client.acknowledged == 0
            [session] = end.sessions.connected()
            end.server.safe({session.id: 2})
            await until(lambda: client.acknowledged == 2)
            assert len(client.spool) == 1
            await until(lambda: abs(end.pipeline.heard_ns - time.time_ns()) < 1e9)

    run(scenario())


def test_a_reducer_that_comes_late_gets_all():
    async def scenario():
        async with reducer() as end:
            await end.stop()
            async with collector(end.port) as client:
                submit(client)
                await asyncio.sleep(0.5)
                await end.start()
                await until(lambda: end.pipeline.numbers == [1])

    run(scenario())


@pytest.mark.parametrize("durable", [True, False])
def test_a_reducer_that_restarts_gets_what_was_not_safe(durable):
    async def scenario():
        async with reducer() as end, collector(end.port) as client:
            for _ in range(4):
                submit(client)
            await until(lambda: len(end.pipeline.numbers) == 4)
            [session] = end.sessions.connected()
            end.server.safe({session.id: 2})
            await until(lambda: client.acknowledged == 2)
            await end.stop()
            end.pipeline.numbers.clear()
            submit(client)
            await end.start({session.id: 2} if durable else {})
            await until(lambda: end.pipeline.numbers == [3, 4, 5])
            assert end.sessions.counters.duplicates == 0

    run(scenario())


def test_a_connection_that_a_firewall_swallows_is_opened_again(monkeypatch):
    monkeypatch.setattr(session, "SILENCE_TIMEOUT_NS", 3 * SECOND_NS)

    async def scenario():
        async with reducer(heartbeat_interval_ns=SECOND_NS) as end:
            network = Network(end.port)
            await network.start()
            async with collector(network.port) as client:
                submit(client)
                await until(lambda: end.pipeline.numbers == [1])
                network.swallow()
                started = time.monotonic()
                submit(client)
                await until(lambda: end.pipeline.numbers == [1, 2], timeout_s=30)
                # Heartbeats 1 s apart, 3 s unanswered, and the look once a second.
                assert time.monotonic() - started < 10
                assert end.sessions.counters.duplicates == 1
            await network.stop()

    run(scenario())


def test_a_port_that_says_nothing_is_given_up(caplog, monkeypatch):
    monkeypatch.setattr(module, "_CONNECT_TIMEOUT_S", 1.0)

    async def scenario():
        silent = socket.socket()
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        with contextlib.closing(silent):
            async with collector(silent.getsockname()[1]) as client:
                submit(client)
                await until(lambda: "no connection" in caplog.text, timeout_s=20)

    with caplog.at_level(logging.WARNING):
        run(scenario())


@pytest.mark.parametrize(
    ("secure", "advice"), [(False, "may want TLS (--intake-tls-ca)"), (True, "may want a certificate")]
)
def test_reducer_that_ends_connections_before_a_word_may_want_more(caplog, secure, advice):
    async def end(_reader, writer):
        writer.close()

    async def scenario():
        server = await asyncio.start_server(end, "127.0.0.1", 0)
        credentials = ClientCredentials(grpc.ssl_channel_credentials() if secure else None)
        async with server, collector(server.sockets[0].getsockname()[1], credentials=credentials):
            await until(lambda: "no connection" in caplog.text, timeout_s=20)

    with caplog.at_level(logging.WARNING):
        run(scenario())
    assert advice in caplog.text


@pytest.fixture(scope="module")
def certificates(tmp_path_factory):
    """Return certificates and keys of three reducers, two of them for localhost, none the other's authority."""
    directory = tmp_path_factory.mktemp("certificates")
    request = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -subj /CN=localhost"
    pairs = []
    for name, of_host in (("one", "DNS:localhost"), ("two", "DNS:localhost"), ("three", "IP:127.0.0.1")):
        files = [directory / f"{name}.pem", directory / f"{name}.key"]
        command = [*request.split(), "-addext", f"subjectAltName={of_host}", "-out", files[0], "-keyout", files[1]]
        subprocess.run(command, check=True, capture_output=True)
        pairs.append([path.read_bytes() for path in files])
    return pairs


@pytest.fixture
def tls_ends(certificates, request):
    """Return what a reducer shows, a certificate or none, and what a collector takes for the authority."""
    shown, trusted = request.param
    pairs = [] if shown is None else [tuple(reversed(certificates[shown]))]
    server = ServerCredentials(grpc.ssl_server_credentials(pairs) if pairs else None)
    return server, ClientCredentials(grpc.ssl_channel_credentials(certificates[trusted][0]))


@pytest.mark.parametrize(
    ("tls_ends", "host", "advice"),
    [
        ((0, 1), "localhost", "is the authority of the reducer's certificate in the file of --intake-tls-ca?"),
        ((0, 0), "127.0.0.1", "--intake-host must be a name that the reducer's certificate has"),
        ((2, 2), "localhost", "--intake-host must be a name that the reducer's certificate has"),
        ((None, 0), "localhost", "the reducer has no TLS: give it --tls-certificate"),
    ],
    indirect=["tls_ends"],
)
def test_what_is_wrong_with_tls_is_said_with_what_to_look_at(caplog, tls_ends, host, advice):
    server, client = tls_ends

    async def scenario():
        async with reducer(credentials=server) as end, collector(end.port, host, credentials=client):
            await until(lambda: "no connection" in caplog.text)

    with caplog.at_level(logging.WARNING):
        run(scenario())
    assert advice in caplog.text


def test_each_loss_is_logged_once_with_the_reason_and_so_is_the_return(caplog):
    async def scenario():
        async with reducer() as end, collector(end.port):
            await until(lambda: end.pipeline.snapshots == 1)
            for snapshots in (2, 3):
                await end.stop()
                await asyncio.sleep(2)
                await end.start()
                await until(lambda snapshots=snapshots: end.pipeline.snapshots >= snapshots)

    with caplog.at_level(logging.INFO, "intake"):
        run(scenario())
    told = [(record.levelname, record.getMessage()) for record in caplog.records if record.name == "intake.client"]
    assert [level for level, _ in told] == ["INFO", "WARNING", "INFO", "WARNING", "INFO"], told
    assert "trying again" in told[1][1]


def test_nobody_there_is_logged_once(caplog):
    async def scenario():
        async with collector(*free_ports(1)):
            await asyncio.sleep(2)

    with caplog.at_level(logging.INFO, "intake"):
        run(scenario())
    [record] = [record for record in caplog.records if record.name == "intake.client"]
    assert "Connection refused" in record.getMessage()


def test_finish_waits_until_the_reducer_has_taken_all():
    async def scenario():
        async with reducer() as end, collector(end.port) as client:
            for _ in range(50):
                submit(client, 1_000)
            assert await client.finish(60)
            assert end.pipeline.rows == 50_000
            await until(lambda: not list(end.sessions.connected()))

    run(scenario())


def test_finish_does_not_wait_for_ever_for_nobody():
    async def scenario():
        async with collector(*free_ports(1)) as client:
            submit(client)
            started = time.monotonic()
            assert not await client.finish(0.5)
            assert 0.4 < time.monotonic() - started < 2

    run(scenario())


def test_an_overloaded_reducer_reads_nothing_and_keeps_its_collectors():
    async def scenario():
        async with reducer() as end, collector(end.port) as client:
            await until(lambda: end.pipeline.snapshots == 1)
            end.overloaded = True
            await asyncio.sleep(0.3)
            before = end.sessions.counters.messages
            for _ in range(200):
                submit(client, 5_000)
            await asyncio.sleep(1)
            assert end.sessions.counters.messages <= before + 1
            assert client.session.welcomed
            end.overloaded = False
            await until(lambda: end.pipeline.numbers and end.pipeline.numbers[-1] == 200)
            assert len(end.pipeline.hosts) == 1

    run(scenario())


def test_the_server_lets_a_collector_ping_as_often_as_it_does():
    client, server = dict(wire.CLIENT_OPTIONS), dict(wire.SERVER_OPTIONS)
    assert client["grpc.keepalive_time_ms"] > server["grpc.http2.min_ping_interval_without_data_ms"]
