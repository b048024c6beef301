"""The images of the README: built by build.sh, run as it says."""

from __future__ import annotations

import re
import subprocess
import urllib.request
from typing import TYPE_CHECKING

import pytest

from tests.docker_engine import require_docker
from tests.lab.network import run
from tests.lab.waiting import wait_until
from tests.packages import ROOT
from tests.ports import free_ports

if TYPE_CHECKING:
    from collections.abc import Iterator

CAPABILITIES = [f"--cap-add={name}" for name in ("BPF", "PERFMON", "NET_ADMIN", "SYS_PTRACE", "SYS_ADMIN")]


@pytest.fixture(scope="module", autouse=True)
def images() -> None:
    """Build them; skipped where no Docker engine answers."""
    require_docker()
    run("./build.sh", "docker", "--network", "host", cwd=ROOT)


@pytest.fixture
def containers() -> Iterator[list[str]]:
    """Ids of containers that are removed in the end."""
    started: list[str] = []
    yield started
    for container in started:
        print(run("docker", "logs", container))  # noqa: T201
        run("docker", "rm", "--force", container)


@pytest.mark.timeout(600)
def test_both_images_run_as_the_readme_says(containers: list[str]) -> None:
    intake, prometheus, internal = free_ports(3)
    containers.append(
        run(
            *("docker", "run", "--detach", "--network", "host", "reducer", "--port", f"{intake}", "--window", "1"),
            *("--prom", f"127.0.0.1:{prometheus}", "--internal-prom", f"127.0.0.1:{internal}", "--keep-loopback"),
            *("--log-console", "--no-log-file"),
        ).strip()
    )
    address = ("--env", "EBPF_NET_INTAKE_HOST=127.0.0.1", "--env", f"EBPF_NET_INTAKE_PORT={intake}")
    shared = ("--cap-drop", "ALL", *CAPABILITIES, "--pid", "host", "--network", "host", "--cgroupns", "host")
    command = ("docker", "run", "--detach", *shared, *address, "kernel-collector", "--log-console")
    containers.append(run(*command).strip())

    def shows_the_collectors_own_flow() -> bool:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{prometheus}/metrics") as response:
                page = response.read().decode()
        except OSError:
            return False
        return bool(re.search(r'tcp_bytes_total{.*"kernel-collecto', page))

    wait_until(shows_the_collectors_own_flow, 30, "a flow of the collector at the reducer")
    for container in reversed(containers):
        run("docker", "stop", container)
        assert run("docker", "inspect", "--format", "{{.State.ExitCode}}", container).strip() == "0"


def test_the_collector_of_kubernetes_needs_no_root() -> None:
    assert run("docker", "run", "--rm", "--read-only", "k8s-collector", "--version")
    done = subprocess.run(
        ["docker", "run", "--rm", "k8s-collector", "--once"], check=False, capture_output=True, text=True
    )
    assert done.returncode == 1
    assert "no credentials for a cluster" in done.stderr


def test_the_collector_of_clouds_needs_no_root() -> None:
    done = subprocess.run(
        ["docker", "run", "--rm", "--network", "none", "cloud-collector", "--provider", "aws", "--once"],
        check=False,
        capture_output=True,
        text=True,
    )
    assert "there are no credentials for AWS" in done.stderr


@pytest.mark.parametrize(
    "cgroups",
    [("--cgroupns", "host"), ("--cgroupns", "private", "--volume", "/sys/fs/cgroup:/sys/fs/cgroup:ro")],
    ids=["namespace of the host", "own namespace, and the host's cgroups"],
)
def test_the_collector_of_machines_sees_all_packets(cgroups: tuple[str, ...]) -> None:
    shared = ("--cap-drop", "ALL", *CAPABILITIES, "--pid", "host", "--network", "host")
    table = run("docker", "run", "--rm", *shared, *cgroups, "kernel-collector", "preflight")
    for name in ("UDP", "HTTP", "DNS", "cgroup v2"):
        assert re.search(rf"^yes +{name}  ", table, re.MULTILINE), table


def test_the_images_hold_no_compiler() -> None:
    for image in ("kernel-collector", "k8s-collector", "cloud-collector", "reducer"):
        found = run("docker", "run", "--rm", "--entrypoint", "sh", image, "-c", "command -v clang gcc cc pip; true")
        assert not found
