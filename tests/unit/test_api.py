"""Credentials that are replaced while requests are under way, and connections."""

from __future__ import annotations

import asyncio
import base64
import json
import re
import socket
import ssl
import subprocess
import tempfile
import threading
import time
from contextlib import asynccontextmanager

import pytest
import yaml
from aiohttp.client_proto import ResponseHandler
from kubernetes.aio.client.api_client import ApiClient
from kubernetes.aio.client.configuration import Configuration

from daemon.errors import StartupError
from k8s_collector import api as module
from k8s_collector.access import Access
from k8s_collector.api import Api, ApiError
from k8s_collector.decoding import WHOLE
from tests.api_proxy import ApiProxy, Fault


def kubeconfig(cluster, token):
    return yaml.safe_dump(
        {
            "current-context": "test",
            "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test"}}],
            "clusters": [{"name": "test", "cluster": cluster}],
            "users": [{"name": "test", "user": {"token": token}}],
        }
    )


@asynccontextmanager
async def cluster(tmp_path):
    """A server that accepts one token, the API with it, and what replaces it by another."""
    server = ApiProxy()
    path = tmp_path / "kubeconfig"

    def issue(token):
        path.write_text(kubeconfig({"server": server.url}, token))
        server.accepted = token

    issue("first")
    api = await Api.open(Access(str(path)))
    yield server, api, issue
    await api.close()
    server.close()


def test_requests_at_the_same_time_outlive_credentials_that_are_replaced(tmp_path):
    """Each is refused at most once, whichever of them reads the new credentials first."""

    async def scenario():
        async with cluster(tmp_path) as (server, api, issue):
            server.fault_for = lambda _: Fault(200)

            async def ask(times):
                for _ in range(times):
                    assert await api.get("/api", []) == {}

            for token in range(5):
                async with asyncio.TaskGroup() as tasks:
                    for _ in range(20):
                        tasks.create_task(ask(10))
                    issue(f"{token}")
            assert "4" in server.shown

    asyncio.run(scenario())


def test_a_stream_goes_on_when_the_credentials_it_was_granted_with_are_replaced(tmp_path):
    async def scenario():
        async with cluster(tmp_path) as (server, api, issue):
            line = json.dumps({"type": "ADDED"}).encode() + b"\n"
            rest = threading.Event()
            watch = Fault(200, body=line * 2_000, until=rest)
            server.fault_for = lambda path: watch if "watch" in path else Fault(200)
            async with api.stream("/watch", [], "application/json", WHOLE) as events:
                assert await anext(events) == {"type": "ADDED"}
                issue("second")
                await api.get("/api", [])
                assert server.shown == ["first", "first", "second"]
                rest.set()
                assert len([event async for event in events]) == 1_999

    asyncio.run(scenario())


@asynccontextmanager
async def answered_by(answer):
    """What asks a server that answers each connection with this coroutine function."""
    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    async with server, ApiClient(Configuration(host=url)) as client:
        yield Api(Access("test"), client)


def test_a_stream_can_be_cancelled_while_it_gathers_what_comes_though_its_connection_was_lost(monkeypatch):
    monkeypatch.setattr(module, "GATHER_S", 5.0)
    first = asyncio.Event()

    async def follow(api: Api) -> None:
        async with api.stream("/watch", [], "application/json", WHOLE) as events:
            async for _ in events:
                first.set()

    async def answer(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b'HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n\r\n{"number": 0}\n')
        await first.wait()
        writer.transport.abort()

    async def scenario():
        lost = asyncio.Event()
        connection_lost = ResponseHandler.connection_lost
        monkeypatch.setattr(ResponseHandler, "connection_lost", lambda *args: [connection_lost(*args), lost.set()])
        async with answered_by(answer) as api:
            following = asyncio.create_task(follow(api))
            await lost.wait()
            await asyncio.sleep(0.01)  # its socket is closed after that
            following.cancel()
            await asyncio.wait([following])
            assert following.cancelled()

    asyncio.run(scenario())


def test_what_comes_after_a_silence_is_told_at_once_also_in_pieces(monkeypatch):
    monkeypatch.setattr(module, "GATHER_S", 3)
    told = asyncio.Event()
    sent: list[float] = []

    async def answer(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n\r\n")
        for number in range(2):
            for piece in (b'{"num', b'ber": %d}\n' % number):
                await asyncio.sleep(0.05)
                writer.write(piece)
            sent.append(time.monotonic())
            await told.wait()
            told.clear()
            await asyncio.sleep(1.3 * module.GATHER_S * (number == 0))
        writer.close()

    async def scenario():
        async with answered_by(answer) as api:
            stream = api.stream("/watch", [], "application/json", WHOLE)
            async with stream as events, asyncio.timeout(20):
                for number in range(2):
                    assert await anext(events) == {"number": number}
                    assert time.monotonic() - sent[number] < 2
                    told.set()
                assert [event async for event in events] == []

    asyncio.run(scenario())


def test_a_stream_that_is_silent_for_long_has_ended(monkeypatch):
    monkeypatch.setattr(module, "_SILENCE_S", 1)
    monkeypatch.setattr(module, "GATHER_S", 0.01)
    head = b'HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n\r\n{"number": 0}\n'
    begun = []

    async def answer(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(head + (b'{"num' if begun else b""))
        begun.append(writer)

    async def follow(api: Api) -> list[object]:
        async with api.stream("/watch", [], "application/json", WHOLE) as events, asyncio.timeout(60):
            return [event async for event in events]

    async def scenario():
        async with answered_by(answer) as api:
            assert await follow(api) == [{"number": 0}]
            with pytest.raises(ApiError, match="broke off in the middle"):
                await follow(api)
            for writer in begun:
                writer.close()

    asyncio.run(scenario())


def test_what_a_stream_tells_shortly_after_another_is_read_together(monkeypatch):
    """The first comes at once, those after it wake nobody until the time is over."""
    monkeypatch.setattr(module, "GATHER_S", 0.5)
    wakes = []
    received = ResponseHandler.data_received
    monkeypatch.setattr(ResponseHandler, "data_received", lambda *args: [wakes.append(1), received(*args)])
    go_on = asyncio.Event()

    async def answer(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n\r\n")
        for number in range(41):
            writer.write(b'{"number": %d}\n' % number)
            await writer.drain()
            await (go_on.wait() if number == 0 else asyncio.sleep(0.005))
        writer.close()

    async def scenario():
        async with answered_by(answer) as api, api.stream("/watch", [], "application/json", WHOLE) as events:
            assert await anext(events) == {"number": 0}
            wakes.clear()
            begin = time.monotonic()
            go_on.set()
            assert [event["number"] async for event in events] == list(range(1, 41))
        assert len(wakes) <= 3 + (time.monotonic() - begin) / module.GATHER_S

    asyncio.run(scenario())


def certificate(directory, names="IP:127.0.0.1"):
    """Make one for loopback that is its own authority; return its file and that of its key."""
    made, key = directory / "ca.crt", directory / "server.key"
    extensions = (f"subjectAltName={names}", "keyUsage=critical,digitalSignature,keyCertSign")
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=test", "-days", "1"]
        + ["-out", made, "-keyout", key]
        + [word for each in extensions for word in ("-addext", each)],
        check=True,
        capture_output=True,
    )
    return made, key


def test_an_authority_that_is_replaced_is_read_again(tmp_path):
    async def answer(reader, writer):
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\n{}")
        await writer.drain()
        writer.close()

    async def scenario():
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        context.load_cert_chain(*certificate(tmp_path))
        async with await asyncio.start_server(answer, "127.0.0.1", 0, ssl=context) as server:
            port = server.sockets[0].getsockname()[1]
            path = tmp_path / "kubeconfig"
            cluster = {"server": f"https://127.0.0.1:{port}", "certificate-authority": f"{tmp_path / 'ca.crt'}"}
            path.write_text(kubeconfig(cluster, "token"))
            api = await Api.open(Access(str(path)))
            assert await api.get("/api", []) == {}
            context.load_cert_chain(*certificate(tmp_path))
            assert await api.get("/api", []) == {}
            await api.close()

    asyncio.run(scenario())


@asynccontextmanager
async def serving_tls(directory, names, **of_cluster):
    """Serve by IPv6, under a path as Rancher does; yield a kubeconfig of it, and the heads of the requests."""
    heads = []

    async def answer(reader, writer):
        heads.append((await reader.readuntil(b"\r\n\r\n")).decode())
        writer.write(b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\n{}")
        await writer.drain()
        writer.close()

    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    made, key = certificate(directory, names)
    context.load_cert_chain(made, key)
    context.load_verify_locations(made)
    context.verify_mode = ssl.CERT_REQUIRED
    async with await asyncio.start_server(answer, "::1", 0, ssl=context) as server:
        port = server.sockets[0].getsockname()[1]
        data = {name: base64.b64encode(path.read_bytes()).decode() for name, path in (("crt", made), ("key", key))}
        cluster = {"server": f"https://[::1]:{port}/k8s/clusters/c-abc/", "certificate-authority-data": data["crt"]}
        user = {"client-certificate-data": data["crt"], "client-key-data": data["key"]}
        user |= {"as": "jane", "as-groups": ["dev", "ops"]}
        content = {
            "current-context": "test",
            "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test"}}],
            "clusters": [{"name": "test", "cluster": cluster | of_cluster}],
            "users": [{"name": "test", "user": user}],
        }
        path = directory / "kubeconfig"
        path.write_text(yaml.safe_dump(content))
        yield path, heads


@pytest.mark.parametrize(
    ("names", "of_cluster"),
    [("IP:::1", {}), ("DNS:api.test", {"tls-server-name": "api.test"})],
    ids=["address", "name"],
)
def test_a_server_by_ipv6_under_a_path_is_shown_a_certificate_that_nothing_is_left_of(
    tmp_path, monkeypatch, names, of_cluster
):
    files = tmp_path / "temporary"
    files.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(files))

    async def scenario():
        async with serving_tls(tmp_path, names, **of_cluster) as (path, heads):
            for _ in range(2):
                api = await Api.open(Access(str(path)))
                assert list(files.iterdir()) == []
                assert await api.get("/api/v1/pods", []) == {}
                await api.close()
        for head in heads:
            assert head.startswith("GET /k8s/clusters/c-abc/api/v1/pods HTTP/1.1\r\n")
            assert re.findall("Impersonate-(.*)\r", head) == ["User: jane", "Group: dev", "Group: ops"]

    asyncio.run(scenario())


def test_of_a_key_in_a_kubeconfig_that_cannot_be_used_nothing_is_left(tmp_path, monkeypatch):
    files = tmp_path / "temporary"
    files.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(files))
    data = base64.b64encode(b"secret").decode()
    user = {"client-certificate-data": data, "client-key-data": data}
    path = tmp_path / "kubeconfig"
    content = yaml.safe_load(kubeconfig({"server": "no URL"}, ""))
    path.write_text(yaml.safe_dump(content | {"users": [{"name": "test", "user": user}]}))
    with pytest.raises(StartupError, match="has a server that is no URL"):
        asyncio.run(Api.open(Access(str(path))))
    assert list(files.iterdir()) == []


def test_a_certificate_of_another_name_is_told_of_as_that(tmp_path):
    async def scenario():
        async with serving_tls(tmp_path, "DNS:api.test") as (path, _):
            api = await Api.open(Access(str(path)))
            with pytest.raises(
                ApiError, match=r"has another name: see to the server's URL, or give .* tls-server-name"
            ):
                await api.get("/api", [])
            await api.close()

    asyncio.run(scenario())


def test_who_is_nobody_to_the_server_is_told_to_see_to_the_credentials(tmp_path):
    proxy = ApiProxy()
    refused = b'{"kind": "Status", "message": "pods is forbidden: User \\"system:anonymous\\" cannot list resource"}'
    proxy.faults.append(Fault(403, body=refused))
    path = tmp_path / "kubeconfig"
    path.write_text(kubeconfig({"server": proxy.url}, "token"))

    async def scenario():
        api = await Api.open(Access(str(path)))
        with pytest.raises(ApiError, match=r"does not accept the credentials of kubeconfig .*: 403 Forbidden: pods is"):
            await api.get("/api/v1/pods", [])
        await api.close()

    try:
        asyncio.run(scenario())
    finally:
        proxy.close()


def test_a_token_may_end_with_a_newline(tmp_path):
    async def scenario():
        async with cluster(tmp_path) as (server, api, issue):
            server.fault_for = lambda _: Fault(200)
            issue("second")
            token = tmp_path / "token"
            token.write_text("second\n")
            path = tmp_path / "kubeconfig"
            content = yaml.safe_load(path.read_text())
            path.write_text(yaml.safe_dump(content | {"users": [{"name": "test", "user": {"tokenFile": str(token)}}]}))
            assert await api.get("/api", []) == {}
            assert server.shown[-1] == "second"

    asyncio.run(scenario())


def test_what_is_cut_off_silently_is_found_out_by_the_kernel(tmp_path, monkeypatch):
    """A firewall that swallows all leaves a connection that looks as if nothing happened in the cluster."""
    kept = []
    made = module._keep_alive
    monkeypatch.setattr(
        module, "_keep_alive", lambda response: (made(response), kept.append(module._socket_of(response)))
    )

    async def scenario():
        async with cluster(tmp_path) as (server, api, _):
            rest = threading.Event()
            server.fault_for = lambda _: Fault(200, body=b"{}\n" * 2, until=rest)
            async with api.stream("/watch", [], "application/json", WHOLE) as events:
                await anext(events)
                assert kept[0].getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
                wanted = (socket.TCP_KEEPIDLE, socket.TCP_KEEPINTVL, socket.TCP_KEEPCNT)
                assert [kept[0].getsockopt(socket.IPPROTO_TCP, each) for each in wanted] == [30, 5, 3]
                rest.set()

    asyncio.run(scenario())
