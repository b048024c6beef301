"""The options of the reducer; names and defaults are the reference's where it has the option."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from daemon.errors import StartupError
from daemon.logs import log_arguments
from daemon.option_table import DIRECTORY, FILE, FiniteRange, Option, OptionTable
from intake.clock import SECOND_NS
from intake.credentials import SERVER_OPTIONS, ServerCredentials, server_credentials
from reducer.columns.series import FLOWS, LEVELS
from reducer.outputs.conventions import CONVENTIONS
from reducer.outputs.flow_files import JSON_LINES_BYTES, PARQUET_BYTES, PARQUET_HOURS
from reducer.outputs.otlp_environment import host_of_url
from reducer.rolling_up.budget import MOST_SERIES

if TYPE_CHECKING:
    from collections.abc import Callable

DATA_DIRECTORY_VARIABLE = "EBPF_NET_DATA_DIR"
TEMPORALITY_VARIABLE = "OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE"
# Whether it is cumulative; the reference's is delta.
_TEMPORALITIES = {"": False, "delta": False, "lowmemory": False, "cumulative": True}
# With the key of an option in upper case the variable that stands for it.
VARIABLE_PREFIX = "EBPF_NET_REDUCER_"
# Beyond the window's end and a poll interval: for delays of the network, and clocks that differ.
GRACE_NS = SECOND_NS


@dataclass(frozen=True)
class Settings:
    """What a reducer was asked to do.

    Attributes:
        port: where collectors connect, on all addresses.
        window_ns: length of a window.
        poll_interval_ns: how often collectors are told to read their counters.
        enable_id_id: give series by pair of nodes as well.
        enable_az_id: give series by identity and node, and by node and identity, as well.
        disable_node_ip_field: tell nodes apart by their id alone.
        enable_aws_enrichment: name ends by what clouds tell of them.
        geoip_path: database of autonomous systems; None for none.
        enable_autonomous_system_ip: tell apart addresses of which only the autonomous system is known.
        keep_loopback: count the traffic of loopback addresses.
        series_limit: series that a level has in a window at most.
        otlp_grpc_endpoint: URL of the OTLP receiver over gRPC, `http` or `https`; None for none.
        otlp_http: send OTLP over HTTP as OTEL_EXPORTER_OTLP_* says.
        otlp_cumulative: send counters and histograms with cumulative temporality, not with delta.
        otlp_batch_size: points or log records that a request holds at most; None: as many as fit.
        flow_logs: send flows as log records by OTLP.
        flow_logs_file: file of flows as lines of JSON; None for none.
        flow_logs_file_limit_bytes: of that one and those before it.
        parquet_directory: where flows are written as Parquet, a directory or a URL; None for nowhere.
        parquet_limit_bytes: of all files there.
        parquet_hours: how long they are kept.
        prometheus: `address:port` of the flow metrics; None for none.
        disable_metrics: list of metrics that are not given.
        enable_metrics: list of metrics that are.
        enable_percentile_latencies: give percentiles of latencies as well.
        metric_names: a key of `CONVENTIONS`.
        internal_prometheus: `address:port` of the reducer's own metrics and of its health.
        data_directory: where sealed windows wait for their export; None for memory.
        credentials: what the reducer shows to collectors, and asks of them.
        ignored: options that were given though they do nothing here, or not without others.

    """

    port: int = 8000
    window_ns: int = 30 * SECOND_NS
    poll_interval_ns: int = 5 * SECOND_NS
    enable_id_id: bool = False
    enable_az_id: bool = False
    disable_node_ip_field: bool = False
    enable_aws_enrichment: bool = False
    geoip_path: Path | None = None
    enable_autonomous_system_ip: bool = False
    keep_loopback: bool = False
    series_limit: int = MOST_SERIES
    otlp_grpc_endpoint: str | None = None
    otlp_http: bool = False
    otlp_cumulative: bool = False
    otlp_batch_size: int | None = None
    flow_logs: bool = False
    flow_logs_file: Path | None = None
    flow_logs_file_limit_bytes: int = JSON_LINES_BYTES
    parquet_directory: str | None = None
    parquet_limit_bytes: int = PARQUET_BYTES
    parquet_hours: float = PARQUET_HOURS
    prometheus: str | None = "127.0.0.1:7010"
    disable_metrics: str = ""
    enable_metrics: str = ""
    enable_percentile_latencies: bool = False
    metric_names: str = "reference"
    internal_prometheus: str = "0.0.0.0:7001"  # probes and scrapers of a cluster come from outside
    data_directory: Path | None = None
    credentials: ServerCredentials = field(default_factory=ServerCredentials)
    ignored: tuple[str, ...] = ()

    @property
    def levels(self) -> tuple[str, ...]:
        """The levels whose series were asked for."""
        enabled = {"az_az": True, "az_id": self.enable_az_id, "id_az": self.enable_az_id, "id_id": self.enable_id_id}
        return tuple(name for name in LEVELS if enabled[name])

    @property
    def levels_needed(self) -> tuple[str, ...]:
        """Those, and the one that has flows where somebody gets them."""
        flows = self.flow_logs or self.flow_logs_file or self.parquet_directory
        return (*self.levels, FLOWS) if flows else self.levels


def reducer_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the reducer's options to a click command; its arguments are for `settings_from`."""
    return OPTIONS.options(command)


def settings_from(arguments: dict[str, Any]) -> tuple[Settings, dict[str, bool]]:
    """Return the settings that the arguments of a command ask for, and the rest, which is for `configure_logs`.

    Raises:
        StartupError: files of credentials cannot be used, or a variable is mistyped.

    """
    OPTIONS.check_variables(os.environ)
    credentials = server_credentials(**{key: arguments[key] for key in _CREDENTIALS})
    settings = Settings(
        port=arguments["telemetry_port"],
        window_ns=arguments["window"] * SECOND_NS,
        poll_interval_ns=round(arguments["poll_interval"] * SECOND_NS),
        enable_id_id=arguments["enable_id_id"],
        enable_az_id=arguments["enable_az_id"],
        disable_node_ip_field=arguments["disable_node_ip_field"],
        enable_aws_enrichment=arguments["enable_aws_enrichment"],
        geoip_path=arguments["geoip_path"],
        enable_autonomous_system_ip=arguments["enable_autonomous_system_ip"],
        keep_loopback=arguments["keep_loopback"],
        series_limit=arguments["series_limit"],
        otlp_grpc_endpoint=_otlp_grpc_endpoint(arguments),
        otlp_http=arguments["enable_otlp_http_metrics"],
        otlp_cumulative=_otlp_cumulative(),
        otlp_batch_size=arguments["otlp_grpc_batch_size"],
        flow_logs=arguments["enable_flow_logs"],
        flow_logs_file=arguments["flow_logs_file"],
        flow_logs_file_limit_bytes=arguments["flow_logs_file_limit_bytes"],
        parquet_directory=arguments["parquet_dir"],
        parquet_limit_bytes=arguments["parquet_limit_bytes"],
        parquet_hours=arguments["parquet_hours"],
        prometheus=None if arguments["disable_prometheus_metrics"] else arguments["prom_bind"],
        disable_metrics=arguments["disable_metrics"],
        enable_metrics=arguments["enable_metrics"],
        enable_percentile_latencies=arguments["enable_percentile_latencies"],
        metric_names=arguments["metric_names"],
        internal_prometheus=arguments["internal_prom_bind"],
        data_directory=arguments["data_dir"],
        credentials=credentials,
        ignored=tuple(OPTIONS.ignored(arguments)),
    )
    return settings, log_arguments(arguments)


def _otlp_cumulative() -> bool:
    """Return whether TEMPORALITY_VARIABLE asks for cumulative temporality.

    Raises:
        StartupError: it is none of the values that OpenTelemetry has.

    """
    preference = os.environ.get(TEMPORALITY_VARIABLE, "").lower()
    if preference not in _TEMPORALITIES:
        raise StartupError(f"{TEMPORALITY_VARIABLE} is {preference!r}: cumulative, delta and lowmemory are known")
    return _TEMPORALITIES[preference]


def _otlp_grpc_endpoint(arguments: dict[str, Any]) -> str | None:
    """Return the URL of the receiver; the options come before the variable, and the variable before their defaults."""
    if not arguments["enable_otlp_grpc_metrics"]:
        return None
    host, port = arguments["otlp_grpc_metrics_address"], arguments["otlp_grpc_metrics_port"]
    variables = ("OTEL_EXPORTER_OTLP_METRICS_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
    from_variable = next((os.environ[name] for name in variables if os.environ.get(name)), None)
    if from_variable and host is None and port is None:
        return from_variable
    return f"http://{host or 'localhost'}:{port or 4317}"


class _HostOfUrl(click.ParamType[str]):
    """A name or an address, which is as URLs have it from then on."""

    name = "text"

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> str:
        """Return the host, or refuse it."""
        try:
            return host_of_url(value)
        except StartupError as error:
            self.fail(str(error), param, ctx)


_PORT = click.IntRange(1, 65535)
_ADDRESS = "ADDR:PORT"
_CREDENTIALS = {name.replace("-", "_"): (f"--{name}", text) for name, text in SERVER_OPTIONS}


def _ignored(
    key: str, flag: str, why: str, type_: click.ParamType[Any] | None = click.INT, default: Any = None
) -> Option:
    return Option(key, (flag,), why, type_, default, ignored=True)


_SHARDS = "Work is divided over the cores without being asked to: columns are added up by several threads."
_ONE_TARGET = "All series are at one address, however many there are, and any number of scrapers get the same."
_WHOLE_SCRAPES = "A scrape has all series or none: what bounds it is how many series there are."
_NO_LISTS = "Lines of levels debug and trace are few here; --debug and --trace show all."

OPTIONS = OptionTable(
    VARIABLE_PREFIX,
    (
        Option("telemetry_port", ("-p", "--port"), "Port that collectors connect to.", _PORT, 8000),
        Option("window", ("--window",), "Length of a window, seconds.", click.IntRange(1, 3600), 30),
        Option(
            "poll_interval",
            ("--poll-interval",),
            "How often collectors read their counters, seconds.",
            FiniteRange(0.2, 300),
            5.0,
        ),
        Option("enable_id_id", ("--enable-id-id",), "Give series by pair of nodes as well."),
        Option("enable_az_id", ("--enable-az-id",), "Give series by workload and node, both ways, as well."),
        Option("disable_node_ip_field", ("--disable-node-ip-field",), "Do not tell nodes apart by their addresses."),
        Option(
            "enable_aws_enrichment",
            ("--enable-aws-enrichment",),
            "Name ends without a collector by what the cloud collector tells of AWS, Google and Azure.",
        ),
        Option(
            "geoip_path",
            ("--geoip-path",),
            "A GeoLite2-ASN.mmdb: tells the organisations that public addresses belong to.",
            FILE,
            variable="GEOIP_PATH",
        ),
        Option(
            "enable_autonomous_system_ip",
            ("--enable-autonomous-system-ip",),
            "Keep the addresses of ends of which only the organisation is known.",
            needs=("geoip_path",),
        ),
        Option("keep_loopback", ("--keep-loopback",), "Count the traffic of loopback addresses."),
        Option(
            "series_limit",
            ("--series-limit",),
            "Series that each level has in a window at most; beyond it the least active ends are rolled up.",
            click.IntRange(min=1),
            MOST_SERIES,
        ),
        Option("enable_otlp_grpc_metrics", ("--enable-otlp-grpc-metrics",), "Send metrics by OTLP over gRPC."),
        Option(
            "otlp_grpc_metrics_address",
            ("--otlp-grpc-metrics-host",),
            "Host of the OTLP receiver.",
            _HostOfUrl(),
            default_text="localhost, or OTEL_EXPORTER_OTLP_ENDPOINT",
            needs=("enable_otlp_grpc_metrics",),
        ),
        Option(
            "otlp_grpc_metrics_port",
            ("--otlp-grpc-metrics-port",),
            "Port of the OTLP receiver.",
            _PORT,
            default_text="4317",
            needs=("enable_otlp_grpc_metrics",),
        ),
        Option(
            "enable_otlp_http_metrics",
            ("--enable-otlp-http-metrics",),
            "Send metrics by OTLP over HTTP, to OTEL_EXPORTER_OTLP_ENDPOINT or http://localhost:4318.",
        ),
        Option(
            "otlp_grpc_batch_size",
            ("--otlp-grpc-batch-size",),
            "Points or log records that an OTLP request holds at most.",
            click.IntRange(min=1),
            default_text="as many as fit into 3.5 MB",
            needs=("enable_otlp_grpc_metrics", "enable_otlp_http_metrics"),
        ),
        Option("enable_flow_logs", ("--enable-flow-logs",), "Send flows as log records, by OTLP as metrics are sent."),
        Option(
            "flow_logs_file",
            ("--flow-logs-file",),
            "Write flows to this file as lines of JSON.",
            click.Path(path_type=Path, dir_okay=False),
        ),
        Option(
            "flow_logs_file_limit_bytes",
            ("--flow-logs-file-limit-bytes",),
            "What that file and the four before it, to which it is rotated, take at most.",
            click.IntRange(min=1000),
            JSON_LINES_BYTES,
            needs=("flow_logs_file",),
        ),
        Option(
            "parquet_dir",
            ("--parquet-dir",),
            "Write flows as files of Parquet below this directory, or URL such as s3://BUCKET/PREFIX.",
            click.STRING,
            metavar="DIRECTORY",
        ),
        Option(
            "parquet_limit_bytes",
            ("--parquet-limit-bytes",),
            "What all files of Parquet take at most; the oldest go.",
            click.IntRange(min=1000),
            PARQUET_BYTES,
            needs=("parquet_dir",),
        ),
        Option(
            "parquet_hours",
            ("--parquet-hours",),
            "How long files of Parquet are kept.",
            FiniteRange(min=1),
            float(PARQUET_HOURS),
            needs=("parquet_dir",),
        ),
        Option(
            "prom_bind", ("--prom",), "Where to serve metrics to Prometheus.", click.STRING, "127.0.0.1:7010", _ADDRESS
        ),
        Option("disable_prometheus_metrics", ("--disable-prometheus-metrics",), "Serve none to Prometheus."),
        Option(
            "disable_metrics",
            ("--disable-metrics",),
            "Metrics not to give, separated by commas: names, or GROUP.all; "
            "groups: tcp, udp, dns, http, drops, zone, and ebpf_net, the reducer's own.",
            click.STRING,
            "",
            "LIST",
        ),
        Option(
            "enable_metrics",
            ("--enable-metrics",),
            "Metrics to give, in the same form; they come after those not to give.",
            click.STRING,
            "",
            "LIST",
        ),
        Option(
            "enable_percentile_latencies",
            ("--enable-percentile-latencies",),
            "Give percentiles of round trips, DNS and HTTP in milliseconds.",
        ),
        Option(
            "metric_names",
            ("--metric-names",),
            "What metrics and attributes are called: as by the reference, or by OpenTelemetry's conventions (draft).",
            click.Choice(list(CONVENTIONS)),
            "reference",
        ),
        Option(
            "internal_prom_bind",
            ("--internal-prom",),
            "Where to serve the reducer's own metrics, /healthz and /readyz.",
            click.STRING,
            Settings.internal_prometheus,
            _ADDRESS,
        ),
        Option(
            "data_dir",
            ("--data-dir",),
            "Keep windows here until they are exported, so that none is lost, or counted twice, by a crash.",
            DIRECTORY,
            variable=DATA_DIRECTORY_VARIABLE,
        ),
        *(Option(key, (flag,), text, FILE) for key, (flag, text) in _CREDENTIALS.items()),
        _ignored(
            "scrape_metrics_tsdb_format",
            "--metrics-tsdb-format",
            "Scrapers get the text format of Prometheus; the other, lines of JSON, is refused.",
            click.Choice(["prometheus"]),
            "prometheus",
        ),
        _ignored("num_ingest_shards", "--num-ingest-shards", _SHARDS, default=1),
        _ignored("num_matching_shards", "--num-matching-shards", _SHARDS, default=1),
        _ignored("num_aggregation_shards", "--num-aggregation-shards", _SHARDS, default=1),
        _ignored("partitions_per_shard", "--partitions-per-shard", _SHARDS, default=1),
        _ignored("shard_prometheus_metrics", "--shard-prometheus-metrics", _ONE_TARGET, None),
        _ignored("scrape_size_limit_bytes", "--scrape-size-limit-bytes", _WHOLE_SCRAPES),
        _ignored("stats_scrape_size_limit_bytes", "--stats-scrape-size-limit-bytes", _WHOLE_SCRAPES),
        _ignored(
            "enable_otlp_grpc_metric_descriptions",
            "--enable-otlp-grpc-metric-descriptions",
            "Metrics have their descriptions in any case: they cost nothing, being there once a request.",
            None,
        ),
        _ignored(
            "index_dump_interval",
            "--index-dump-interval",
            "There are no span indexes to dump; the reducer's own metrics tell how many flows and series there are.",
        ),
        *(
            _ignored(f"log_whitelist_{name.replace('-', '_')}", f"--log-whitelist-{name}", _NO_LISTS, click.STRING)
            for name in ("client-type", "node-resolution-type", "channel", "ingest", "matching")
        ),
        _ignored("log_whitelist_all", "--log-whitelist-all", _NO_LISTS, None),
    ),
)


if __name__ == "__main__":
    sys.stdout.write(f"{OPTIONS.documentation(ignored=False)}\n\n{OPTIONS.documentation(ignored=True)}\n")
