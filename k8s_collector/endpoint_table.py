"""Services by the slices of their endpoints, each with the uid of the service itself as far as that is known."""

from __future__ import annotations

from ebpf_net.v1 import intake_pb2

from k8s_collector.object_table import ObjectTable


class EndpointTable(ObjectTable[intake_pb2.KubernetesService]):
    """All slices with endpoints that are no pods.

    A slice names its service; which of the two is told first, or made again, makes no difference.
    """

    def __init__(self) -> None:
        super().__init__()
        self._service_uids: dict[tuple[str, str], str] = {}
        self._slices: dict[tuple[str, str], dict[str, None]] = {}

    def put(self, uid: str, message: intake_pb2.KubernetesService) -> None:
        """Take a new or changed slice."""
        self._forget_name(uid)
        name = _name(message)
        self._slices.setdefault(name, {})[uid] = None
        message.service_uid = self._service_uids.get(name, "")
        super().put(uid, message)

    def retire(self, uid: str) -> None:
        """Forget a slice."""
        self._forget_name(uid)
        super().retire(uid)

    def service_began(self, service: intake_pb2.KubernetesService) -> None:
        """Let slices that name a service have its uid."""
        self._service_uids[_name(service)] = service.uid
        self._name_again(service, service.uid)

    def service_ended(self, service: intake_pb2.KubernetesService) -> None:
        """Let slices that name a service have no uid of it, unless another one has its name by now."""
        if self._service_uids.get(_name(service)) == service.uid:
            del self._service_uids[_name(service)]
            self._name_again(service, "")

    def _name_again(self, service: intake_pb2.KubernetesService, service_uid: str) -> None:
        for uid in self._slices.get(_name(service), ()):
            changed = intake_pb2.KubernetesService()
            changed.CopyFrom(self[uid])
            changed.service_uid = service_uid
            super().put(uid, changed)

    def _forget_name(self, uid: str) -> None:
        if uid in self:
            name = _name(self[uid])
            del self._slices[name][uid]
            if not self._slices[name]:
                del self._slices[name]


def _name(service: intake_pb2.KubernetesService) -> tuple[str, str]:
    return service.namespace, service.name
