"""Helm, where it is not installed built from source once, and the chart."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from typing import TYPE_CHECKING, Any

import yaml

from tests.lab.go import build, require_go
from tests.packages import CACHE, ROOT, once

if TYPE_CHECKING:
    from pathlib import Path

    from tests.lab.kubernetes import Object

CHART = ROOT / "deploy" / "helm" / "ebpf-net"
_VERSION = re.compile(r"^helm_version=(\S+)$", re.MULTILINE)


def helm(*arguments: str, values: dict[str, Any] | None = None, env: dict[str, str] | None = None) -> str:
    """Return what helm writes, given *values* besides those of the chart.

    Raises:
        subprocess.CalledProcessError: it refuses; `stderr` says why.

    """
    command = [_program(), *arguments, *(("--values", "-") if values else ())]
    done = subprocess.run(
        command, input=json.dumps(values), env=env, check=False, capture_output=True, text=True, timeout=240
    )
    if done.returncode:
        print(done.stdout, done.stderr)  # noqa: T201
        done.check_returncode()
    return done.stdout


def rendered(values: dict[str, Any], release: str = "ebpf-net") -> list[Object]:
    """Return the objects that the chart gives."""
    text = helm("template", release, str(CHART), "--namespace", "ebpf-net", values=values)
    return [each for each in yaml.safe_load_all(text) if each]


def _program() -> str:
    if installed := shutil.which("helm"):
        return installed
    found = _VERSION.search((ROOT / "build.sh").read_text())
    assert found
    program = CACHE / f"helm-{found[1]}" / "helm"
    once(program, lambda: _build(found[1], program))
    return str(program)


def _build(version: str, program: Path) -> None:
    require_go("helm")
    build(
        "helm",
        ["go", "install", f"helm.sh/helm/v3/cmd/helm@v{version}"],
        program.parent,
        {"GOBIN": str(program.parent)},
    )
