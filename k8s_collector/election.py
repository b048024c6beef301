"""Which of several replicas tells the reducer: the one that holds a Lease of coordination.k8s.io.

The rules are client-go's (tools/leaderelection): whoever holds the lease renews it; another one takes it when it has
not seen it renewed for as long as it lasts, by its own clock alone; a holder that cannot renew it gives up before that.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from k8s_collector.api import CONFLICT, FORBIDDEN, NOT_FOUND, Api, ApiError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from k8s_collector.fields import Object

_LOGGER = logging.getLogger(__name__)
LEASE_S = 15.0
RENEW_DEADLINE_S = 10.0
RETRY_S = 2.0
_REQUEST_S = 5.0


@dataclass(slots=True)
class Candidate:
    """One replica's view of the lease, without I/O; times are of its monotonic clock.

    Attributes:
        identity: unique among the replicas.
        renewed_s: when this one took or renewed the lease last; None: it does not hold it.

    """

    identity: str
    renewed_s: float | None = None
    _observed: Object | None = None
    _observed_s: float = 0.0

    def leads(self, now_s: float) -> bool:
        """Tell whether this one holds the lease for sure."""
        return self.renewed_s is not None and now_s - self.renewed_s < RENEW_DEADLINE_S

    def wanted(self, spec: Object, now_s: float, now: datetime) -> Object | None:
        """Return what the lease should say, given what it says; None: it is another one's."""
        if spec != self._observed:
            self._observed, self._observed_s = spec, now_s
        holder = spec.get("holderIdentity")
        lasts_s = float(spec.get("leaseDurationSeconds") or LEASE_S)
        if holder and holder != self.identity and now_s < self._observed_s + lasts_s:
            self.renewed_s = None
            return None
        time_text = now.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        is_mine = holder == self.identity
        return {
            "holderIdentity": self.identity,
            "leaseDurationSeconds": int(LEASE_S),
            "acquireTime": spec.get("acquireTime") if is_mine else time_text,
            "renewTime": time_text,
            "leaseTransitions": int(spec.get("leaseTransitions") or 0) + (not is_mine),
        }


class Election:
    """Keeps trying to hold the lease.

    Attributes:
        failure: why the lease cannot be read or written; empty: it can.

    """

    def __init__(self, api: Api, namespace: str, name: str, identity: str) -> None:
        self._api = api
        self._path = f"/apis/coordination.k8s.io/v1/namespaces/{namespace}/leases"
        self._namespace = namespace
        self._name = name
        self._candidate = Candidate(identity)
        self.failure = ""

    @property
    def leads(self) -> bool:
        """Whether this replica is the one that tells."""
        return self._candidate.leads(time.monotonic())

    async def run(self) -> None:
        """Take the lease when it is free, and renew it, until cancelled."""
        while True:
            try:
                async with asyncio.timeout(_REQUEST_S):
                    await self._attempt()
                self.failure = ""
            except (ApiError, TimeoutError) as error:
                self._failed(error)
            await asyncio.sleep(RETRY_S)

    async def release(self) -> None:
        """Let another replica have the lease at once."""
        if not self.leads:
            return
        with contextlib.suppress(ApiError, TimeoutError):
            async with asyncio.timeout(_REQUEST_S):
                lease = await self._api.get(f"{self._path}/{self._name}", [])
                if lease["spec"].get("holderIdentity") == self._candidate.identity:
                    lease["spec"] |= {"holderIdentity": "", "leaseDurationSeconds": 1}
                    await self._api.send("PUT", f"{self._path}/{self._name}", lease)

    async def _attempt(self) -> None:
        path = f"{self._path}/{self._name}"
        asked_s = time.monotonic()
        try:
            with self._verb("get"):
                lease = await self._api.get(path, [])
        except ApiError as error:
            if error.status != NOT_FOUND:
                raise
            lease = {}
        spec = self._candidate.wanted(lease.get("spec") or {}, asked_s, datetime.now(UTC))
        if spec is None:
            return
        try:
            if lease:
                with self._verb("update"):
                    await self._api.send("PUT", path, {**lease, "spec": spec})
            else:
                with self._verb("create"):
                    await self._api.send("POST", self._path, self._new(spec))
        except ApiError as error:
            if error.status != CONFLICT:
                raise
            self._candidate.renewed_s = None  # another one was faster
            return
        self._candidate.renewed_s = asked_s

    def _new(self, spec: Object) -> Object:
        metadata = {"name": self._name, "namespace": self._namespace}
        return {"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": metadata, "spec": spec}

    @contextlib.contextmanager
    def _verb(self, verb: str) -> Iterator[None]:
        """Say of a request that is not permitted what permission it takes."""
        try:
            yield
        except ApiError as error:
            if error.status != FORBIDDEN:
                raise
            what = f"leases.coordination.k8s.io in namespace {self._namespace}"
            text = f"the permission to {verb} {what} is missing: grant it as docs/k8s-collector.md says ({error})"
            raise ApiError(FORBIDDEN, text) from error

    def _failed(self, error: Exception) -> None:
        text = str(error) or "no answer in time"
        level = logging.DEBUG if self.failure else logging.WARNING
        _LOGGER.log(level, "cannot hold the lease %s/%s: %s", self._namespace, self._name, text)
        self.failure = text
