"""The collector, put together, against a server that says what a test wants."""

from __future__ import annotations

import asyncio
import json
import time
from contextlib import asynccontextmanager
from urllib.parse import parse_qs, urlsplit

import pytest
import yaml

from intake.options import IntakeSettings
from k8s_collector import collector as module
from k8s_collector.access import Access
from k8s_collector.api import Api
from k8s_collector.collector import ClusterSink, K8sCollector
from k8s_collector.once import print_once
from k8s_collector.options import Settings
from k8s_collector.resources import PODS, WATCHED
from tests.api_proxy import ApiProxy, Fault
from tests.entity_sink import EntitySink
from tests.k8s_objects import pod

SILENCE = "watch=1"


@pytest.fixture
def server():
    """A server with a pod in the namespace shop, and nothing else."""
    proxy = ApiProxy()

    def fault_for(path):
        items = [pod("u1")] if urlsplit(path).path.endswith(("/api/v1/pods", "/shop/pods")) else []
        body = {"metadata": {"resourceVersion": "7"}, "items": items}
        return Fault(200, body=b"" if SILENCE in path else json.dumps(body).encode())

    proxy.fault_for = fault_for
    yield proxy
    proxy.close()


@pytest.fixture
def kubeconfig(server, tmp_path):
    path = tmp_path / "kubeconfig"
    contexts = [{"name": "test", "context": {"cluster": "test", "user": "test"}}]
    clusters = [{"name": "test", "cluster": {"server": server.url}}]
    users = [{"name": "test", "user": {"token": "t"}}]
    path.write_text(
        yaml.safe_dump({"current-context": "test", "contexts": contexts, "clusters": clusters, "users": users})
    )
    return str(path)


@asynccontextmanager
async def running(kubeconfig, **settings):
    api = await Api.open(Access(kubeconfig))
    collector = K8sCollector(Settings(kubeconfig=kubeconfig, internal_prometheus="", **settings), api)
    stopping = asyncio.Event()
    run = asyncio.create_task(collector.run(stopping))
    try:
        yield collector
    finally:
        stopping.set()
        async with asyncio.timeout(10):
            await run
        await api.close()


async def until(condition):
    async with asyncio.timeout(20):
        while not condition():  # noqa: ASYNC110 - nothing tells
            await asyncio.sleep(0.01)


def test_a_namespace_with_nothing_in_it_is_told_of_once(kubeconfig, caplog):
    async def scenario():
        async with running(kubeconfig, namespaces=("shop", "shpo")) as collector:
            await until(lambda: "does not exist" in caplog.text)
            assert not collector.what_is_wrong()
            await asyncio.sleep(0.1)

    asyncio.run(scenario())
    assert caplog.text.count("does not exist") == 1
    assert "namespace shpo is empty or does not exist: see to --namespace" in caplog.text


@pytest.mark.parametrize(("namespaces", "warned"), [((), False), (("shop",), False), (("shpo", "shop"), True)])
def test_once_tells_of_it_too(kubeconfig, capsys, namespaces, warned):
    assert asyncio.run(print_once(Settings(kubeconfig=kubeconfig, namespaces=namespaces))) == 0
    printed = capsys.readouterr()
    assert [each["uid"] for each in json.loads(printed.out)["pods"]] == ["u1"]
    assert ("warning: namespace shpo is empty or does not exist" in printed.err) == warned


def test_the_selector_is_for_pods_alone(kubeconfig, server):
    asked = {}
    answer = server.fault_for

    def fault_for(path):
        parts = urlsplit(path)
        asked[parts.path.rpartition("/")[2]] = parse_qs(parts.query).get("labelSelector")
        return answer(path)

    server.fault_for = fault_for
    assert asyncio.run(print_once(Settings(kubeconfig=kubeconfig, label_selector="app=web"))) == 0
    chosen = {name: selector for name, selector in asked.items() if selector}
    not_of_selectors = "endpointslice.kubernetes.io/managed-by!=endpointslice-controller.k8s.io"
    assert chosen == {"pods": ["app=web"], "endpointslices": [not_of_selectors]}
    assert asked.keys() == {each.plural for each in WATCHED}


def test_changes_are_told_when_they_happen_and_together(kubeconfig, monkeypatch):
    monkeypatch.setattr(module, "IDLE_INTERVAL_S", 3600)
    sink = EntitySink(3600 * 1_000_000_000)

    async def scenario():
        intake = IntakeSettings(host="127.0.0.1", port=sink.port)
        async with running(kubeconfig, intake=intake) as collector:
            changes = ClusterSink(collector._cluster, collector._news)
            await until(lambda: collector._client.session.welcomed and sink.view.pods)
            begin, before = time.monotonic(), sink.batches
            for number in range(100):
                changes.changed(PODS, pod(f"u{number}", ips=(f"10.0.0.{number}",)))
                await asyncio.sleep(0.01)
            await until(lambda: len(sink.view.pods) == 100)
            most = 2 + (time.monotonic() - begin) / module.TELL_INTERVAL_S
            assert 1 <= sink.batches - before <= most

    try:
        asyncio.run(scenario())
    finally:
        sink.close()
