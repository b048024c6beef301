"""An OpenTelemetry Collector, built from source once: Debian has none."""

from __future__ import annotations

import shutil
import subprocess
from typing import TYPE_CHECKING

from tests.lab.go import build, require_go
from tests.packages import CACHE, once

if TYPE_CHECKING:
    from pathlib import Path

VERSION = "0.155.0"
CORE = "go.opentelemetry.io/collector"
CONTRIB = "github.com/open-telemetry/opentelemetry-collector-contrib"
WHAT = "an OpenTelemetry Collector"

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
    once(program, lambda: _build(directory, program))
    return str(program)


def _build(directory: Path, program: Path) -> None:
    require_go(WHAT)
    (directory / "builder.yaml").write_text(BUILDER)
    build(WHAT, ["go", "install", f"{CORE}/cmd/builder@v{VERSION}"], directory, {"GOBIN": str(directory)})
    # Its last step fails where modules that only others' tests need cannot be fetched: what it generated is enough.
    subprocess.run(
        ["./builder", "--config", "builder.yaml", "--skip-compilation"],
        cwd=directory,
        check=False,
        capture_output=True,
    )
    build(WHAT, ["go", "build", "-ldflags", "-s -w", "-o", "otelcol.new", "."], directory / "src")
    (directory / "src" / "otelcol.new").rename(program)
    shutil.rmtree(directory / "src")
