import asyncio
import contextlib
import logging
import subprocess

import grpc
import pytest
from ebpf_net.v1 import intake_pb2

from daemon.errors import StartupError
from intake.credentials import ClientCredentials, ServerCredentials, client_credentials, server_credentials
from intake.limits import MOST_MESSAGE_BYTES
from intake.wire import METHOD, SERVICE
from reducer import server
from reducer.server import IntakeServer
from tests.intake_ends import collector, reducer, submit, until

ID = bytes(16)


def message(**fields):
    return intake_pb2.FromCollector(**fields).SerializeToString()


HELLO = message(hello={"protocol_version": 1, "kind": 1, "session_id": ID, "host": {"name": "node"}})


@contextlib.asynccontextmanager
async def raw_stream(port, **options):
    """A stream of bytes, for what no collector of ours would send."""
    # A window that does not grow, so that a reader that does not read is soon felt.
    arguments = [("grpc.use_local_subchannel_pool", 1), ("grpc.http2.bdp_probe", 0)]
    async with grpc.aio.insecure_channel(f"127.0.0.1:{port}", arguments) as channel:
        yield channel.stream_stream(f"/{SERVICE}/{METHOD}")(**options)


async def read(stream):
    return intake_pb2.FromReducer.FromString(await stream.read())


def test_a_malformed_message_is_refused_and_the_stream_goes_on(caplog):
    async def scenario():
        async with reducer() as end, raw_stream(end.port) as stream:
            await stream.write(HELLO)
            assert (await read(stream)).HasField("welcome")
            await stream.write(b"\xff\xff\xff")
            refusal = (await read(stream)).refusal
            assert (refusal.number, refusal.reason) == (0, "not a message of this protocol")
            await stream.write(message(batch={"number": 1, "tcp": {"rows": 2, "socket": b"short"}}))
            refusal = (await read(stream)).refusal
            assert refusal.number == 1
            assert "column socket has 5 bytes" in refusal.reason
            await stream.write(message(batch={"number": 2}))
            await until(lambda: end.pipeline.numbers == [2])
            assert end.sessions.counters.refused == 2

    with caplog.at_level(logging.WARNING):
        asyncio.run(scenario())
    assert "refused batch 0 of the collector of 'node'" in caplog.text


@pytest.mark.parametrize(
    ("first", "code", "told"),
    [
        (message(hello={"protocol_version": 9, "session_id": ID}), grpc.StatusCode.FAILED_PRECONDITION, "version 9"),
        (message(hello={"protocol_version": 1}), grpc.StatusCode.INVALID_ARGUMENT, "session_id"),
        (message(heartbeat={}), grpc.StatusCode.INVALID_ARGUMENT, "Hello"),
        (b"\xff", grpc.StatusCode.INVALID_ARGUMENT, "protocol"),
    ],
)
def test_a_stream_that_cannot_go_on_ends_with_the_reason(first, code, told):
    async def scenario():
        async with reducer() as end, raw_stream(end.port) as stream:
            await stream.write(first)
            assert await stream.code() is code
            assert told in await stream.details()
            assert end.sessions.counters.rejected == 1

    asyncio.run(scenario())


def test_a_stream_without_a_hello_ends(monkeypatch):
    async def scenario():
        async with reducer() as end, raw_stream(end.port) as stream:
            assert await stream.code() is grpc.StatusCode.DEADLINE_EXCEEDED
            assert "no Hello" in await stream.details()

    monkeypatch.setattr(server, "_HELLO_TIMEOUT_S", 0.1)
    asyncio.run(scenario())


def test_rejections_are_logged_now_and_then(caplog):
    async def scenario():
        async with reducer() as end:
            for _ in range(5):
                async with raw_stream(end.port) as stream:
                    await stream.write(b"\xff")
                    await stream.code()
            assert end.sessions.counters.rejected == 5

    asyncio.run(scenario())
    assert len([record for record in caplog.records if "rejected" in record.getMessage()]) == 1


@pytest.mark.parametrize("compression", [grpc.Compression.NoCompression, grpc.Compression.Gzip])
def test_a_message_that_is_too_large_ends_the_stream_and_not_the_reducer(compression):
    async def scenario():
        async with reducer() as end:
            async with raw_stream(end.port, compression=compression) as stream:
                await stream.write(HELLO)
                await read(stream)
                with contextlib.suppress(grpc.aio.AioRpcError, asyncio.InvalidStateError):
                    await stream.write(bytes(MOST_MESSAGE_BYTES + 1))
                assert await stream.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
            async with collector(end.port) as client:
                submit(client)
                await until(lambda: end.pipeline.numbers == [1])

    asyncio.run(scenario())


def test_a_second_stream_takes_the_session_over():
    async def scenario():
        async with reducer() as end, raw_stream(end.port) as first, raw_stream(end.port) as second:
            await first.write(HELLO)
            await read(first)
            await second.write(HELLO)
            await read(second)
            assert await first.code() is grpc.StatusCode.ABORTED
            assert "took this session over" in await first.details()
            await second.write(message(batch={"number": 1}))
            await until(lambda: end.pipeline.numbers == [1])
            end.server.safe({ID: 1})
            assert (await read(second)).ack.number == 1

    asyncio.run(scenario())


def test_a_stream_that_ends_in_good_order_is_ok():
    async def scenario():
        async with reducer() as end, raw_stream(end.port) as stream:
            await stream.write(HELLO)
            await read(stream)
            await stream.done_writing()
            assert await stream.code() is grpc.StatusCode.OK
            await until(lambda: not list(end.sessions.connected()))
            assert len(end.sessions) == 1

    asyncio.run(scenario())


def test_a_collector_that_dies_is_disconnected():
    async def scenario():
        async with reducer() as end:
            async with raw_stream(end.port) as stream:
                await stream.write(HELLO)
                await read(stream)
                assert len(list(end.sessions.connected())) == 1
            await until(lambda: not list(end.sessions.connected()))

    asyncio.run(scenario())


def test_a_collector_that_does_not_read_holds_up_nobody():
    async def scenario():
        async with reducer() as end, raw_stream(end.port) as stream, collector(end.port) as client:
            await stream.write(HELLO)
            await read(stream)
            written = 0
            with contextlib.suppress(TimeoutError):
                while written < 20_000:  # until the server waits for this collector to read its refusals
                    await asyncio.wait_for(stream.write(b"\xff" * 20_000), 1)
                    written += 1
            assert written < 20_000
            submit(client)
            await until(lambda: end.pipeline.numbers == [1])

    asyncio.run(scenario())


def test_a_port_in_use_is_told():
    async def scenario():
        async with reducer() as end:
            second = IntakeServer(end.sessions, ServerCredentials(), lambda: False)
            with pytest.raises(StartupError, match=rf"cannot listen on port {end.port}.*--port"):
                await second.start(end.port)

    asyncio.run(scenario())


@pytest.mark.parametrize("host", ["127.0.0.1", "::1", "localhost"])
def test_both_families_are_served(host):
    async def scenario():
        async with reducer() as end, collector(end.port, host) as client:
            submit(client)
            await until(lambda: end.pipeline.numbers == [1])

    asyncio.run(scenario())


@pytest.mark.parametrize(("token", "admitted"), [("right", True), ("wrong", False), ("", False)])
def test_a_token_is_asked_for(caplog, token, admitted):
    async def scenario():
        credentials = ServerCredentials(token="right")
        async with (
            reducer(credentials=credentials) as end,
            collector(end.port, credentials=ClientCredentials(token=token)) as client,
        ):
            submit(client)
            if admitted:
                await until(lambda: end.pipeline.numbers == [1])
            else:
                await until(lambda: "UNAUTHENTICATED" in caplog.text)
                assert end.sessions.counters.messages == 0
                assert end.sessions.counters.rejected > 0

    asyncio.run(scenario())
    assert "right" not in caplog.text


@pytest.fixture(scope="module")
def authority(tmp_path_factory):
    """An authority with a certificate for the reducer and one for a collector, and another authority."""
    directory = tmp_path_factory.mktemp("certificates")

    def openssl(*arguments):
        subprocess.run(["openssl", *arguments], cwd=directory, check=True, capture_output=True)

    new_key = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes")
    for name in ("ca", "other"):
        openssl(
            "req",
            "-x509",
            *new_key,
            "-days",
            "2",
            "-subj",
            f"/CN={name}",
            "-keyout",
            f"{name}.key",
            "-out",
            f"{name}.pem",
        )
    (directory / "extensions").write_text("subjectAltName=DNS:localhost,IP:127.0.0.1")
    for name in ("reducer", "collector"):
        openssl("req", *new_key, "-subj", f"/CN={name}", "-keyout", f"{name}.key", "-out", f"{name}.csr")
        openssl(
            "x509", "-req", "-in", f"{name}.csr", "-CA", "ca.pem", "-CAkey", "ca.key", "-CAcreateserial", "-days", "2",
            "-extfile", "extensions", "-out", f"{name}.pem",
        )  # fmt: skip
    return directory


def over_tls(authority, *, ca="ca.pem", client_ca=None, certificate=None):
    shown = server_credentials(
        tls_certificate=authority / "reducer.pem",
        tls_key=authority / "reducer.key",
        tls_client_ca=client_ca and authority / client_ca,
        token_file=None,
    )
    client = client_credentials(
        "localhost",
        intake_tls_ca=ca and authority / ca,
        intake_tls_certificate=certificate and authority / f"{certificate}.pem",
        intake_tls_key=certificate and authority / f"{certificate}.key",
        intake_token_file=None,
    )

    async def scenario():
        async with (
            reducer(credentials=shown) as end,
            collector(end.port, "localhost", credentials=client) as session,
        ):
            submit(session)
            with contextlib.suppress(TimeoutError):
                await until(lambda: end.pipeline.numbers == [1], 3.0)
            return end.pipeline.numbers == [1]

    return asyncio.run(scenario())


def test_tls(authority):
    assert over_tls(authority)


def test_tls_with_an_authority_that_is_not_the_reducers(authority, caplog):
    assert not over_tls(authority, ca="other.pem")
    assert "CERTIFICATE_VERIFY_FAILED" in caplog.text


def test_plaintext_to_a_reducer_with_tls(authority):
    assert not over_tls(authority, ca=None)


def test_mutual_tls(authority):
    assert over_tls(authority, client_ca="ca.pem", certificate="collector")


def test_mutual_tls_without_a_certificate(authority):
    assert not over_tls(authority, client_ca="ca.pem")


def test_mutual_tls_with_a_certificate_of_another_authority(authority):
    assert not over_tls(authority, client_ca="other.pem", certificate="collector")
