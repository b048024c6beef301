"""Pods with their owners: announced when the whole chain is known, or after a short wait with what is."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from intake.clock import SECOND_NS
from k8s_collector.claims import Claims

if TYPE_CHECKING:
    from collections.abc import Iterator

    from ebpf_net.v1 import intake_pb2

    from k8s_collector.controllers import Owner, Owners

# A pod and its ReplicaSet or Job come by different watches, mostly within milliseconds of each other.
OWNER_WAIT_NS = 5 * SECOND_NS
MOST_WAITING = 10_000


@dataclass(slots=True)
class _Pod:
    """A pod.

    Attributes:
        message: about it, with its owner and its end as far as they are known.
        controller: that its own metadata name.
        end_ns: of the pod itself; its addresses may have been taken over sooner.
        whole: whether the chain of controllers is known to its end.
        told: whether it was announced.

    """

    message: intake_pb2.Pod
    controller: Owner | None
    end_ns: int
    whole: bool = False
    told: bool = False


class PodTable:
    """All pods, those that were deleted lately as well.

    Attributes:
        unresolved: pods that were announced before the end of their chain of controllers was known.

    """

    def __init__(self, owners: Owners) -> None:
        self._owners = owners
        self._pods: dict[str, _Pod] = {}
        self._of_controller: dict[str, set[str]] = {}
        self._claims = Claims()
        self._waiting: dict[str, int] = {}
        self._changed: dict[str, None] = {}
        self._retired: dict[str, None] = {}
        self.unresolved = 0

    def __len__(self) -> int:
        return len(self._pods)

    def __contains__(self, uid: str) -> bool:
        return uid in self._pods

    @property
    def waiting(self) -> int:
        """How many pods are not announced yet."""
        return len(self._waiting)

    def put(self, message: intake_pb2.Pod, controller: Owner | None, now_ns: int) -> None:
        """Take a new or changed pod; *message*, without the owner, becomes the table's."""
        before = self._pods.get(message.uid)
        pod = _Pod(message, controller, message.end_time_unix_ns, told=before is not None and before.told)
        self._set_owner(pod, before)
        self._pods[message.uid] = pod
        self._index(pod, before)
        self._claim(pod, before)
        if not pod.told and not pod.whole:
            self._wait(message.uid, now_ns)
        elif before is None or not pod.told or message != before.message:
            self._announce(pod)

    def ended(self, uid: str, now_unix_ns: int) -> None:
        """Note that a pod is gone, and was there until now where it does not tell its end itself."""
        pod = self._pods[uid]
        pod.end_ns = pod.end_ns or now_unix_ns
        self._update_end(uid)

    def controller_changed(self, uid: str) -> None:
        """Look again for the owners of the pods of a controller."""
        for pod_uid in self._of_controller.get(uid, ()):
            pod = self._pods[pod_uid]
            before = _owner_fields(pod.message)
            self._set_owner(pod, pod)
            if (pod.whole and not pod.told) or (pod.told and _owner_fields(pod.message) != before):
                self._announce(pod)

    def retire(self, uid: str) -> None:
        """Forget a pod."""
        pod = self._pods.pop(uid)
        self._waiting.pop(uid, None)
        self._changed.pop(uid, None)
        if pod.told:
            self._retired[uid] = None
        if pod.controller:
            self._unindex(pod.controller, uid)
        for other in self._claims.drop(uid, _own_addresses(pod.message)):
            self._update_end(other)

    def advance(self, now_ns: int) -> None:
        """Announce the pods that have waited long enough with what is known of them."""
        while self._waiting:
            uid, until_ns = next(iter(self._waiting.items()))
            if until_ns > now_ns and len(self._waiting) <= MOST_WAITING:
                return
            self.unresolved += 1
            self._announce(self._pods[uid])

    def take_changes(self) -> tuple[list[intake_pb2.Pod], list[str]]:
        """Return what is new or changed, and the uids that were retired, since the call before."""
        changed, retired = self._changed, self._retired
        self._changed, self._retired = {}, {}
        return [self._pods[uid].message for uid in changed], list(retired)

    def messages(self) -> Iterator[intake_pb2.Pod]:
        """Yield all pods that were announced."""
        return (pod.message for pod in self._pods.values() if pod.told)

    def _wait(self, uid: str, now_ns: int) -> None:
        self._waiting.setdefault(uid, now_ns + OWNER_WAIT_NS)
        if len(self._waiting) > MOST_WAITING:
            self.advance(now_ns)

    def _announce(self, pod: _Pod) -> None:
        uid = pod.message.uid
        pod.told = True
        self._waiting.pop(uid, None)
        self._retired.pop(uid, None)
        self._changed[uid] = None

    def _set_owner(self, pod: _Pod, before: _Pod | None) -> None:
        """Fill in the last of the chain of controllers; a chain that was known to its end stays known."""
        message = pod.message
        if pod.controller is None:
            pod.whole = True
            message.owner_kind, message.owner_name, message.owner_uid = "Pod", message.name, message.uid
            return
        top, pod.whole = self._owners.top(pod.controller)
        if before is not None and before.whole and before.controller == pod.controller and not pod.whole:
            pod.whole = True
            message.owner_kind, message.owner_name, message.owner_uid = _owner_fields(before.message)
            return
        message.owner_kind, message.owner_name, message.owner_uid = top.kind, top.name, top.uid

    def _index(self, pod: _Pod, before: _Pod | None) -> None:
        """Have the pod found by its controller."""
        uid = pod.message.uid
        if before is not None and before.controller == pod.controller:
            return
        if before is not None and before.controller:
            self._unindex(before.controller, uid)
        if pod.controller:
            self._of_controller.setdefault(pod.controller.uid, set()).add(uid)

    def _unindex(self, controller: Owner, uid: str) -> None:
        pods = self._of_controller[controller.uid]
        pods.discard(uid)
        if not pods:
            del self._of_controller[controller.uid]

    def _claim(self, pod: _Pod, before: _Pod | None) -> None:
        """Have the pod's addresses be its own from its start on, and no longer those of pods that had them before."""
        uid, addresses, start_ns = pod.message.uid, _own_addresses(pod.message), pod.message.start_time_unix_ns
        others: set[str] = set()
        before_addresses = _own_addresses(before.message) if before is not None else ()
        if before is None or (addresses, start_ns) != (before_addresses, before.message.start_time_unix_ns):
            others = self._claims.put(uid, addresses, start_ns)
            others |= self._claims.drop(uid, set(before_addresses) - set(addresses))
        self._set_end(pod)
        for other in others:
            self._update_end(other)

    def _set_end(self, pod: _Pod) -> bool:
        """Fill in when the addresses ceased to be the pod's; return whether that is news."""
        message = pod.message
        ends = (pod.end_ns, self._claims.superseded_ns(message.uid, _own_addresses(message)))
        end_ns = min((end for end in ends if end), default=0)
        news, message.end_time_unix_ns = end_ns != message.end_time_unix_ns, end_ns
        return news

    def _update_end(self, uid: str) -> None:
        pod = self._pods[uid]
        if self._set_end(pod) and pod.told:
            self._announce(pod)


def _own_addresses(message: intake_pb2.Pod) -> tuple[bytes, ...]:
    """Return the addresses that are a pod's alone."""
    return () if message.host_network else tuple(message.addresses)


def _owner_fields(message: intake_pb2.Pod) -> tuple[str, str, str]:
    return message.owner_kind, message.owner_name, message.owner_uid
