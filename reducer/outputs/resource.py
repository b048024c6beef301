"""What sends the metrics and logs, as their receivers are told: OpenTelemetry's specification, "Resource SDK"."""

from __future__ import annotations

from typing import TYPE_CHECKING

from daemon.errors import StartupError
from daemon.protobuf import attributes, field
from daemon.version import VERSION
from reducer.outputs.otlp_environment import named_values

if TYPE_CHECKING:
    from collections.abc import Mapping

_ATTRIBUTES, _SERVICE_NAME = "OTEL_RESOURCE_ATTRIBUTES", "OTEL_SERVICE_NAME"


def encoded_resource(variables: Mapping[str, str]) -> bytes:
    """Return the field `resource` of ResourceMetrics and ResourceLogs: the reducer's own attributes and *variables*'.

    Raises:
        StartupError: a variable has not the form that the specification gives it.

    """
    own = {"service.name": "ebpf-net-reducer", "service.version": VERSION}
    told = own | _told(variables.get(_ATTRIBUTES, ""))
    if name := variables.get(_SERVICE_NAME, "").strip():
        told["service.name"] = name
    return field(1, attributes(1, told.items()))


def _told(text: str) -> dict[str, str]:
    told = {}
    for place, name, value in named_values(text):
        if not name or not name.isprintable():
            raise StartupError(
                f"{_ATTRIBUTES} must be NAME=VALUE, with commas between several; number {place} is not: in names and "
                "values write a comma as %2C and = as %3D"
            )
        told[name] = value
    return told


RESOURCE = encoded_resource({})
