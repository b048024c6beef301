from __future__ import annotations

import logging
import os
import re
from typing import TYPE_CHECKING

import pytest

from daemon.errors import StartupError
from reducer.outputs.otlp_environment import (
    OtlpVariables,
    checked_target,
    checked_url,
    http_endpoint,
    otlp_variables,
    warn_of_other_protocols,
    without_secrets,
)
from reducer.outputs.request import Signal

if TYPE_CHECKING:
    from pathlib import Path


def variables(monkeypatch: pytest.MonkeyPatch, **values: str) -> OtlpVariables:
    for name, value in values.items():
        monkeypatch.setenv(f"OTEL_EXPORTER_OTLP_{name}", value)
    return otlp_variables(Signal.METRICS, "grpc", ("none", "gzip"))


@pytest.fixture(autouse=True)
def _no_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith("OTEL_EXPORTER_OTLP_"):
            monkeypatch.delenv(name)


def test_defaults_are_those_of_the_specification(monkeypatch: pytest.MonkeyPatch) -> None:
    assert variables(monkeypatch) == OtlpVariables({}, 10.0, "none", None, None, None, None)
    assert http_endpoint(Signal.LOGS) == "http://localhost:4318/v1/logs"


def test_a_signals_own_variables_come_before_those_of_all(monkeypatch: pytest.MonkeyPatch) -> None:
    found = variables(
        monkeypatch,
        HEADERS="a=1,b=2",
        METRICS_HEADERS="a=3",
        TIMEOUT="5000",
        METRICS_TIMEOUT="7000",
        COMPRESSION="none",
        METRICS_COMPRESSION="GZIP",
        INSECURE="true",
        METRICS_INSECURE="False",
    )
    assert found == OtlpVariables({"a": "3"}, 7.0, "gzip", False, None, None, None)  # noqa: FBT003
    assert otlp_variables(Signal.LOGS, "grpc", ("none", "gzip")).headers == {"a": "1", "b": "2"}


def test_what_is_empty_counts_as_not_set(monkeypatch: pytest.MonkeyPatch) -> None:
    names = ("HEADERS", "TIMEOUT", "COMPRESSION", "INSECURE", "CERTIFICATE", "CLIENT_KEY", "CLIENT_CERTIFICATE")
    found = variables(monkeypatch, **{f"METRICS_{name}": "" for name in names}, TIMEOUT=" ", HEADERS="a=1", ENDPOINT="")
    assert found == OtlpVariables({"a": "1"}, 10.0, "none", None, None, None, None)
    assert http_endpoint(Signal.METRICS) == "http://localhost:4318/v1/metrics"


@pytest.mark.parametrize(
    ("text", "headers"),
    [
        ("api-key=sec%20ret, X-Two = b=c ,", {"api-key": "sec ret", "x-two": "b=c"}),
        ("Authorization=Basic dXNlcjpwdw==", {"authorization": "Basic dXNlcjpwdw=="}),
        ("Authorization=Bearer%20a%2Cb", {"authorization": "Bearer a,b"}),
        ("empty=", {"empty": ""}),
    ],
)
def test_headers(text: str, headers: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    assert variables(monkeypatch, HEADERS=text).headers == headers


@pytest.mark.parametrize("entry", ["s3cret", "=s3cret", "a b=s3cret", "a=s3cret%0aX: y", "a=s3crét", ":path=s3cret"])
def test_what_is_no_header_is_an_error_that_does_not_show_it(
    entry: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(StartupError, match=r"OTEL_EXPORTER_OTLP_HEADERS must be NAME=VALUE.*number 2 is not") as error:
        variables(monkeypatch, HEADERS=f"ok=1,{entry}")
    assert "s3cr" not in str(error.value) + caplog.text


@pytest.mark.parametrize("entry", ["trace-bin=s3cret", "x!y=s3cret", "name=s3%09cret"])
def test_headers_that_grpc_has_not(entry: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(StartupError, match=r"OTEL_EXPORTER_OTLP_HEADERS: number 2 is no header of gRPC") as error:
        variables(monkeypatch, HEADERS=f"ok_1.a-b=1,{entry}")
    assert "s3" not in str(error.value)
    assert len(otlp_variables(Signal.METRICS, "http/protobuf", ("none", "gzip")).headers) == 2


@pytest.mark.parametrize(("text", "seconds"), [("10000", 10), ("500", 0.5), ("100", 0.1), ("15", 15), ("0.5", 0.5)])
def test_times_are_milliseconds_unless_they_cannot_be(
    text: str, seconds: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert variables(monkeypatch, TIMEOUT=text).timeout_s == seconds


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("TIMEOUT", value) for value in ("abc", "0", "-1", "inf", "nan")),
        *(("COMPRESSION", "lzma"), ("METRICS_COMPRESSION", "deflate"), ("INSECURE", "maybe")),
    ],
)
def test_values_that_cannot_be_used(name: str, value: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(StartupError, match=f"OTEL_EXPORTER_OTLP_{name} is '{value}'"):
        variables(monkeypatch, **{name: value})


def test_a_key_without_its_certificate(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "key.pem").write_text("key")
    with pytest.raises(StartupError, match="CLIENT_KEY names a key, but OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE no cer"):
        variables(monkeypatch, CLIENT_KEY=str(tmp_path / "key.pem"))


def test_another_protocol_is_warned_of(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_PROTOCOL", "http/json")
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_METRICS_PROTOCOL", "grpc")
    warn_of_other_protocols([Signal.METRICS], "grpc")
    assert not caplog.text
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_METRICS_PROTOCOL", " ")  # as if it were not set
    for signals in ([Signal.METRICS], [Signal.METRICS, Signal.LOGS]):
        caplog.clear()
        warn_of_other_protocols(signals, "grpc")
        assert [record.message for record in caplog.records] == [
            "OTEL_EXPORTER_OTLP_PROTOCOL is 'http/json', which does nothing here: the options ask for grpc"
        ]


@pytest.mark.parametrize(
    ("values", "endpoint"),
    [
        ({"ENDPOINT": "http://a:1/otlp/"}, "http://a:1/otlp/v1/metrics"),
        ({"ENDPOINT": "http://a:1", "METRICS_ENDPOINT": "https://b/x?key=y"}, "https://b/x?key=y"),
    ],
)
def test_endpoints(values: dict[str, str], endpoint: str, monkeypatch: pytest.MonkeyPatch) -> None:
    variables(monkeypatch, **values)
    assert http_endpoint(Signal.METRICS) == endpoint


@pytest.mark.parametrize(
    "url",
    [
        *("host:4318", "http://", "ftp://host", "http://[::1", "http://host:99999", "http://:1"),
        *("http://a b:4318", "http://a..b:4318", "http://a\nb:4318", "http://.a:4318", "http://[a:b]:1"),
    ],
)
def test_endpoints_that_are_none(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(StartupError, match="must be http://HOST:PORT"):
        checked_url(url)
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_ENDPOINT", url)
    with pytest.raises(StartupError, match="must be http://HOST:PORT"):
        http_endpoint(Signal.METRICS)


@pytest.mark.parametrize("url", ["http://a:1", "http://a_b.c.:1", "http://10.0.0.1", "https://[::1]:1/x y"])
def test_blanks_around_an_endpoint_are_no_part_of_it(url: str) -> None:
    assert checked_url(f" {url}\n") == checked_target(f"{url}\n") == url


@pytest.mark.parametrize("target", ["a..b:4317", "a:99999", "a:0"])
def test_targets_that_are_none(target: str) -> None:
    with pytest.raises(StartupError, match="must be http://HOST:PORT"):
        checked_target(target)
    assert checked_target("a.b:4317\n") == "a.b:4317"


def test_grpc_has_no_user() -> None:
    with pytest.raises(StartupError, match=r"'https://host:1/' has a user .* OTEL_EXPORTER_OTLP_HEADERS") as error:
        checked_target("https://me:s3cret@host:1/")
    assert "s3cret" not in str(error.value)


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("https:/me:s3cret@host", "https:/…@host"),
        ("http://me:s3cret@host:99999/v1", "http://…@host:99999/v1"),
        ("me:s3cret@host:4317", "…@host:4317"),
        ("http://me:s3cret/@host:1", "http://…@host:1"),
        ("http://me:s3?cret@host", "http://…"),
        ("http:/host?key=s3cret", "http:/host"),
        ("http:/host?key=s3@cret", "http:/…"),
    ],
)
def test_what_is_no_endpoint_is_shown_without_its_secrets(url: str, shown: str) -> None:
    for check in (checked_url, checked_target):
        with pytest.raises(StartupError, match=re.escape(f"the OTLP endpoint {shown!r} must be")):
            check(url)


def test_an_endpoint_is_shown_without_its_secrets() -> None:
    assert without_secrets("https://me:s3cret@host:1/v1?key=s3cret#s3cret") == "https://host:1/v1"
    assert without_secrets("https://me:s3cret@host:1/v1/metrics?key=s3cret") == "https://host:1/v1/metrics"
