"""The daemon: follows the cluster, and has what changes sent."""

from __future__ import annotations

import asyncio
import logging
import os
import random
import time
from typing import TYPE_CHECKING

from ebpf_net.v1 import intake_pb2

from daemon.events import set_within
from daemon.signals import stop_event
from daemon.usage import resident_bytes
from intake.clock import read_clocks
from intake.health import pages, serving
from intake.metadata import finish, metadata_client
from intake.statistics import KUBERNETES
from k8s_collector.access import find_access, own_namespace
from k8s_collector.api import Api
from k8s_collector.cluster import Cluster
from k8s_collector.election import Election
from k8s_collector.resources import OWNERS, PODS, WATCHED
from k8s_collector.watch import Watch

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from k8s_collector.fields import Object
    from k8s_collector.options import Settings
    from k8s_collector.resources import Resource
    from k8s_collector.watch import Sink

_LOGGER = logging.getLogger(__name__)
# What changes within it is told together; the first change after a silence is told at once.
TELL_INTERVAL_S = 0.25
# How often to look for what is due without a change.
IDLE_INTERVAL_S = 1.0
# A resource may fail for so long before the collector says that it is not well.
TOLERATED_FAILURE_S = 60.0


async def collect(settings: Settings) -> None:
    """Run until SIGTERM, SIGINT or SIGHUP; another SIGTERM or SIGINT ends it at once.

    Raises:
        StartupError: there are no credentials, or an address cannot be listened on.

    """
    stopping = stop_event()
    api = await Api.open(find_access(settings.kubeconfig, settings.context, os.environ))
    _LOGGER.info("following the cluster at %s", api.server)
    try:
        await K8sCollector(settings, api).run(stopping)
    finally:
        await api.close()


def watches(api: Api, settings: Settings, sink: Sink) -> Iterator[Watch]:
    """Yield a watch of each resource, of those in namespaces one for each that was chosen."""
    chance = random.SystemRandom().random
    for resource in WATCHED:
        selector = settings.label_selector if resource is PODS else resource.label_selector
        for namespace in (settings.namespaces or ("",)) if resource.namespaced else ("",):
            yield Watch(api, resource, sink, chance, namespace=namespace, label_selector=selector)


def emptiness(watches: Sequence[Watch]) -> Iterator[str]:
    """Yield what to see to for each namespace that was chosen and has nothing.

    The server lists one that does not exist as if it did, and it takes a permission to ask whether one does.
    """
    for namespace in dict.fromkeys(each.namespace for each in watches if each.namespace):
        if all(each.listed and not each.known for each in watches if each.namespace == namespace):
            yield f"namespace {namespace} is empty or does not exist: see to --namespace, unless it is still to be made"


class K8sCollector:
    """The watches, the cluster and the client, put together."""

    def __init__(self, settings: Settings, api: Api) -> None:
        self._settings = settings
        self._cluster = Cluster(settings.choice)
        self._news = asyncio.Event()
        self._watches = list(watches(api, settings, ClusterSink(self._cluster, self._news)))
        self._election = self._elect(api) if settings.leader_elect else None
        kind, snapshot = intake_pb2.COLLECTOR_KIND_K8S, self._cluster.snapshot
        self._client = metadata_client(kind, settings.hostname, settings.intake, snapshot)
        self._telling: asyncio.Task[None] | None = None
        self._told_statistics_ns = 0

    async def run(self, stopping: asyncio.Event) -> None:
        """Follow the cluster until *stopping*, and tell the reducer while this replica is the one to do so."""
        served = pages(KUBERNETES, self.statistics, self.what_is_wrong)
        async with serving(self._settings.internal_prometheus, served), asyncio.TaskGroup() as tasks:
            following = [tasks.create_task(self._follow_owners_first())]
            following.append(tasks.create_task(self._wake_at(stopping)))
            if self._election:
                following.append(tasks.create_task(self._election.run()))
            while not stopping.is_set():
                self._news.clear()
                await self._tell()
                await set_within(stopping, TELL_INTERVAL_S)
                await set_within(self._news, IDLE_INTERVAL_S)
            for task in following:
                task.cancel()
            await self._finish()

    def statistics(self) -> intake_pb2.CollectorStatistics:
        """Return what the collector says of itself."""
        cluster = self._cluster
        return intake_pb2.CollectorStatistics(
            cpu_time_ns=time.process_time_ns(),
            resident_bytes=resident_bytes(),
            kubernetes_pods=len(cluster.pods),
            kubernetes_services=len(cluster.services),
            kubernetes_nodes=len(cluster.nodes),
            kubernetes_pods_waiting=cluster.pods.waiting,
            kubernetes_pods_unresolved=cluster.pods.unresolved,
            kubernetes_deleted_dropped=cluster.retention.dropped,
            kubernetes_objects_untracked=cluster.untracked,
            kubernetes_parts_left_out=cluster.left_out,
            kubernetes_lists=sum(each.lists for each in self._watches),
            kubernetes_failures=sum(each.failures for each in self._watches),
            kubernetes_resources_failing=sum(bool(each.failure) for each in self._watches),
        )

    def what_is_wrong(self) -> str | None:
        """Return what does not work, for longer than things that pass by themselves take."""
        since = time.monotonic() - TOLERATED_FAILURE_S
        wrong = [each.failure for each in self._watches if each.failure and each.failing_since < since]
        if self._election and self._election.failure:
            wrong.append(self._election.failure)
        if not wrong and not self._is_whole:
            wrong.append("the cluster's objects are not listed yet")
        return "\n".join(wrong) or None

    @property
    def _is_whole(self) -> bool:
        """Whether each resource was listed once, or cannot be."""
        return all(each.tried.is_set() for each in self._watches) and any(each.listed for each in self._watches)

    async def _follow_owners_first(self) -> None:
        """Run all watches; those of pods begin when their owners are known, as far as they are going to be."""
        async with asyncio.TaskGroup() as tasks:
            owners = [each for each in self._watches if each.resource in OWNERS]
            for watch in owners:
                tasks.create_task(watch.run())
            for watch in owners:
                await watch.tried.wait()
            for watch in self._watches:
                if watch not in owners:
                    tasks.create_task(watch.run())
            for watch in self._watches:
                await watch.tried.wait()
            for text in emptiness(self._watches):
                _LOGGER.warning(text)

    async def _wake_at(self, stopping: asyncio.Event) -> None:
        await stopping.wait()
        self._news.set()

    async def _tell(self) -> None:
        """Have the reducer told what has changed; a connection that begins is told all anyway."""
        now = read_clocks()
        self._cluster.advance(now)
        changes = self._cluster.take_changes()
        await self._start_or_stop_telling()
        if not self._client.session.welcomed:
            return
        for entities in changes:
            self._client.submit(now.unix_ns, entities, {})
        if now.monotonic_ns - self._told_statistics_ns >= self._client.poll_interval_ns:
            self._told_statistics_ns = now.monotonic_ns
            self._client.submit(now.unix_ns, intake_pb2.Entities(), {}, self.statistics())

    async def _start_or_stop_telling(self) -> None:
        leads = self._election is None or self._election.leads
        if self._telling is None and leads and self._is_whole:
            if self._election:
                _LOGGER.info("this replica leads: it tells the reducer")
            self._telling = asyncio.create_task(self._client.run())
        elif self._telling is not None and not leads:
            _LOGGER.warning("this replica does not hold the lease any more: it stops telling the reducer")
            await self._stop_telling()
        elif self._telling is not None and self._telling.done():
            self._telling.result()

    async def _stop_telling(self) -> None:
        if self._telling is not None:
            self._telling.cancel()
            await asyncio.gather(self._telling, return_exceptions=True)
            self._telling = None
            self._client.session.disconnected(read_clocks())

    async def _finish(self) -> None:
        """End in good order: tell what is left, and leave the lease to another replica."""
        await finish(self._client)
        await self._stop_telling()
        if self._election:
            await self._election.release()

    def _elect(self, api: Api) -> Election:
        namespace = self._settings.lease_namespace or own_namespace()
        identity = f"{self._settings.hostname}_{os.urandom(8).hex()}"
        return Election(api, namespace, self._settings.lease_name, identity)


class ClusterSink:
    """A `Sink` that tells a cluster what happens and when, and sets *news*."""

    def __init__(self, cluster: Cluster, news: asyncio.Event) -> None:
        self._cluster = cluster
        self._news = news

    def changed(self, resource: Resource, value: Object) -> None:
        """Take an object as it is now."""
        self._cluster.changed(resource, value, read_clocks())
        self._news.set()

    def deleted(self, resource: Resource, uid: str) -> None:
        """Note that an object is gone."""
        self._cluster.deleted(resource, uid, read_clocks())
        self._news.set()
