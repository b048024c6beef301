"""The rules of listing and watching, against a server that says what a test wants."""

from __future__ import annotations

import asyncio
import json
from contextlib import asynccontextmanager
from urllib.parse import parse_qs, urlsplit

import pytest
from kubernetes.aio.client.api_client import ApiClient
from kubernetes.aio.client.configuration import Configuration

from k8s_collector import watch as module
from k8s_collector.access import Access
from k8s_collector.api import Api, ApiError
from k8s_collector.resources import JOBS, PODS
from k8s_collector.watch import Watch
from tests.api_proxy import ApiProxy, Fault
from tests.k8s_objects import pod


class Recorder:
    def __init__(self):
        self.told = []

    def changed(self, resource, value):
        self.told.append(("changed", value["metadata"]["uid"]))

    def deleted(self, resource, uid):
        self.told.append(("deleted", uid))


def page(*uids, version="7", continued=""):
    body = {"metadata": {"resourceVersion": version, "continue": continued}, "items": [pod(uid) for uid in uids]}
    return Fault(200, body=json.dumps(body).encode())


def events(*events):
    lines = [json.dumps({"type": kind, "object": value}) for kind, value in events]
    return Fault(200, body="".join(f"{line}\n" for line in lines).encode())


def versioned(uid, version):
    value = pod(uid)
    value["metadata"]["resourceVersion"] = version
    return value


def expired(code=410):
    return "ERROR", {"kind": "Status", "code": code, "message": "too old resource version"}


@asynccontextmanager
async def following(monkeypatch, resource=PODS, **options):
    """A watch of a server that answers with its faults, one after the other, and then with silence."""
    monkeypatch.setattr(module, "FIRST_BACKOFF_S", 0.01)
    server = ApiProxy()
    configuration = Configuration()
    configuration.host = server.url
    sink = Recorder()
    async with ApiClient(configuration) as client:
        yield server, sink, Watch(Api(Access("test"), client), resource, sink, lambda: 0.5, **options)
    server.close()


async def run_until(watch, condition):
    running = asyncio.create_task(watch.run())
    try:
        async with asyncio.timeout(10):
            while not condition():
                await asyncio.sleep(0.01)
                if running.done():
                    running.result()
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


def query(path):
    return {name: values[0] for name, values in parse_qs(urlsplit(path).query).items()}


def test_pages_are_followed_to_the_last(monkeypatch):
    async def scenario():
        async with following(monkeypatch, namespace="shop", label_selector="app=web") as (server, sink, watch):
            server.faults += [page("a", "b", continued="next page"), page("c")]
            assert await watch.list() == "7"
            assert sink.told == [("changed", uid) for uid in "abc"]
            first, second = server.asked
            assert urlsplit(first).path == "/api/v1/namespaces/shop/pods"
            assert query(first) == {"limit": "500", "labelSelector": "app=web"}
            assert query(second) == query(first) | {"continue": "next page"}

    asyncio.run(scenario())


def test_a_new_listing_ends_what_vanished_and_nothing_else(monkeypatch):
    async def scenario():
        async with following(monkeypatch) as (server, sink, watch):
            server.faults += [page("a", "b"), page("b", "c")]
            await watch.list()
            sink.told.clear()
            await watch.list()
            assert sink.told == [("changed", "b"), ("changed", "c"), ("deleted", "a")]

    asyncio.run(scenario())


def test_a_listing_that_breaks_off_ends_nothing(monkeypatch):
    async def scenario():
        async with following(monkeypatch) as (server, sink, watch):
            server.faults += [page("a", "b"), page("c", continued="x"), Fault(410), page("c")]
            await watch.list()
            sink.told.clear()
            with pytest.raises(ApiError):
                await watch.list()
            assert sink.told == [("changed", "c")]
            await watch.list()
            assert sorted(sink.told[2:]) == [("deleted", "a"), ("deleted", "b")]

    asyncio.run(scenario())


def test_a_watch_goes_on_where_the_last_one_ended(monkeypatch):
    async def scenario():
        async with following(monkeypatch) as (server, sink, watch):
            bookmark = {"metadata": {"resourceVersion": "12"}}
            server.faults += [
                page("a"),
                events(("ADDED", versioned("b", "9")), ("DELETED", versioned("a", "10"))),
                events(("BOOKMARK", bookmark)),
                events(("MODIFIED", versioned("b", "13"))),
            ]
            await run_until(watch, lambda: len(server.asked) > 4)
            assert [query(path)["resourceVersion"] for path in server.asked[1:5]] == ["7", "10", "12", "13"]
            assert all(query(path)["allowWatchBookmarks"] == "true" for path in server.asked[1:5])
            changes = [("changed", "b"), ("changed", "a"), ("deleted", "a"), ("changed", "b")]
            assert sink.told == [("changed", "a"), *changes]
            assert watch.lists == 1

    asyncio.run(scenario())


@pytest.mark.parametrize("gone", [Fault(410), events(expired())])
def test_a_version_that_is_gone_begins_a_listing(monkeypatch, gone):
    async def scenario():
        async with following(monkeypatch) as (server, sink, watch):
            server.faults += [page("a", "b"), gone, page("b", version="20"), events()]
            await run_until(watch, lambda: len(server.asked) > 4)
            assert sink.told == [("changed", "a"), ("changed", "b"), ("changed", "b"), ("deleted", "a")]
            assert query(server.asked[3])["resourceVersion"] == "20"
            assert watch.lists == 2
            assert watch.failures <= 1  # what the server says when there are no faults left

    asyncio.run(scenario())


def test_other_errors_do_not_lose_the_version(monkeypatch):
    async def scenario():
        async with following(monkeypatch) as (server, _, watch):
            server.faults += [page("a"), Fault(500), events(expired(500)), Fault(200, body=b'{"type"'), events()]
            await run_until(watch, lambda: len(server.asked) > 5)
            assert [query(path)["resourceVersion"] for path in server.asked[1:5]] == ["7"] * 4
            assert watch.lists == 1

    asyncio.run(scenario())


def test_a_server_that_does_not_answer_is_asked_less_and_less_often_but_each_ten_seconds(monkeypatch):
    async def scenario():
        async with following(monkeypatch) as (_, _, watch):
            pauses = [watch._failed(ApiError(0, "gone")) for _ in range(20)]
            assert pauses == sorted(pauses)
            assert pauses[0] < 0.1
            assert pauses[-1] == 5  # the middle of what chance may give

    asyncio.run(scenario())


def test_a_version_that_never_works_is_given_up(monkeypatch):
    async def scenario():
        async with following(monkeypatch) as (server, _, watch):
            monkeypatch.setattr(module, "LONGEST_BACKOFF_S", 0.01)
            server.fault_for = lambda path: Fault(504) if "watch=1" in path else page("a")
            await run_until(watch, lambda: watch.lists == 2)
            assert watch.failure.startswith("504")

    asyncio.run(scenario())


def test_metadata_is_all_that_is_asked_of_owners(monkeypatch):
    async def scenario():
        async with following(monkeypatch, JOBS) as (_, _, watch):
            assert watch._accept("List") == "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1"
            assert watch._path == "/apis/batch/v1/jobs"

    asyncio.run(scenario())


def test_a_missing_permission_names_verb_and_resource(monkeypatch):
    async def scenario():
        monkeypatch.setattr(module, "DENIED_RETRY_S", 0.01)
        async with following(monkeypatch, namespace="shop") as (server, _, watch):
            denied = Fault(403, body=b'{"message": "pods is forbidden"}')
            server.faults += [denied, page("a"), denied, page("a")]
            with pytest.raises(ApiError, match=r"to list pods in namespace shop is missing.*is forbidden"):
                await watch.list()
            assert not watch.listed
            await run_until(watch, lambda: "to watch pods" in watch.failure)
            assert watch.listed

    asyncio.run(scenario())


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (
            {"label_selector": "app in ("},
            "cannot list pods in all namespaces: see to --label-selector 'app in (' (400 ",
        ),
        ({}, "400 "),
    ],
)
def test_a_selector_that_is_none_names_the_option(monkeypatch, options, said):
    async def scenario():
        async with following(monkeypatch, **options) as (server, _, watch):
            server.faults += [Fault(400, body=b'{"message": "unable to parse requirement"}')]
            with pytest.raises(ApiError, match="unable to parse requirement") as raised:
                await watch.list()
            assert str(raised.value).startswith(said)

    asyncio.run(scenario())


def test_what_is_no_api_server_is_said_to_be_none(monkeypatch):
    async def scenario():
        async with following(monkeypatch) as (server, _, watch):
            server.faults.append(Fault(200, body=b"<html>Welcome</html>"))
            with pytest.raises(ApiError, match="does not answer as a Kubernetes API server does"):
                await watch.list()

    asyncio.run(scenario())


def test_what_a_server_refuses_while_it_starts_is_soon_asked_for_again(monkeypatch):
    async def scenario():
        monkeypatch.setattr(module, "DENIED_RETRY_S", 1_000)
        async with following(monkeypatch) as (server, _, watch):
            denied = Fault(403, body=b'{"message": "pods is forbidden"}')
            server.faults += [denied, denied, denied, page("a")]
            await run_until(watch, lambda: watch.known == {"a"})
            monkeypatch.setattr(module, "DENIED_RETRY_S", 0.02)
            assert [watch._failed(ApiError(403, "")) for _ in range(4)][-1] == 0.02

    asyncio.run(scenario())


@pytest.mark.parametrize(
    "answer",
    [
        b'{"items": ["text"]}',
        b'{"items": [{"metadata": "text"}]}',
        b'{"items": {"a": 1}}',
        b'{"items": 1}',
        b'{"metadata": [1]}',
    ],
)
def test_a_listing_that_is_none_is_a_failure(monkeypatch, answer):
    async def scenario():
        async with following(monkeypatch) as (server, _, watch):
            server.faults.append(Fault(200, body=answer))
            with pytest.raises(ApiError, match="does not answer as a Kubernetes API server does"):
                await watch.list()

    asyncio.run(scenario())


@pytest.mark.parametrize(
    "line",
    [
        b'{"type": "ADDED", "object": [1]}',
        b'{"type": "ADDED", "object": {"metadata": "text"}}',
        b'{"type": "ERROR", "object": {"code": "text"}}',
        b'{"type": "ERROR", "object": {"code": [1]}}',
    ],
)
def test_an_event_that_is_none_ends_the_watch_alone(monkeypatch, line):
    async def scenario():
        async with following(monkeypatch) as (server, _, watch):
            server.faults += [page("a"), Fault(200, body=line + b"\n"), events(("ADDED", pod("b")))]
            await run_until(watch, lambda: watch.known == {"a", "b"})
            assert watch.failures == 1

    asyncio.run(scenario())
