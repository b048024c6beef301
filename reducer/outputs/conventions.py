"""What metrics and attributes are called: as the reference calls them, or by the conventions of OpenTelemetry.

The latter follow the draft of `network.flow.*` (open-telemetry/semantic-conventions, pull request 3828) as far as it
goes, and for DNS and HTTP the stable `dns.lookup.duration` and `http.*.request.duration`. What neither has is called
after the pattern of the draft. Each set of names has a schema of its own, which never changes: `docs/schemas/`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from daemon.protobuf import AttributeValue
from reducer.outputs.metric import Codes, Points

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from reducer.columns.series import Labels
    from reducer.outputs.metric import Attributes, Metric

SCHEMAS = "https://ebpf-net.github.io/schemas/"

Attribute = tuple[str, AttributeValue]


@dataclass(frozen=True)
class Conventions:
    """A set of names.

    Attributes:
        schema: its version.
        source: what the attributes of a series' source begin with.
        dest: the same of its destination.
        same_zone: the attribute of series whose ends are in one zone.
        cross_zone: of those whose ends are in two.
        end: from the labels of an end to its attributes, without what they begin with.
        metric: from a metric's name to the one here, and the attributes that all its points then have.
        attributes: what a metric's own attributes are called here, by their names.

    """

    schema: str
    source: str
    dest: str
    same_zone: Attribute
    cross_zone: Attribute
    end: Callable[[Labels], Labels]
    metric: Callable[[str], tuple[str, Attributes]]
    attributes: Mapping[str, str]

    @property
    def schema_url(self) -> str:
        """Where the schema is."""
        return SCHEMAS + self.schema

    @property
    def zones(self) -> tuple[tuple[Attribute, ...], ...]:
        """The attributes of series: zones not known, one zone, two zones."""
        return (), (self.same_zone,), (self.cross_zone,)

    def source_attributes(self, labels: Labels) -> Labels:
        """Return the attributes of a series' source by its labels."""
        return tuple((f"{self.source}.{name}", value) for name, value in self.end(labels))

    def dest_attributes(self, labels: Labels) -> Labels:
        """Return the attributes of a series' destination by its labels."""
        return tuple((f"{self.dest}.{name}", value) for name, value in self.end(labels))

    def metrics(self, metrics: Iterable[Metric]) -> tuple[Metric, ...]:
        """Return *metrics* by these names; those that have one name here become one."""
        named: dict[str, Metric] = {}
        for metric in metrics:
            name, own = self.metric(metric.name)
            points = tuple(self._points(each, own) for each in metric.points)
            sparse = metric.sparse
            if isinstance(sparse, Codes):
                sparse = replace(sparse, label=self.attributes.get(sparse.label, sparse.label))
            if name in named:
                named[name] = replace(named[name], points=named[name].points + points)
            else:
                named[name] = replace(metric, name=name, points=points, sparse=sparse)
        return tuple(named.values())

    def _points(self, points: Points, own: Attributes) -> Points:
        renamed = tuple((self.attributes.get(name, name), value) for name, value in points.attributes)
        return replace(points, attributes=(*own, *renamed))


def _unchanged(labels: Labels) -> Labels:
    return labels


REFERENCE = Conventions(
    schema="1.0.0",
    source="source",
    dest="dest",
    same_zone=("az_equal", "true"),
    cross_zone=("az_equal", "false"),
    end=_unchanged,
    metric=lambda name: (name, ()),
    attributes={},
)

OTEL_END_ATTRIBUTES = {
    "workload.name": "name",
    "workload.uid": "uid",
    "namespace.name": "namespace",
    "availability_zone": "cloud.availability_zone",
    "environment": "deployment.environment.name",
    "id": "host.name",
    "ip": "address",
    "process.name": "process.executable.name",
    "image_version": "service.version",
}
"""What the labels of an end that is no part of Kubernetes are called; others keep their names."""

OTEL_KUBERNETES_ATTRIBUTES = {
    "workload.name": "k8s.owner.name",
    "workload.uid": "k8s.owner.uid",
    "namespace.name": "k8s.namespace.name",
    "container.name": "k8s.container.name",
    "id": "k8s.node.name",
    "pod": "k8s.pod.name",
}
"""What the labels of one that is are called instead; it has a `name` besides, that of its workload."""

OTEL_METRICS = {
    "tcp.bytes": ("network.flow.io", "tcp"),
    "udp.bytes": ("network.flow.io", "udp"),
    "tcp.packets": ("network.flow.packets", "tcp"),
    "udp.packets": ("network.flow.packets", "udp"),
    "dns.client.duration": ("dns.lookup.duration", ""),
    "http.client.duration": ("http.client.request.duration", ""),
    "http.server.duration": ("http.server.request.duration", ""),
    "zone.cross.bytes": ("network.flow.inter_zone.io", ""),
    "zone.same.bytes": ("network.flow.intra_zone.io", ""),
}
"""What metrics are called, and which transport their points then are of; all others are called network.flow.NAME."""

OTEL_ATTRIBUTES = {
    "reason": "error.type",
    "rcode": "dns.response.code",
    "status_code": "http.response.status_code",
}
"""What metrics' own attributes are called."""


def _otel_end(labels: Labels) -> Labels:
    told = dict(labels)
    renamed = [(OTEL_END_ATTRIBUTES.get(name, name), value) for name, value in labels]
    if told.get("resolution_type", "").startswith("K8S_"):
        names = OTEL_END_ATTRIBUTES | OTEL_KUBERNETES_ATTRIBUTES
        renamed = [(names.get(name, name), value) for name, value in labels]
        renamed.append(("name", told["workload.name"]))
    return tuple(sorted(renamed))


def _otel_metric(name: str) -> tuple[str, Attributes]:
    renamed, transport = OTEL_METRICS.get(name, (f"network.flow.{name}", ""))
    return renamed, (("network.transport", transport),) if transport else ()


OTEL = Conventions(
    schema="2.0.0",
    source="source",
    dest="destination",
    same_zone=("network.flow.inter_zone", False),
    cross_zone=("network.flow.inter_zone", True),
    end=_otel_end,
    metric=_otel_metric,
    attributes=OTEL_ATTRIBUTES,
)

CONVENTIONS = {"reference": REFERENCE, "otel": OTEL}
"""By the name that --metric-names gives."""


def schema(metrics: Sequence[Metric]) -> str:
    """Return the text of the schema of `OTEL`: how the names of `REFERENCE` become its own, where one becomes one.

    Its format is that of OpenTelemetry, version 1.1.0.
    """
    renamed = {metric.name: OTEL.metric(metric.name)[0] for metric in metrics if metric.name not in OTEL_METRICS}
    renamed |= {name: new for name, (new, transport) in OTEL_METRICS.items() if not transport}
    ends = {
        f"{old}.{name}": f"{new}.{attribute}"
        for old, new in ((REFERENCE.source, OTEL.source), (REFERENCE.dest, OTEL.dest))
        for name, attribute in OTEL_END_ATTRIBUTES.items()
    }
    lines = ["file_format: 1.1.0", f"schema_url: {OTEL.schema_url}", "versions:", f"  {OTEL.schema}:", "    metrics:"]
    lines += ["      changes:", "        - rename_metrics:"]
    lines += [f"            {old}: {new}" for old, new in sorted(renamed.items())]
    lines += ["        - rename_attributes:", "            attribute_map:"]
    lines += [f"              {old}: {new}" for old, new in sorted((ends | OTEL_ATTRIBUTES).items())]
    return "\n".join((*lines, f"  {REFERENCE.schema}:", ""))
