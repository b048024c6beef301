"""The API server's JSON, as far as it is used: the rest, which is most of it, never becomes an object of Python."""

from __future__ import annotations

from typing import Any, Generic, NamedTuple, TypedDict, TypeVar

import msgspec

from k8s_collector.endpoint_slices import EndpointSlice
from k8s_collector.fields import AnyObject
from k8s_collector.nodes import Node
from k8s_collector.pods import Pod
from k8s_collector.resources import ENDPOINT_SLICES, JOBS, NODES, PODS, REPLICA_SETS, SERVICES
from k8s_collector.services import Service

ObjectT = TypeVar("ObjectT")


class Page(TypedDict, Generic[ObjectT], total=False):
    """A list, or a part of one."""

    metadata: dict[str, Any] | None
    items: list[ObjectT] | None


class Event(TypedDict, Generic[ObjectT], total=False):
    """A line of a watch."""

    type: str
    object: ObjectT


class Decoder:
    """Makes objects of JSON, with the fields that a type names.

    What is not as the type says is decoded whole all the same: whoever takes the objects finds what is wrong with which
    of them, and does without that one alone.
    """

    def __init__(self, form: Any = Any) -> None:
        self._decoder = msgspec.json.Decoder(form)
        self._is_whole = form is Any

    def __call__(self, text: bytes) -> Any:
        """Return what the JSON is of.

        Raises:
            ValueError: it is no JSON.

        """
        try:
            return self._decoder.decode(text)
        except msgspec.ValidationError as error:
            if self._is_whole:  # a number that is none of JSON's
                raise ValueError(str(error)) from error
            return WHOLE(text)
        except (msgspec.DecodeError, RecursionError) as error:
            raise ValueError(str(error)) from error


WHOLE = Decoder()
"""Decodes all fields."""


class Decoders(NamedTuple):
    """Of the objects of a resource: their pages, and the events of a watch."""

    page: Decoder
    event: Decoder


DECODERS = {
    REPLICA_SETS: Decoders(Decoder(Page[AnyObject]), Decoder(Event[AnyObject])),
    JOBS: Decoders(Decoder(Page[AnyObject]), Decoder(Event[AnyObject])),
    NODES: Decoders(Decoder(Page[Node]), Decoder(Event[Node])),
    SERVICES: Decoders(Decoder(Page[Service]), Decoder(Event[Service])),
    ENDPOINT_SLICES: Decoders(Decoder(Page[EndpointSlice]), Decoder(Event[EndpointSlice])),
    PODS: Decoders(Decoder(Page[Pod]), Decoder(Event[Pod])),
}
"""By resource."""
