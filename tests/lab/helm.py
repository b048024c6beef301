"""Helm, and the chart."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from tests.packages import CACHE, ROOT

if TYPE_CHECKING:
    from tests.lab.kubernetes import Object

CHART = ROOT / "deploy" / "helm" / "ebpf-net"
_VERSION = re.compile(r"^helm_version=(\S+)$", re.MULTILINE)


def helm(*arguments: str, values: dict[str, Any] | None = None) -> str:
    """Return what helm writes, given *values* besides those of the chart.

    Raises:
        subprocess.CalledProcessError: it refuses; `stderr` says why.

    """
    without_server = arguments[0] in ("template", "lint")  # then one that Go has built takes Kubernetes for 1.20
    version = ("--kube-version", "1.30") if without_server else ()
    command = [program(), *arguments, *version, *(("--values", "-") if values else ())]
    done = subprocess.run(command, input=json.dumps(values), check=False, capture_output=True, text=True, timeout=240)
    if done.returncode:
        print(done.stdout, done.stderr)  # noqa: T201
        done.check_returncode()
    return done.stdout


def rendered(values: dict[str, Any], release: str = "ebpf-net", namespace: str = "ebpf-net") -> list[Object]:
    """Return the objects that the chart gives."""
    text = helm("template", release, str(CHART), "--namespace", namespace, values=values)
    return [each for each in yaml.safe_load_all(text) if each]


def program() -> str:
    """Return where Helm is; the test is skipped where it is not."""
    if installed := shutil.which("helm"):
        return installed
    found = _VERSION.search((ROOT / "build.sh").read_text())
    assert found
    built = CACHE / f"helm-{found[1]}" / "helm"
    if not built.exists():  # it takes up to four minutes, which not each run of the tests should
        pytest.skip("helm is needed, on PATH, or in .cache, where ./build.sh manifests builds it")
    return str(built)
