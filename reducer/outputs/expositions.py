"""The formats in which Prometheus is given series, and which of them a scraper wants."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from reducer.outputs.prometheus_protobuf import protobuf
from reducer.outputs.prometheus_text import openmetrics_text, plain_text

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from reducer.outputs.metric import Metric
    from reducer.outputs.observed import Observed


class Exposition(NamedTuple):
    """A format.

    Attributes:
        media_type: what a scraper asks for.
        parameters: what it must say besides, if it says it.
        content_type: what it is answered.
        render: yields the body in parts.

    """

    media_type: str
    parameters: dict[str, str]
    content_type: str
    render: Callable[[Sequence[Metric], Observed], Iterator[bytes]]


TEXT = Exposition("text/plain", {}, "text/plain; version=0.0.4; charset=utf-8", plain_text)
OPENMETRICS = Exposition(
    "application/openmetrics-text", {}, "application/openmetrics-text; version=1.0.0; charset=utf-8", openmetrics_text
)
_MESSAGE = {"proto": "io.prometheus.client.MetricFamily", "encoding": "delimited"}
PROTOBUF = Exposition(
    "application/vnd.google.protobuf",
    _MESSAGE,
    "; ".join(("application/vnd.google.protobuf", *map("=".join, _MESSAGE.items()))),
    protobuf,
)


def negotiated(accept: str) -> Exposition:
    """Return the format that an Accept header prefers (RFC 9110, 12.5.1); text where it names none of them."""
    wanted = []
    for item in accept.split(","):
        media_type, *rest = (part.strip() for part in item.split(";"))
        parameters = dict(map(_parameter, rest))
        for exposition in (PROTOBUF, OPENMETRICS, TEXT):
            of_it = {name: parameters.get(name, value) for name, value in exposition.parameters.items()}
            if media_type.lower() == exposition.media_type and of_it == exposition.parameters:
                wanted.append((_quality(parameters.get("q", "1")), exposition))
    quality, exposition = max(wanted, key=lambda each: each[0], default=(0.0, TEXT))
    return exposition if quality > 0 else TEXT


def _parameter(text: str) -> tuple[str, str]:
    """Return the name of a parameter in lower case, and its value, which may be quoted (RFC 9110, 5.6.6)."""
    name, _, value = text.partition("=")
    return name.strip().lower(), value.strip().strip('"')


def _quality(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return 0.0
