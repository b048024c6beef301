"""What would be sent, as JSON for people and their tools."""

from __future__ import annotations

import ipaddress
import json
import os
import sys
from typing import TYPE_CHECKING, Any

from google.protobuf.json_format import MessageToDict

from intake.clock import Instant, read_clocks
from k8s_collector.access import find_access
from k8s_collector.api import Api, ApiError
from k8s_collector.cluster import Cluster
from k8s_collector.collector import watches
from k8s_collector.pod_table import OWNER_WAIT_NS

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ebpf_net.v1 import intake_pb2
    from google.protobuf.message import Message

    from k8s_collector.options import Settings


async def print_once(settings: Settings) -> int:
    """List the cluster, print what the reducer would be told, and on standard error what could not be listed.

    Returns:
        The exit status: 1 where something could not be listed.

    Raises:
        StartupError: there are no credentials.

    """
    cluster = Cluster(settings.choice)
    api = await Api.open(find_access(settings.kubeconfig, settings.context, os.environ))
    failures: dict[str, None] = {}  # what concerns all resources is said once
    try:
        for watch in watches(api, settings, cluster):
            try:
                await watch.list()
            except ApiError as error:
                failures[str(error)] = None
    finally:
        await api.close()
    now = read_clocks()
    cluster.advance(Instant(now.unix_ns, now.monotonic_ns + OWNER_WAIT_NS))
    json.dump(_readable(cluster.snapshot()), sys.stdout, indent=2, ensure_ascii=False)
    sys.stdout.write("\n")
    for failure in failures:
        sys.stderr.write(f"error: {failure}\n")
    return int(bool(failures))


def _readable(messages: Iterator[intake_pb2.Entities]) -> dict[str, list[dict[str, Any]]]:
    """Return the entities by kind, with addresses as text."""
    entities: dict[str, list[dict[str, Any]]] = {"nodes": [], "services": [], "pods": []}
    for message in messages:
        for kind, found in entities.items():
            found.extend(_fields(entity) for entity in getattr(message, kind))
    return entities


def _fields(entity: Message) -> dict[str, Any]:
    fields = MessageToDict(entity, preserving_proto_field_name=True)
    fields["addresses"] = [_text(address) for address in entity.addresses]  # type: ignore[attr-defined]
    return fields


def _text(address: bytes) -> str:
    parsed = ipaddress.IPv6Address(address)
    return str(parsed.ipv4_mapped or parsed)
