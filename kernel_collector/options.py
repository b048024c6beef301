"""The options of the kernel collector; names and defaults are the reference's where it has the option."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from daemon.command import options
from daemon.logs import log_arguments
from intake.credentials import ClientCredentials
from intake.options import DEFAULT_INTAKE_HOST, DEFAULT_INTAKE_PORT, intake_options, intake_settings
from kernel_collector.workloads.processes import LONGEST_COMMAND_LINE

if TYPE_CHECKING:
    from collections.abc import Mapping

DEFAULT_ENCODER = "intake"
# The reference's word for its default.
_ENCODERS = {DEFAULT_ENCODER: DEFAULT_ENCODER, "binary": DEFAULT_ENCODER, "otlp_log": "otlp_log"}
RECORD_LIMIT_MB = 1024
MOUNTED_HOST_DIRECTORY = Path("/hostfs")


@dataclass(frozen=True)
class Settings:
    """What a collector was asked to do.

    Attributes:
        intake_host: of the reducer, or of what takes OTLP logs.
        intake_port: of the same.
        intake_encoder: what is spoken there, `intake` or `otlp_log`.
        host_directory: where the machine's own root directory is.
        network_namespaces: paths of those to watch; none: all.
        labels: of the operator, as `operator_labels` gives them.
        docker_ns_label: label of Docker containers that holds their namespace.
        force_docker_metadata: ask Docker about every container, not only where the cgroup's path says that it is its.
        disable_nomad_metadata: do not look at the variables of Nomad in what Docker says.
        command_line_length: characters of a process's command line that are told; 0: none.
        bpf_stats: whether the kernel is asked to count what BPF programs cost.
        record: file to which what the kernel gives is recorded; None: it is not.
        record_limit: of that file, bytes.
        credentials: what the collector shows to the reducer, and asks of it.
        udp_metrics: whether UDP is counted.
        drop_metrics: whether packets that the kernel drops are counted.
        http_metrics: whether HTTP is counted.
        disable_nat: leave the endpoints of translated connections as their sockets have them.
        dns_metrics: whether the DNS is watched.

    """

    intake_host: str = DEFAULT_INTAKE_HOST
    intake_port: int = DEFAULT_INTAKE_PORT
    intake_encoder: str = DEFAULT_ENCODER
    host_directory: Path = Path("/")
    network_namespaces: tuple[Path, ...] = ()
    labels: dict[str, str] = field(default_factory=dict)
    docker_ns_label: str = ""
    force_docker_metadata: bool = False
    disable_nomad_metadata: bool = False
    command_line_length: int = LONGEST_COMMAND_LINE
    bpf_stats: bool = False
    record: Path | None = None
    record_limit: int = RECORD_LIMIT_MB << 20
    credentials: ClientCredentials = field(default_factory=ClientCredentials)
    udp_metrics: bool = True
    http_metrics: bool = True
    disable_nat: bool = False
    drop_metrics: bool = True
    dns_metrics: bool = True

    @property
    def proc(self) -> Path:
        """The machine's /proc; the collector's own where the host directory has none."""
        proc = self.host_directory / "proc"
        return proc if (proc / "stat").exists() else Path("/proc")


def settings_from(arguments: dict[str, Any], environ: Mapping[str, str]) -> tuple[Settings, dict[str, bool]]:
    """Return the settings that the arguments of a command ask for, and the rest, which is for `configure_logs`.

    An option comes before its variable, that before the configuration file, and that before the default.

    Raises:
        StartupError: the configuration file, a label or a file of credentials cannot be used.

    """
    intake = intake_settings(arguments, environ)
    settings = Settings(
        intake_host=intake.host,
        intake_port=intake.port,
        intake_encoder=_ENCODERS[arguments["intake_encoder"]],
        host_directory=arguments["host_dir"] or _default_host_directory(),
        network_namespaces=arguments["network_namespace"],
        labels=intake.labels,
        docker_ns_label=arguments["docker_ns_label"],
        force_docker_metadata=arguments["force_docker_metadata"],
        disable_nomad_metadata=arguments["disable_nomad_metadata"],
        command_line_length=arguments["command_line_length"],
        bpf_stats=arguments["enable_bpf_stats"],
        record=arguments["record"],
        record_limit=arguments["record_limit"] << 20,
        credentials=intake.credentials,
        udp_metrics=not arguments["disable_udp_metrics"],
        http_metrics=not arguments["disable_http_metrics"],
        disable_nat=arguments["disable_nat"],
        drop_metrics=not arguments["disable_drop_metrics"],
        dns_metrics=not arguments["disable_dns_metrics"],
    )
    return settings, log_arguments(arguments)


def _default_host_directory() -> Path:
    return MOUNTED_HOST_DIRECTORY if os.path.isdir(MOUNTED_HOST_DIRECTORY) else Path("/")  # noqa: PTH112


collector_options = options(
    intake_options,
    click.option(
        "--intake-encoder",
        type=click.Choice(list(_ENCODERS)),
        default=DEFAULT_ENCODER,
        envvar="EBPF_NET_INTAKE_ENCODER",
        show_envvar=True,
        show_default=True,
        help="What to speak there: to a reducer intake (or binary), to what takes OTLP logs by HTTP otlp_log.",
    ),
    click.option(
        "--host-dir",
        type=click.Path(path_type=Path, exists=True, file_okay=False),
        envvar="EBPF_NET_HOST_DIR",
        show_envvar=True,
        help=f"Where the machine's root directory is mounted.  [default: {MOUNTED_HOST_DIRECTORY} if there, else /]",
    ),
    click.option(
        "--network-namespace",
        type=click.Path(path_type=Path),
        multiple=True,
        help="Watch this network namespace, e.g. /run/netns/NAME, and no other; may be given several times.",
    ),
    click.option(
        "--disable-udp-metrics",
        is_flag=True,
        envvar="EBPF_NET_DISABLE_UDP_METRICS",
        show_envvar=True,
        help="Do not count what UDP sockets exchange.",
    ),
    click.option(
        "--disable-drop-metrics",
        is_flag=True,
        envvar="EBPF_NET_DISABLE_DROP_METRICS",
        show_envvar=True,
        help="Do not count the packets that the kernel drops.",
    ),
    click.option(
        "--disable-nat",
        is_flag=True,
        envvar="EBPF_NET_DISABLE_NAT",
        show_envvar=True,
        help="Do not ask the kernel which connections are translated: their ends then look like two flows.",
    ),
    click.option(
        "--command-line-length",
        type=click.IntRange(0, LONGEST_COMMAND_LINE),
        default=LONGEST_COMMAND_LINE,
        envvar="EBPF_NET_COMMAND_LINE_LENGTH",
        show_envvar=True,
        show_default=True,
        help="Characters that are told of a process's command line, which may hold secrets; 0: none.",
    ),
    click.option(
        "--enable-bpf-stats",
        is_flag=True,
        envvar="EBPF_NET_ENABLE_BPF_STATS",
        show_envvar=True,
        help="Have the kernel count what all BPF programs of the machine cost; to count takes 20 ns a run.",
    ),
    click.option(
        "--disable-dns-metrics",
        is_flag=True,
        envvar="EBPF_NET_DISABLE_DNS_METRICS",
        show_envvar=True,
        help="Do not watch the DNS, neither its answers' codes and latencies nor what names mean.",
    ),
    click.option(
        "--disable-http-metrics",
        is_flag=True,
        envvar="EBPF_NET_DISABLE_HTTP_METRICS",
        show_envvar=True,
        help="Do not count HTTP; for it a program looks at each packet.",
    ),
    click.option(
        "--record",
        type=click.Path(path_type=Path, dir_okay=False),
        help="Record what the kernel gives to this file, for `ebpf-net replay`; it holds addresses and command lines.",
    ),
    click.option(
        "--record-limit",
        type=click.IntRange(1),
        default=RECORD_LIMIT_MB,
        show_default=True,
        help="MiB that the recording may have; it ends then, the collector goes on.",
    ),
    click.option(
        "--docker-ns-label",
        envvar="DOCKER_NS_LABEL",
        show_envvar=True,
        default="",
        help="Label of Docker containers that holds the namespace of what runs in them.",
    ),
    click.option(
        "--force-docker-metadata",
        is_flag=True,
        help="Ask Docker about every container, not only those whose cgroup says that they are Docker's.",
    ),
    click.option(
        "--disable-nomad-metadata",
        is_flag=True,
        help="Do not name Docker containers by the variables NOMAD_* in their environment.",
    ),
)
"""Add the collector's options to a click command; its arguments are for `settings_from`."""
