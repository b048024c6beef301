"""The options of the collector of Kubernetes; names and defaults are the reference's where it has the option."""

from __future__ import annotations

import re
import socket
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import click

from daemon.command import options
from daemon.errors import StartupError
from daemon.logs import log_arguments
from intake.clock import SECOND_NS
from intake.health import internal_prometheus_option
from intake.options import IntakeSettings, intake_options, intake_settings
from k8s_collector.cluster import DELETE_CAPACITY, DELETE_TTL_NS, Choice

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

DEFAULT_INTERNAL_PROMETHEUS = "0.0.0.0:7002"  # probes and scrapers of a cluster come from outside
DEFAULT_LEASE = "k8s-collector"
# RFC 1123 subdomains: they become parts of paths.
_NAME = re.compile(r"[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?")


@dataclass(frozen=True)
class Settings:
    """What a collector was asked to do.

    Attributes:
        intake: where the reducer is, and what it is told of this collector.
        hostname: the collector's name.
        kubeconfig: files with credentials; empty: the pod's, else those in the user's home.
        context: of the kubeconfig; empty: its current one.
        namespaces: of the pods and services that are told of; none: all.
        label_selector: of the pods that are told of; empty: all.
        choice: what is told of pods, and how long.
        leader_elect: whether only the replica that holds the lease tells the reducer.
        lease_name: of the lease.
        lease_namespace: of the lease; empty: the pod's own.
        internal_prometheus: `address:port` of the collector's own metrics and its health; empty: nowhere.
        once: print what would be sent, and exit.

    """

    intake: IntakeSettings = field(default_factory=IntakeSettings)
    hostname: str = ""
    kubeconfig: str = ""
    context: str = ""
    namespaces: tuple[str, ...] = ()
    label_selector: str = ""
    choice: Choice = field(default_factory=Choice)
    leader_elect: bool = False
    lease_name: str = DEFAULT_LEASE
    lease_namespace: str = ""
    internal_prometheus: str = DEFAULT_INTERNAL_PROMETHEUS
    once: bool = False


def settings_from(arguments: dict[str, Any], environ: Mapping[str, str]) -> tuple[Settings, dict[str, bool]]:
    """Return the settings that the arguments of a command ask for, and the rest, which is for `configure_logs`.

    An option comes before its variable, that before the configuration file, and that before the default.

    Raises:
        StartupError: the configuration file, a label, a file of credentials or a name cannot be used.

    """
    for option in ("namespace", "lease_name", "lease_namespace"):
        _check_names(option, arguments[option])
    intake = intake_settings(arguments, environ)
    settings = Settings(
        intake=intake,
        hostname=arguments["hostname"] or intake.labels.get("host") or socket.gethostname(),
        kubeconfig=arguments["kubeconfig"],
        context=arguments["context"],
        namespaces=tuple(dict.fromkeys(arguments["namespace"])),
        label_selector=arguments["label_selector"],
        choice=Choice(
            pod_labels=arguments["pod_label"],
            pod_annotations=arguments["pod_annotation"],
            delete_ttl_ns=arguments["delete_ttl_secs"] * SECOND_NS,
            delete_capacity=arguments["delete_capacity"],
        ),
        leader_elect=arguments["leader_elect"],
        lease_name=arguments["lease_name"],
        lease_namespace=arguments["lease_namespace"],
        internal_prometheus=arguments["internal_prom"],
        once=arguments["once"],
    )
    return settings, log_arguments(arguments)


def _check_names(option: str, names: str | Iterable[str]) -> None:
    """Raise a `StartupError` for what cannot be the name of an object; an empty one stands for the default."""
    for name in (names,) if isinstance(names, str) else names:
        if name and not _NAME.fullmatch(name):
            text = "is no name of Kubernetes: those have lower-case letters, digits, dots and hyphens"
            raise StartupError(f"--{option.replace('_', '-')} {name!r} {text}")


collector_options = options(
    intake_options,
    click.option(
        "--hostname",
        envvar="K8S_COLLECTOR_HOSTNAME",
        show_envvar=True,
        help="Name of this collector.  [default: the machine's]",
    ),
    click.option(
        "--kubeconfig",
        envvar="KUBECONFIG",
        show_envvar=True,
        default="",
        help="File with the cluster and credentials for it.  "
        "[default: the service account of the pod that this runs in, else ~/.kube/config]",
    ),
    click.option("--context", default="", help="Context of the kubeconfig.  [default: its current one]"),
    click.option(
        "--namespace", multiple=True, help="Tell of pods and services in this namespace; may be given several times."
    ),
    click.option("--label-selector", default="", help="Tell only of pods that it selects, e.g. `app=web,tier!=test`."),
    click.option("--pod-label", multiple=True, help="Tell this label of pods as well; may be given several times."),
    click.option(
        "--pod-annotation", multiple=True, help="Tell this annotation of pods as well; may be given several times."
    ),
    click.option(
        "--delete-ttl-secs",
        type=click.IntRange(0, 3600),
        envvar="K8S_COLLECTOR_DELETE_TTL_SECS",
        show_envvar=True,
        default=DELETE_TTL_NS // SECOND_NS,
        show_default=True,
        help="How long deleted objects are kept, seconds.",
    ),
    click.option(
        "--delete-capacity",
        type=click.IntRange(0, 1_000_000),
        envvar="K8S_COLLECTOR_DELETE_CAPACITY",
        show_envvar=True,
        default=DELETE_CAPACITY,
        show_default=True,
        help="How many deleted objects are kept at most.",
    ),
    click.option(
        "--leader-elect",
        is_flag=True,
        help="Of several replicas, have only the one that holds a Lease tell the reducer.",
    ),
    click.option("--lease-name", default=DEFAULT_LEASE, show_default=True, help="Name of the Lease."),
    click.option("--lease-namespace", default="", help="Namespace of the Lease.  [default: the pod's, else default]"),
    internal_prometheus_option(DEFAULT_INTERNAL_PROMETHEUS),
    click.option(
        "--once", is_flag=True, help="Print what would be sent as JSON, and exit: with 1 if not all was listed."
    ),
)
"""Add the collector's options to a click command; its arguments are for `settings_from`."""
