"""Objects as the API server gives them, as far as the collector looks at them."""

from __future__ import annotations

from typing import Any

Object = dict[str, Any]
BEGIN = "2026-01-01T00:00:00Z"


def controller(kind: str, uid: str, name: str = "", version: str = "apps/v1") -> Object:
    return {
        "apiVersion": version,
        "kind": kind,
        "name": name or f"{kind.lower()}-{uid}",
        "uid": uid,
        "controller": True,
    }


def owned(uid: str, by: Object | None = None, name: str = "", namespace: str = "shop") -> Object:
    """Return a ReplicaSet or Job by its metadata."""
    metadata: Object = {"uid": uid, "name": name or uid, "namespace": namespace}
    if by:
        metadata["ownerReferences"] = [by]
    return {"metadata": metadata}


def pod(
    uid: str, by: Object | None = None, *, phase: str = "Running", ips: tuple[str, ...] = (), **fields: Any
) -> Object:
    """Return a pod of one container; *fields* replace those of its status, and `spec` and `metadata` theirs."""
    metadata = owned(uid, by)["metadata"] | {"creationTimestamp": BEGIN} | fields.pop("metadata", {})
    status = {"phase": phase, "podIPs": [{"ip": ip} for ip in ips], "startTime": BEGIN} | fields
    spec = {"nodeName": "node-1", "containers": [{"name": "main", "image": "registry/app:1"}]} | status.pop("spec", {})
    return {"metadata": metadata, "spec": spec, "status": status}


def status(name: str, id_: str = "", restarts: int = 0, **state: Object) -> Object:
    """Return the status of a container."""
    return {"name": name, "containerID": id_, "restartCount": restarts, "state": state}
