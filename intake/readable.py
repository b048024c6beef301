"""Entities for people: as JSON, with addresses as text."""

from __future__ import annotations

import json
import sys
from typing import TYPE_CHECKING, Any

from google.protobuf.json_format import MessageToDict

from intake.addresses import address_text

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from ebpf_net.v1 import intake_pb2
    from google.protobuf.message import Message


def print_readable(messages: Iterable[intake_pb2.Entities], kinds: Sequence[str], failures: Iterable[Exception]) -> int:
    """Print the entities of *kinds*, and on standard error, each once, why others could not be had.

    Returns:
        The exit status: 1 where there are failures.

    """
    json.dump(readable(messages, kinds), sys.stdout, indent=2, ensure_ascii=False)
    sys.stdout.write("\n")
    said = dict.fromkeys(map(str, failures))
    for failure in said:
        sys.stderr.write(f"error: {failure}\n")
    return int(bool(said))


def readable(messages: Iterable[intake_pb2.Entities], kinds: Sequence[str]) -> dict[str, list[dict[str, Any]]]:
    """Return the entities of *kinds*, fields of Entities, by kind."""
    entities: dict[str, list[dict[str, Any]]] = {kind: [] for kind in kinds}
    for message in messages:
        for kind, found in entities.items():
            found.extend(_fields(entity) for entity in getattr(message, kind))
    return entities


def _fields(entity: Message) -> dict[str, Any]:
    fields = MessageToDict(entity, preserving_proto_field_name=True)
    fields["addresses"] = [address_text(address) for address in entity.addresses]  # type: ignore[attr-defined]
    if "public_addresses" in fields:
        pairs = entity.public_addresses  # type: ignore[attr-defined]
        fields["public_addresses"] = [
            {"public": address_text(pair.public), "private": address_text(pair.private)} for pair in pairs
        ]
    return fields
