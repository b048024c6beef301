"""What a reducer knows of a cluster from what it is told: snapshots, of one part or several, and what changed since."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ebpf_net.v1 import intake_pb2

KINDS = ("nodes", "services", "pods")


class EntityView:
    """Entities by kind and uid, as one session has told them."""

    def __init__(self) -> None:
        self.entities: dict[str, dict[str, Any]] = {kind: {} for kind in KINDS}
        self._snapshot: dict[str, dict[str, Any]] | None = None

    @property
    def pods(self) -> dict[str, intake_pb2.Pod]:
        return self.entities["pods"]

    def snapshot(self, snapshot: intake_pb2.Snapshot) -> None:
        if self._snapshot is None:
            self._snapshot = {kind: {} for kind in KINDS}
        _add(self._snapshot, snapshot.entities)
        if not snapshot.partial:
            self.entities, self._snapshot = self._snapshot, None

    def changes(self, entities: intake_pb2.Entities) -> None:
        for kind in KINDS:
            told = {entity.uid for entity in getattr(entities, kind)}
            retired = getattr(entities, f"retired_{kind}")
            assert not told & set(retired), "told and retired in one message"
            for uid in retired:
                self.entities[kind].pop(uid, None)
        _add(self.entities, entities)


def _add(known: dict[str, dict[str, Any]], entities: intake_pb2.Entities) -> None:
    for kind in KINDS:
        known[kind] |= {entity.uid: entity for entity in getattr(entities, kind)}
