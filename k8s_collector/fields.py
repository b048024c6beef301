"""Fields of objects as the API server writes them, as the wire wants them.

Types of objects name the fields that are used: no others are decoded.
"""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Any, Protocol, TypedDict, TypeVar

from intake.clock import SECOND_NS
from intake.limits import LONGEST_LABEL

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

Object = dict[str, Any]
"""An object of the API, or a part of one: JSON."""


class Reference(TypedDict, total=False):
    """An owner of an object."""

    apiVersion: str
    kind: str
    name: str
    uid: str
    controller: bool | None


class Metadata(TypedDict, total=False):
    """Those of any object."""

    uid: str
    name: str
    namespace: str
    resourceVersion: str
    creationTimestamp: str | None
    deletionTimestamp: str | None
    labels: dict[str, str] | None
    annotations: dict[str, str] | None
    ownerReferences: list[Reference] | None


class AnyObject(TypedDict, total=False):
    """What objects of all kinds have in common; a Status, which says why there is none, has a code and a message."""

    metadata: Metadata
    code: int
    message: str


ValueT = TypeVar("ValueT")


class First(Protocol):
    """Takes of many values as many as there is room for."""

    def __call__(self, values: Iterable[ValueT], most: int, /) -> list[ValueT]:
        """Return the first ones, *most* at most."""


def first(values: Iterable[ValueT], most: int) -> list[ValueT]:
    """Return the first ones, *most* at most; nobody is told of those left out."""
    return list(values)[:most]


MOST_ADDRESSES = 64
"""Of a pod, a service or a node."""


def unix_ns(text: str | None) -> int:
    """Return a time of RFC 3339; 0 where there is none. Kubernetes gives whole seconds, cut down."""
    return int(datetime.fromisoformat(text).timestamp()) * SECOND_NS if text else 0


def chosen(values: Mapping[str, str] | None, keys: Iterable[str]) -> dict[str, str]:
    """Return those of the labels or annotations that have one of *keys*, shortened as the reducer would."""
    return {key: values[key][:LONGEST_LABEL] for key in keys if key in values} if values else {}
