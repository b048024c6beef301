"""An OpenTelemetry Collector, built from source once: Debian has none."""

from __future__ import annotations

import os
import shutil
import subprocess

import pytest

from tests.packages import CACHE

VERSION = "0.155.0"
CORE = "go.opentelemetry.io/collector"
CONTRIB = "github.com/open-telemetry/opentelemetry-collector-contrib"
LEAST_GO = (1, 25)

BUILDER = f"""
dist: {{name: otelcol, output_path: ./src, module: lab/otelcol}}
receivers:
  - gomod: {CORE}/receiver/otlpreceiver v{VERSION}
exporters:
  - gomod: {CORE}/exporter/debugexporter v{VERSION}
  - gomod: {CONTRIB}/exporter/fileexporter v{VERSION}
  - gomod: {CONTRIB}/exporter/prometheusexporter v{VERSION}
"""


def otelcol() -> str:
    """Return the program; the test is skipped where there is no Go to build it with."""
    directory = CACHE / f"otelcol-{VERSION}"
    program = directory / "otelcol"
    if not program.exists():
        _require_go()
        directory.mkdir(parents=True, exist_ok=True)
        (directory / "builder.yaml").write_text(BUILDER)
        go = {"GOBIN": str(directory), "GOFLAGS": "-mod=mod"}
        _run(["go", "install", f"{CORE}/cmd/builder@v{VERSION}"], directory, {"GOBIN": str(directory)})
        # Its last step fails where modules that only others' tests need cannot be fetched: what it generated is enough.
        subprocess.run(
            ["./builder", "--config", "builder.yaml", "--skip-compilation"],
            cwd=directory,
            check=False,
            capture_output=True,
        )
        _run(["go", "build", "-ldflags", "-s -w", "-o", "otelcol.new", "."], directory / "src", go)
        (directory / "src" / "otelcol.new").rename(program)
        shutil.rmtree(directory / "src")
    return str(program)


def _require_go() -> None:
    needed = f"Go {'.'.join(map(str, LEAST_GO))} is needed to build an OpenTelemetry Collector"
    if not shutil.which("go"):
        pytest.skip(f"{needed}, and there is none")
    version = subprocess.run(["go", "env", "GOVERSION"], check=True, capture_output=True, text=True).stdout
    if tuple(map(int, version.strip().removeprefix("go").split(".")[:2])) < LEAST_GO:
        pytest.skip(f"{needed}; this is {version.strip()}")


def _run(command: list[str], directory: os.PathLike[str], env: dict[str, str]) -> None:
    done = subprocess.run(command, cwd=directory, env=os.environ | env, check=False, capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"the OpenTelemetry Collector cannot be built: {done.stderr.strip()[-500:]}")
