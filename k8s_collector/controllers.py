"""Who controls whom: from a pod along its references to the last of the chain."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from k8s_collector.resources import OWNERS

if TYPE_CHECKING:
    from k8s_collector.fields import Metadata

# Between a pod and what people call their workload: these have a controller of their own, and are watched for it.
_BETWEEN = {(resource.group, resource.kind) for resource in OWNERS}
# A static pod is its node's, which says nothing of what it is.
_NODE = ("", "Node")
_LONGEST_CHAIN = 8


class Owner(NamedTuple):
    """A reference to a controller; of its kind nothing needs to be known, nor be permitted."""

    kind: str
    name: str
    uid: str
    group: str = ""

    @property
    def is_between(self) -> bool:
        """Whether it may have a controller of its own."""
        return (self.group, self.kind) in _BETWEEN


def controller_of(metadata: Metadata) -> Owner | None:
    """Return the one of an object's owners that controls it."""
    for reference in metadata.get("ownerReferences") or ():
        if reference.get("controller"):
            group, _, _version = reference["apiVersion"].rpartition("/")
            owner = Owner(reference["kind"], reference["name"], reference["uid"], group)
            return None if (owner.group, owner.kind) == _NODE else owner
    return None


class Owners:
    """The controllers of ReplicaSets and Jobs by their uid."""

    def __init__(self) -> None:
        self._controllers: dict[str, Owner | None] = {}

    def __len__(self) -> int:
        return len(self._controllers)

    def __contains__(self, uid: str) -> bool:
        return uid in self._controllers

    def set(self, uid: str, controller: Owner | None) -> bool:
        """Note who controls the object; return whether that is news."""
        if self._controllers.get(uid, self) == controller:
            return False
        self._controllers[uid] = controller
        return True

    def retire(self, uid: str) -> None:
        """Forget the object."""
        del self._controllers[uid]

    def top(self, controller: Owner) -> tuple[Owner, bool]:
        """Return the last of the chain from *controller* on that is known, and whether it is the last there is."""
        for _ in range(_LONGEST_CHAIN):
            if not controller.is_between:
                return controller, True
            if controller.uid not in self._controllers:
                return controller, False
            above = self._controllers[controller.uid]
            if above is None:
                return controller, True
            controller = above
        return controller, False
