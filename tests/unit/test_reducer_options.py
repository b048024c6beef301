from __future__ import annotations

import asyncio
import dataclasses
import logging
from pathlib import Path

import pytest
import yaml

from daemon.errors import StartupError
from reducer import cli, service
from reducer.options import OPTIONS, Settings
from reducer.service import Reducer
from tests.commands import asking

DOCUMENT = Path(__file__).parents[2] / "docs" / "reducer.md"
SECOND_NS = 1_000_000_000
# What somebody may have in a command for the reference's reducer, and the field of the settings that it changes; None:
# nothing comes of it.
OF_THE_REFERENCE = [
    (["--port", "7000"], {"port": 7000}),
    (["-p", "7000"], {"port": 7000}),
    (["--metrics-tsdb-format", "prometheus"], {}),
    (["--enable-id-id"], {"enable_id_id": True}),
    (["--enable-az-id"], {"enable_az_id": True}),
    (["--enable-aws-enrichment"], {"enable_aws_enrichment": True}),
    (
        ["--enable-autonomous-system-ip", "--geoip-path", "/asn"],
        {"enable_autonomous_system_ip": True, "geoip_path": Path("/asn")},
    ),
    (["--disable-node-ip-field"], {"disable_node_ip_field": True}),
    (["--num-ingest-shards", "2"], None),
    (["--num-matching-shards", "2"], None),
    (["--num-aggregation-shards", "2"], None),
    (["--partitions-per-shard", "2"], None),
    (["--disable-prometheus-metrics"], {"prometheus": None}),
    (["--shard-prometheus-metrics"], None),
    (["--prom", "0.0.0.0:7011"], {"prometheus": "0.0.0.0:7011"}),
    (["--scrape-size-limit-bytes", "1000000"], None),
    (["--enable-otlp-grpc-metrics"], {"otlp_grpc_endpoint": "http://localhost:4317"}),
    (
        ["--enable-otlp-grpc-metrics", "--otlp-grpc-metrics-host", "there", "--otlp-grpc-metrics-port", "4"],
        {"otlp_grpc_endpoint": "http://there:4"},
    ),
    (["--enable-otlp-grpc-metric-descriptions"], None),
    (
        ["--enable-otlp-http-metrics", "--otlp-grpc-batch-size", "1000"],
        {"otlp_http": True, "otlp_batch_size": 1000},
    ),
    (["--enable-flow-logs"], {"flow_logs": True}),
    (["--disable-metrics", "tcp.all"], {"disable_metrics": "tcp.all"}),
    (["--enable-metrics", "http.responses"], {"enable_metrics": "http.responses"}),
    (["--enable-percentile-latencies"], {"enable_percentile_latencies": True}),
    (["--internal-prom", "127.0.0.1:1"], {"internal_prometheus": "127.0.0.1:1"}),
    (["--stats-scrape-size-limit-bytes", "1000000"], None),
    (["--index-dump-interval", "60"], None),
    (["--log-whitelist-all"], None),
    (["--log-whitelist-client-type", "*"], None),
    (["--log-whitelist-node-resolution-type", "*"], None),
    (["--log-whitelist-channel", "*"], None),
    (["--log-whitelist-ingest", "*"], None),
    (["--log-whitelist-matching", "*"], None),
]
# The names of all of them, and of the keys of its configuration file.
_NAMES_OF_THE_REFERENCE = """
    -h --help -c --config-file --print-config -p --port --metrics-tsdb-format --enable-aws-enrichment
    --disable-node-ip-field --enable-id-id --enable-az-id --enable-flow-logs --enable-autonomous-system-ip
    --enable-percentile-latencies --num-ingest-shards --num-matching-shards --num-aggregation-shards
    --partitions-per-shard --disable-prometheus-metrics --shard-prometheus-metrics --prom --scrape-size-limit-bytes
    --enable-otlp-grpc-metrics --otlp-grpc-metrics-host --otlp-grpc-metrics-port --otlp-grpc-batch-size
    --enable-otlp-grpc-metric-descriptions --disable-metrics --enable-metrics --internal-prom
    --stats-scrape-size-limit-bytes --index-dump-interval --no-log-file --log-console --console-log
    --trace --debug --info --warning --error --critical --log-whitelist-all --log-whitelist-client-type
    --log-whitelist-node-resolution-type --log-whitelist-channel --log-whitelist-ingest --log-whitelist-matching
"""
_KEYS_OF_THE_REFERENCE = """
    telemetry_port num_ingest_shards num_matching_shards num_aggregation_shards partitions_per_shard enable_id_id
    enable_az_id enable_flow_logs enable_otlp_grpc_metrics otlp_grpc_metrics_address otlp_grpc_metrics_port
    otlp_grpc_batch_size enable_otlp_grpc_metric_descriptions disable_prometheus_metrics shard_prometheus_metrics
    prom_bind scrape_size_limit_bytes internal_prom_bind stats_scrape_size_limit_bytes scrape_metrics_tsdb_format
    disable_node_ip_field enable_autonomous_system_ip geoip_path enable_aws_enrichment enable_percentile_latencies
    disable_metrics enable_metrics index_dump_interval
"""
NAMES_OF_THE_REFERENCE = _NAMES_OF_THE_REFERENCE.split()
KEYS_OF_THE_REFERENCE = _KEYS_OF_THE_REFERENCE.split()
LOG_FLAGS = ["--trace", "--debug", "--info", "--warning", "--error", "--critical", "--log-console", "--console-log"]


@pytest.fixture
def asked(monkeypatch):
    return asking(monkeypatch, cli, "serve")


def test_defaults(asked):
    assert asked() == Settings()


@pytest.mark.parametrize(("arguments", "changes"), OF_THE_REFERENCE)
def test_each_option_of_the_reference(asked, arguments, changes):
    expected = {"ignored": (arguments[0],)} if changes is None else changes
    assert asked(*arguments) == dataclasses.replace(Settings(), **expected)


@pytest.mark.parametrize("name", NAMES_OF_THE_REFERENCE)
def test_each_name_of_the_reference_is_known_and_told_of(name):
    """It does something, which a test above or another one here has; or it is documented as doing nothing."""
    assert name in {option for parameter in cli.main.params for option in parameter.opts} | {"-h", "--help"}
    tested = {argument for arguments, _ in OF_THE_REFERENCE for argument in arguments} | {*LOG_FLAGS, "-h", "--help"}
    assert name in tested | {"-c", "--config-file", "--print-config", "--no-log-file"}
    if any(name in option.flags for option in OPTIONS):
        assert f"`{name}`" in DOCUMENT.read_text()


def test_each_key_of_the_reference_is_known(asked, tmp_path):
    path = tmp_path / "config.yaml"
    values = {option.key: False if option.type is None else option.default for option in OPTIONS}
    path.write_text(yaml.safe_dump({key: values[key] for key in KEYS_OF_THE_REFERENCE}))
    assert asked("--config-file", str(path)) == Settings()


@pytest.mark.parametrize("flag", LOG_FLAGS)
def test_log_flags(asked, flag):
    assert asked(flag) == Settings()


@pytest.mark.parametrize(
    ("arguments", "changes"),
    [
        (["--window", "10"], {"window_ns": 10 * SECOND_NS}),
        (["--poll-interval", "0.5"], {"poll_interval_ns": SECOND_NS // 2}),
        (["--keep-loopback"], {"keep_loopback": True}),
        (["--series-limit", "5"], {"series_limit": 5}),
        (["--enable-otlp-http-metrics"], {"otlp_http": True}),
        (["--flow-logs-file", "/flows"], {"flow_logs_file": Path("/flows")}),
        (
            ["--flow-logs-file", "/flows", "--flow-logs-file-limit-bytes", "5000"],
            {"flow_logs_file": Path("/flows"), "flow_logs_file_limit_bytes": 5000},
        ),
        (["--parquet-dir", "s3://a/b"], {"parquet_directory": "s3://a/b"}),
        (
            ["--parquet-dir", "/flows", "--parquet-limit-bytes", "5000"],
            {"parquet_directory": "/flows", "parquet_limit_bytes": 5000},
        ),
        (["--parquet-dir", "/flows", "--parquet-hours", "5"], {"parquet_directory": "/flows", "parquet_hours": 5}),
        (["--metric-names", "otel"], {"metric_names": "otel"}),
        (["--data-dir", "/data"], {"data_directory": Path("/data")}),
    ],
)
def test_each_option_of_our_own(asked, arguments, changes):
    assert asked(*arguments) == dataclasses.replace(Settings(), **changes)


def test_keys_of_the_reference_in_a_file(asked, tmp_path):
    path = tmp_path / "config.yaml"
    path.write_text(
        "telemetry_port: 7000\nenable_id_id: true\nprom_bind: 0.0.0.0:7010\ninternal_prom_bind: 0.0.0.0:7002\n"
        "enable_otlp_grpc_metrics: true\notlp_grpc_metrics_address: there\notlp_grpc_metrics_port: 4\n"
        "num_ingest_shards: 4\nshard_prometheus_metrics: true\nscrape_metrics_tsdb_format: prometheus\n"
    )
    assert asked("--config-file", str(path)) == Settings(
        port=7000,
        enable_id_id=True,
        prometheus="0.0.0.0:7010",
        internal_prometheus="0.0.0.0:7002",
        otlp_grpc_endpoint="http://there:4",
        ignored=("--num-ingest-shards", "--shard-prometheus-metrics"),
    )
    assert asked("-c", str(path), "-p", "7001", EBPF_NET_REDUCER_TELEMETRY_PORT="7002").port == 7001
    assert asked("-c", str(path), EBPF_NET_REDUCER_TELEMETRY_PORT="7002").port == 7002


def test_variables(asked, tmp_path):
    assert asked(EBPF_NET_DATA_DIR=str(tmp_path)).data_directory == tmp_path
    assert asked(EBPF_NET_REDUCER_ENABLE_ID_ID="true").enable_id_id
    assert asked(GEOIP_PATH="/asn.mmdb").geoip_path == Path("/asn.mmdb")
    settings = asked("--enable-otlp-grpc-metrics", OTEL_EXPORTER_OTLP_ENDPOINT="https://there:1")
    assert settings.otlp_grpc_endpoint == "https://there:1"


@pytest.mark.parametrize(("preference", "cumulative"), [("cumulative", True), ("DELTA", False), ("lowmemory", False)])
def test_temporality(asked, preference, cumulative):
    settings = asked(OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE=preference)
    assert settings.otlp_cumulative is cumulative


def test_temporality_that_is_none(asked):
    output = asked(OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE="daily", exit_code=1)
    assert "OTEL_EXPORTER_OTLP_METRICS_TEMPORALITY_PREFERENCE is 'daily': cumulative, delta and lowmemory" in output


def test_port_that_a_service_of_kubernetes_puts_into_the_environment_is_not_taken(asked):
    assert asked(EBPF_NET_REDUCER_PORT="tcp://10.0.0.1:8000") == Settings()


def test_print_config_shows_no_secret_and_starts_nothing(asked, tmp_path):
    token = tmp_path / "token"
    token.write_text("s3cret")
    text = asked("--print-config", "--token-file", str(token), OTEL_EXPORTER_OTLP_HEADERS="authorization=s3cret")
    assert yaml.safe_load(text)["token_file"] == str(token)
    assert "s3cret" not in text


def test_mistyped_option_and_format(asked):
    assert "--enable-id-id" in asked("--enable-idid", exit_code=2)
    assert "prometheus" in asked("--metrics-tsdb-format", "json", exit_code=2)


@pytest.mark.parametrize(
    ("host", "endpoint"),
    [("a_b.svc", "http://a_b.svc:4317"), ("fd00::1", "http://[fd00::1]:4317"), ("[fd00::1]", "http://[fd00::1]:4317")],
)
def test_receiver_by_name_or_address(asked, host, endpoint):
    settings = asked("--enable-otlp-grpc-metrics", "--otlp-grpc-metrics-host", host)
    assert settings.otlp_grpc_endpoint == endpoint


@pytest.mark.parametrize(
    ("arguments", "without"),
    [
        (("--otlp-grpc-metrics-host", "there"), "--enable-otlp-grpc-metrics"),
        (("--otlp-grpc-metrics-port", "4"), "--enable-otlp-grpc-metrics"),
        (("--otlp-grpc-batch-size", "9"), "--enable-otlp-grpc-metrics or --enable-otlp-http-metrics"),
        (("--flow-logs-file-limit-bytes", "5000"), "--flow-logs-file"),
        (("--parquet-limit-bytes", "5000"), "--parquet-dir"),
        (("--parquet-hours", "5"), "--parquet-dir"),
        (("--enable-autonomous-system-ip",), "--geoip-path"),
    ],
)
def test_options_that_do_nothing_without_others(asked, arguments, without):
    assert asked(*arguments).ignored == (f"{arguments[0]} (without {without})",)


@pytest.mark.parametrize("show", [[], ["--print-config"]])
@pytest.mark.parametrize("host", ["http://there:4317", "there:4317", "there/", "the re"])
def test_receiver_that_is_no_host(asked, host, show):
    output = asked(*show, "--enable-otlp-grpc-metrics", "--otlp-grpc-metrics-host", host, exit_code=2)
    assert f"Invalid value for '--otlp-grpc-metrics-host': '{host}' is no name or address" in output


@pytest.mark.parametrize("show", [[], ["--print-config"]])
def test_mistyped_variable(asked, show):
    output = asked(*show, EBPF_NET_REDUCER_ENABLE_IDID="true", exit_code=1)
    assert "is EBPF_NET_REDUCER_ENABLE_ID_ID meant?" in output


async def _start_and_end(settings):
    reducer = Reducer(settings)
    try:
        await reducer.start()
    finally:
        await reducer.close()


def test_ignored_options_are_logged_once(caplog):

    caplog.set_level(logging.WARNING)
    settings = Settings(
        port=0,
        prometheus=None,
        internal_prometheus="127.0.0.1:0",
        ignored=("--num-ingest-shards", "--log-whitelist-all"),
    )
    asyncio.run(_start_and_end(settings))
    assert [record.message for record in caplog.records] == [
        "these options do nothing here: --num-ingest-shards, --log-whitelist-all; docs/reducer.md says why"
    ]


def test_documentation_has_the_table():
    text = DOCUMENT.read_text()
    assert OPTIONS.documentation(ignored=False) in text
    assert OPTIONS.documentation(ignored=True) in text


@pytest.mark.parametrize(
    ("asked_for", "levels"),
    [
        ({}, ("az_az",)),
        ({"enable_az_id": True}, ("az_az", "az_id", "id_az")),
        ({"enable_id_id": True}, ("az_az", "id_id")),
        ({"enable_az_id": True, "enable_id_id": True}, ("az_az", "az_id", "id_az", "id_id")),
    ],
)
def test_levels(asked_for, levels):
    assert Settings(**asked_for).levels == levels


def test_a_database_that_is_not_there_is_one_clear_error(tmp_path):
    with pytest.raises(StartupError, match="GEOIP_PATH"):
        Reducer(Settings(geoip_path=tmp_path / "asn.mmdb"))


def test_naming_is_as_asked_for(monkeypatch):
    """What the settings say reaches the pipeline."""
    made = {}
    monkeypatch.setattr(service, "Pipeline", lambda *arguments, **options: made.update(options, levels=arguments[3]))
    monkeypatch.setattr(service, "AutonomousSystems", lambda path: path)
    asked_for = {"enable_aws_enrichment": True, "enable_autonomous_system_ip": True, "disable_node_ip_field": True}

    async def make(settings):
        Reducer(settings)

    asyncio.run(make(Settings(**asked_for, geoip_path=Path("/asn"), enable_az_id=True)))
    named = (made["use_interfaces"], made["system_ip"], made["node_ip"], made["systems"], made["levels"])
    assert named == (True, True, False, Path("/asn"), ("az_az", "az_id", "id_az"))
    asyncio.run(make(Settings()))
    assert (made["use_interfaces"], made["system_ip"], made["node_ip"], made["systems"]) == (False, False, True, None)
