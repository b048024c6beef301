"""The options of the reducer; names and defaults are the reference's where it has the option."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from daemon.logs import LEVELS
from intake.clock import SECOND_NS
from intake.credentials import ServerCredentials, server_credential_options, server_credentials

if TYPE_CHECKING:
    from collections.abc import Callable

DATA_DIRECTORY_VARIABLE = "EBPF_NET_DATA_DIR"
# Beyond the window's end and a poll interval: for delays of the network, and clocks that differ.
GRACE_NS = SECOND_NS


@dataclass(frozen=True)
class Settings:
    """What a reducer was asked to do.

    Attributes:
        port: where collectors connect, on all addresses.
        window_ns: length of a window.
        poll_interval_ns: how often collectors are told to read their counters.
        enable_id_id: give series by node as well.
        keep_loopback: count the traffic of loopback addresses.
        otlp_grpc_endpoint: URL of the OTLP receiver over gRPC, `http` or `https`; None for none.
        otlp_http: send OTLP over HTTP as OTEL_EXPORTER_OTLP_* says.
        prometheus: `address:port` of the flow metrics; None for none.
        internal_prometheus: `address:port` of the reducer's own metrics and of its health.
        data_directory: where sealed windows wait for their export; None for memory.
        credentials: what the reducer shows to collectors, and asks of them.

    """

    port: int = 8000
    window_ns: int = 30 * SECOND_NS
    poll_interval_ns: int = 5 * SECOND_NS
    enable_id_id: bool = False
    keep_loopback: bool = False
    otlp_grpc_endpoint: str | None = None
    otlp_http: bool = False
    prometheus: str | None = "127.0.0.1:7010"
    internal_prometheus: str = "0.0.0.0:7001"  # probes and scrapers of a cluster come from outside
    data_directory: Path | None = None
    credentials: ServerCredentials = field(default_factory=ServerCredentials)


def reducer_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the reducer's options to a click command; its arguments are for `settings_from`."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def settings_from(arguments: dict[str, Any]) -> tuple[Settings, dict[str, bool]]:
    """Return the settings that the arguments of a command ask for, and the rest, which is for `configure_logs`.

    Raises:
        StartupError: files of credentials cannot be used.

    """
    log_arguments = {name: arguments[name] for name in ("log_console", "no_log_file", *LEVELS)}
    credentials = server_credentials(
        **{name: arguments[name] for name in ("tls_certificate", "tls_key", "tls_client_ca", "token_file")}
    )
    settings = Settings(
        port=arguments["port"],
        window_ns=arguments["window"] * SECOND_NS,
        poll_interval_ns=round(arguments["poll_interval"] * SECOND_NS),
        enable_id_id=arguments["enable_id_id"],
        keep_loopback=arguments["keep_loopback"],
        otlp_grpc_endpoint=_otlp_grpc_endpoint(arguments),
        otlp_http=arguments["enable_otlp_http_metrics"],
        prometheus=None if arguments["disable_prometheus_metrics"] else arguments["prom"],
        internal_prometheus=arguments["internal_prom"],
        data_directory=arguments["data_dir"],
        credentials=credentials,
    )
    return settings, log_arguments


def _otlp_grpc_endpoint(arguments: dict[str, Any]) -> str | None:
    """Return the URL of the receiver; the options come before the variable, and the variable before their defaults."""
    if not arguments["enable_otlp_grpc_metrics"]:
        return None
    host, port = arguments["otlp_grpc_metrics_host"], arguments["otlp_grpc_metrics_port"]
    variables = ("OTEL_EXPORTER_OTLP_METRICS_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
    from_variable = next((os.environ[name] for name in variables if os.environ.get(name)), None)
    if from_variable and host is None and port is None:
        return from_variable
    host = host or "localhost"
    return f"http://{f'[{host}]' if ':' in host else host}:{port or 4317}"


_OPTIONS = (
    click.option("-p", "--port", type=click.IntRange(1, 65535), default=8000, help="Port that collectors connect to."),
    click.option("--window", type=click.IntRange(1, 3600), default=30, help="Length of a window, seconds."),
    click.option(
        "--poll-interval",
        type=click.FloatRange(0.2, 300),
        default=5.0,
        help="How often collectors read their counters, seconds.",
    ),
    click.option("--enable-id-id", is_flag=True, help="Give series by pair of nodes as well."),
    click.option("--keep-loopback", is_flag=True, help="Count the traffic of loopback addresses."),
    click.option("--enable-otlp-grpc-metrics", is_flag=True, help="Send metrics by OTLP over gRPC."),
    click.option(
        "--otlp-grpc-metrics-host",
        help="Host of the OTLP receiver.  [default: localhost, or OTEL_EXPORTER_OTLP_ENDPOINT]",
    ),
    click.option(
        "--otlp-grpc-metrics-port", type=click.IntRange(1, 65535), help="Port of the OTLP receiver.  [default: 4317]"
    ),
    click.option(
        "--enable-otlp-http-metrics",
        is_flag=True,
        help="Send metrics by OTLP over HTTP, to OTEL_EXPORTER_OTLP_ENDPOINT or http://localhost:4318.",
    ),
    click.option("--prom", metavar="ADDR:PORT", default="127.0.0.1:7010", help="Where to serve metrics to Prometheus."),
    click.option("--disable-prometheus-metrics", is_flag=True, help="Serve none."),
    click.option(
        "--internal-prom",
        metavar="ADDR:PORT",
        default=Settings.internal_prometheus,
        help="Where to serve the reducer's own metrics, /healthz and /readyz.",
    ),
    click.option(
        "--data-dir",
        type=click.Path(path_type=Path, file_okay=False),
        envvar=DATA_DIRECTORY_VARIABLE,
        show_envvar=True,
        help="Keep windows here until they are exported, so that none is lost, or counted twice, by a crash.",
    ),
    server_credential_options,
)
