"""Entities in as many messages as they need."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ebpf_net.v1 import intake_pb2

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    Entity = intake_pb2.Pod | intake_pb2.KubernetesService | intake_pb2.KubernetesNode | intake_pb2.CloudInterface

# A part of what a message may hold: heartbeats go between two of them.
MOST_BYTES = 1 << 20
MOST_ENTITIES = 4_096
_RETIRED_BYTES = 48


def in_messages(
    told: Iterable[tuple[str, Entity]], retired: Iterable[tuple[str, str]] = ()
) -> Iterator[intake_pb2.Entities]:
    """Yield messages with all entities that are *told* or *retired*; none where there are none.

    Args:
        told: pairs of the field of Entities and the entity.
        retired: pairs of the field of Entities and the uid.

    """
    message = intake_pb2.Entities()
    count = size = 0
    for field, entity in (*told, *retired):
        added = _RETIRED_BYTES if isinstance(entity, str) else entity.ByteSize()
        if count and (size + added > MOST_BYTES or count == MOST_ENTITIES):
            yield message
            message = intake_pb2.Entities()
            count = size = 0
        getattr(message, field).append(entity)
        size += added
        count += 1
    if count:
        yield message
