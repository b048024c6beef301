"""Follows the objects of one resource: lists all, then watches from there on, again and again.

By the rules of https://kubernetes.io/docs/reference/using-api/api-concepts/#efficient-detection-of-changes.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from typing import TYPE_CHECKING, Protocol

from k8s_collector.api import BAD_REQUEST, FORBIDDEN, GONE, ApiError
from k8s_collector.decoding import DECODERS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from k8s_collector.api import Api
    from k8s_collector.fields import Object
    from k8s_collector.resources import Resource

_LOGGER = logging.getLogger(__name__)
PAGE = 500
# How long the server keeps a watch open.
_LEAST_WATCH_S, _MORE_WATCH_S = 300, 300
FIRST_BACKOFF_S = 0.5
# One collector asks a server, not one a node: so it may ask again sooner than kubelets do.
LONGEST_BACKOFF_S = 10.0
# What is not allowed now may be allowed later; meanwhile, where only watching is not, listing tells of changes.
DENIED_RETRY_S = 30.0
# A server that has just started refuses what it permits before it has read the rules: the fourth refusal is believed.
_DENIALS_DOUBTED = 3
# After so many attempts it begins anew: the server may not know the version any more, without saying so.
_ATTEMPTS_A_VERSION = 8
# A watch that lasted so long ends the growth of the backoff.
_STABLE_S = 5.0
_METADATA = "application/json;as=PartialObjectMetadata{};g=meta.k8s.io;v=v1"


class Sink(Protocol):
    """What the objects are for."""

    def changed(self, resource: Resource, value: Object) -> None:
        """Take an object as it is now."""

    def deleted(self, resource: Resource, uid: str) -> None:
        """Note that an object is gone."""


class Watch:
    """Follows a resource in all namespaces or in one.

    Attributes:
        resource: that it follows.
        namespace: that it follows it in; empty: all.
        known: uids of the objects that were told and are not gone.
        failure: why it does not now; empty: it does.
        failing_since: of the monotonic clock, while there is a failure.
        tried: is set after the first listing, or attempt to list.
        listed: whether all objects were told once.
        lists: listings that were begun.
        failures: requests that failed.

    """

    def __init__(
        self,
        api: Api,
        resource: Resource,
        sink: Sink,
        random: Callable[[], float],
        *,
        namespace: str = "",
        label_selector: str = "",
    ) -> None:
        self._api = api
        self.resource = resource
        self._sink = sink
        self._random = random
        self.namespace = namespace
        self._path = resource.path(namespace)
        self._decoders = DECODERS[resource]
        self._label_selector = label_selector
        self._query = [("labelSelector", label_selector)] if label_selector else []
        self.known: set[str] = set()
        self._version = ""
        self._attempts = 0
        self._denials = 0
        self.failure = ""
        self.failing_since = 0.0
        self.tried = asyncio.Event()
        self.listed = False
        self.lists = 0
        self.failures = 0

    async def run(self) -> None:
        """Follow until cancelled."""
        while True:
            started = time.monotonic()
            try:
                if not self._version:
                    self._version = await self.list()
                    self.tried.set()
                await self._follow()
                pause_s = 0.0 if time.monotonic() - started > FIRST_BACKOFF_S else FIRST_BACKOFF_S
            except ApiError as error:
                if time.monotonic() - started > _STABLE_S:
                    self._attempts = 0
                pause_s = self._failed(error)
            self.tried.set()
            await asyncio.sleep(pause_s)

    async def list(self) -> str:
        """Tell of all objects, and of the end of those that are not there any more; return the version of the list.

        Raises:
            ApiError: not all could be listed; what was is told.

        """
        self.lists += 1
        seen: set[str] = set()
        query = [("limit", f"{PAGE}"), *self._query]
        continued: list[tuple[str, str]] = []
        while True:
            with self._verb("list"):
                accept, decode = self._accept("List"), self._decoders.page
                page = await self._api.get(self._path, [*query, *continued], accept, decode)
            with self._sensible():
                seen.update(filter(None, map(self._tell, page.get("items") or ())))
                metadata = page.get("metadata") or {}
                if not metadata.get("continue"):
                    break
            continued = [("continue", metadata["continue"])]
        for uid in self.known - seen:
            self._sink.deleted(self.resource, uid)
        self.known = seen
        self.listed = True
        return str(metadata.get("resourceVersion") or "")

    async def _follow(self) -> None:
        """Tell of what changes, until the server ends the watch."""
        seconds = _LEAST_WATCH_S + int(_MORE_WATCH_S * self._random())
        query = [
            ("watch", "1"),
            ("allowWatchBookmarks", "true"),
            ("resourceVersion", self._version),
            ("timeoutSeconds", f"{seconds}"),
            *self._query,
        ]
        with self._verb("watch"):
            async with self._api.stream(self._path, query, self._accept(""), self._decoders.event) as events:
                self._succeeded()
                async for event in events:
                    with self._sensible():
                        self._take(event)

    def _take(self, event: Object) -> None:
        value = event.get("object") or {}
        kind = event.get("type")
        if kind == "ERROR":
            raise ApiError(int(value.get("code") or 0), str(value.get("message")))
        metadata = value.get("metadata") or {}
        self._version = str(metadata.get("resourceVersion") or self._version)
        if kind == "BOOKMARK":
            return
        uid = self._tell(value)
        if kind == "DELETED" and uid:
            self.known.discard(uid)
            self._sink.deleted(self.resource, uid)

    def _tell(self, value: Object) -> str:
        """Tell of an object as it is now; return its uid."""
        uid = str((value.get("metadata") or {}).get("uid") or "")
        if uid:
            self.known.add(uid)
        self._sink.changed(self.resource, value)
        return uid

    def _succeeded(self) -> None:
        if self.failure:
            _LOGGER.info("following %s again", self._what)
        self.failure = ""
        self._denials = 0

    def _failed(self, error: ApiError) -> float:
        """Note why it does not work, and return the seconds until the next attempt."""
        self._attempts += 1
        pause_s = self._random() * min(LONGEST_BACKOFF_S, FIRST_BACKOFF_S * (1 << min(self._attempts, 16)))
        if error.status == GONE:  # nothing is wrong: what was missed is too long ago to be told one by one
            self._version = ""
            return pause_s
        self.failures += 1
        if not self.failure:
            self.failing_since = time.monotonic()
        _LOGGER.log(logging.DEBUG if self.failure else logging.WARNING, "cannot follow %s: %s", self._what, error)
        self.failure = str(error)
        if error.status == FORBIDDEN:
            self._version = ""
            self._denials += 1
            return pause_s if self._denials <= _DENIALS_DOUBTED else DENIED_RETRY_S
        if self._attempts % _ATTEMPTS_A_VERSION == 0:
            self._version = ""
        return error.retry_after_s + pause_s

    @contextlib.contextmanager
    def _sensible(self) -> Iterator[None]:
        """Make an `ApiError` of JSON that is not what the API has."""
        try:
            yield
        except (AttributeError, TypeError, ValueError) as error:
            text = f"{self._api.server} does not answer as a Kubernetes API server does: {error}"
            raise ApiError(0, text) from error

    @contextlib.contextmanager
    def _verb(self, verb: str) -> Iterator[None]:
        """Say of a request that is not permitted, or that is wrong, what to do."""
        try:
            yield
        except ApiError as error:
            if error.status == FORBIDDEN:
                text = f"the permission to {verb} {self._what} is missing: grant it as docs/k8s-collector.md says"
            elif error.status == BAD_REQUEST and self._label_selector != self.resource.label_selector:
                text = f"cannot {verb} {self._what}: see to --label-selector {self._label_selector!r}"
            else:
                raise
            raise ApiError(error.status, f"{text} ({error})") from error

    @property
    def _what(self) -> str:
        if not self.resource.namespaced:
            return str(self.resource)
        return f"{self.resource} in {f'namespace {self.namespace}' if self.namespace else 'all namespaces'}"

    def _accept(self, suffix: str) -> str:
        return _METADATA.format(suffix) if self.resource.metadata_only else "application/json"
