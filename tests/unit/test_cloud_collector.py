"""The daemon of clouds, with a provider that hangs."""

import asyncio
import threading
from collections import Counter

from ebpf_net.v1 import intake_pb2

from cloud_collector import collector as module
from cloud_collector.collector import CloudCollector
from cloud_collector.options import Settings
from cloud_collector.provider import Found, Scope, Scopes


class Hanging:
    """Two regions, of which one is read once, and then not before it may be."""

    name = "aws"

    def __init__(self):
        self.begun = Counter()
        self.goes_on = threading.Event()

    def scopes(self):
        return Scopes([Scope("aws", "", region) for region in ("east", "west")], {})

    def read(self, scope):
        self.begun[scope.region] += 1
        if scope.region == "east" and self.begun["east"] > 1:
            assert self.goes_on.wait(60)
        name = f"{scope.region} {self.begun[scope.region]}"
        return Found([intake_pb2.CloudInterface(id=name)])


def test_what_hangs_keeps_nothing_else_from_being_read_and_told(monkeypatch):
    provider = Hanging()
    monkeypatch.setattr(module, "opened", lambda _name, _settings: provider)
    monkeypatch.setattr(module, "finish", lambda _: asyncio.sleep(0))  # there is no reducer

    async def scenario():
        collector, stopping = CloudCollector(Settings(poll_interval_s=0.05, internal_prometheus="")), asyncio.Event()
        running = asyncio.create_task(collector.run(stopping))

        async def until_told(region, reading):
            def told():
                snapshot = collector._inventory.snapshot()
                return dict(each.id.split() for entities in snapshot for each in entities.cloud_interfaces)

            async with asyncio.timeout(60):
                while int(told().get(region, 0)) < reading:  # noqa: ASYNC110 - nobody tells of it
                    await asyncio.sleep(0.01)

        await until_told("west", 4)
        assert provider.begun["east"] == 2
        assert collector.what_is_wrong() is None
        provider.goes_on.set()
        await until_told("east", 2)
        stopping.set()
        await running

    try:
        asyncio.run(scenario())
    finally:
        provider.goes_on.set()
