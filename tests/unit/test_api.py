"""Credentials that are replaced while requests are under way."""

from __future__ import annotations

import asyncio
import json
import threading
from contextlib import asynccontextmanager

import yaml

from k8s_collector.access import Access
from k8s_collector.api import Api
from tests.api_proxy import ApiProxy, Fault


def kubeconfig(server, token):
    return yaml.safe_dump(
        {
            "current-context": "test",
            "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test"}}],
            "clusters": [{"name": "test", "cluster": {"server": server.url}}],
            "users": [{"name": "test", "user": {"token": token}}],
        }
    )


@asynccontextmanager
async def cluster(tmp_path):
    """A server that accepts one token, the API with it, and what replaces it by another."""
    server = ApiProxy()
    path = tmp_path / "kubeconfig"

    def issue(token):
        path.write_text(kubeconfig(server, token))
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
            async with api.stream("/watch", [], "application/json") as events:
                assert await anext(events) == {"type": "ADDED"}
                issue("second")
                await api.get("/api", [])
                assert server.shown == ["first", "first", "second"]
                rest.set()
                assert len([event async for event in events]) == 1_999

    asyncio.run(scenario())
