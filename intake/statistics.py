"""What collectors say of themselves in CollectorStatistics, where the reducer is not the only one to tell it.

A field that ends in `_ns` is a time, and is given in seconds.
"""

from __future__ import annotations

from typing import Literal, NamedTuple


class Statistic(NamedTuple):
    """The meaning of a field."""

    field: str
    kind: Literal["counter", "gauge"]
    unit: str
    description: str


PROCESS = (
    Statistic("cpu_time_ns", "counter", "s", "Processor time of the collector."),
    Statistic("resident_bytes", "gauge", "By", "Resident memory of the collector."),
)
KUBERNETES = (
    Statistic("kubernetes_pods", "gauge", "{pod}", "Pods known."),
    Statistic("kubernetes_services", "gauge", "{service}", "Kubernetes services known."),
    Statistic("kubernetes_nodes", "gauge", "{node}", "Kubernetes nodes known."),
    Statistic("kubernetes_pods_waiting", "gauge", "{pod}", "Pods not told yet since their owner is not known."),
    Statistic("kubernetes_pods_unresolved", "counter", "{pod}", "Pods told before all of their owners were known."),
    Statistic(
        "kubernetes_deleted_dropped", "counter", "{object}", "Deleted objects forgotten early: there were too many."
    ),
    Statistic("kubernetes_objects_untracked", "counter", "{object}", "Objects too many, or not as they should be."),
    Statistic(
        "kubernetes_parts_left_out",
        "counter",
        "{part}",
        "Addresses, ports, endpoints and containers that objects were told without: too many.",
    ),
    Statistic("kubernetes_lists", "counter", "{list}", "Times that all objects of a resource were listed."),
    Statistic("kubernetes_failures", "counter", "{request}", "Requests to the API server that failed."),
    Statistic("kubernetes_resources_failing", "gauge", "{resource}", "Resources that cannot be followed now."),
)
CLOUDS = (
    Statistic("cloud_interfaces", "gauge", "{interface}", "Interfaces of clouds known."),
    Statistic("cloud_interfaces_untracked", "gauge", "{interface}", "Interfaces not told since there are too many."),
    Statistic("cloud_reads", "counter", "{read}", "Times that an account was read in a region."),
    Statistic("cloud_failures", "counter", "{read}", "Times that one could not be read."),
    Statistic("cloud_scopes_failing", "gauge", "{scope}", "Accounts in regions that could not be read lately."),
    Statistic("cloud_scopes_lacking", "gauge", "{scope}", "Accounts in regions that are told without some names."),
)
