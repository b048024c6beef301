"""The images of the README: built by build.sh, run as it says."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import time
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
    from pathlib import Path

IMAGES = ("kernel-collector", "k8s-collector", "cloud-collector", "reducer")
CAPABILITIES = [
    f"--cap-add={name}" for name in ("BPF", "PERFMON", "NET_ADMIN", "NET_BROADCAST", "SYS_PTRACE", "SYS_ADMIN")
]
# The first of the tests waits for the images: some 200 MB of packages are fetched where nothing is built yet.
pytestmark = pytest.mark.timeout(1800)


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


def test_both_images_run_as_the_readme_says(containers: list[str]) -> None:
    intake, prometheus, internal = free_ports(3)
    containers.append(
        run(
            *("docker", "run", "--detach", "--network", "host", "reducer", "--port", f"{intake}", "--window", "1"),
            *("--prom", f"127.0.0.1:{prometheus}", "--internal-prom", f"127.0.0.1:{internal}", "--keep-loopback"),
        ).strip()
    )
    address = ("--env", "EBPF_NET_INTAKE_HOST=127.0.0.1", "--env", f"EBPF_NET_INTAKE_PORT={intake}")
    shared = ("--cap-drop", "ALL", *CAPABILITIES, "--pid", "host", "--network", "host", "--cgroupns", "host")
    containers.append(run("docker", "run", "--detach", *shared, *address, "kernel-collector").strip())

    def shows_the_collectors_own_flow() -> bool:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{prometheus}/metrics") as response:
                page = response.read().decode()
        except OSError:
            return False
        return bool(re.search(r'tcp_bytes_total{.*"kernel-collecto', page))

    wait_until(shows_the_collectors_own_flow, 60, "a flow of the collector at the reducer")
    for container, word in zip(reversed(containers), ("connected to the reducer", "listening for"), strict=True):
        run("docker", "stop", container)
        assert word in run("docker", "logs", container)
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


def test_the_reducer_keeps_its_state_in_a_volume_without_root(containers: list[str]) -> None:
    [intake] = free_ports(1)
    ports = ("--port", f"{intake}", "--prom", "127.0.0.1:0", "--internal-prom", "127.0.0.1:0")
    volume = f"ebpf-net-{os.getpid()}"
    command = ("docker", "run", "--detach", "--read-only", "--network", "host", "--volume", f"{volume}:/data")
    containers.append(run(*command, "reducer", *ports, "--data-dir", "/data").strip())
    try:
        wait_until(lambda: "listening for" in run("docker", "logs", containers[0]), 60, "the reducer")
        assert run("docker", "exec", containers[0], "sh", "-c", "stat --format %u /data/*").split()[0] == "65534"
    finally:
        run("docker", "rm", "--force", containers.pop())
        run("docker", "volume", "rm", volume)


def test_a_change_of_the_code_changes_one_small_layer(tmp_path: Path) -> None:
    def layers(image: str) -> list[str]:
        return run("docker", "inspect", "--format", "{{range .RootFS.Layers}}{{println .}}{{end}}", image).split()

    source = tmp_path / "source"
    shutil.copytree(ROOT, source, symlinks=True, ignore=shutil.ignore_patterns(".*cache", ".git", ".venv"))
    for changed in (source / "daemon" / "version.py", source / "pyproject.toml"):
        with changed.open("a") as file:
            file.write(f"# {time.time_ns()}\n")
    image = f"kernel-collector:{os.getpid()}"
    build = ("docker", "build", "--quiet", "--network", "host", "--tag", image)
    run(*build, "--build-arg", "DAEMON=kernel-collector", "--file", "docker/Dockerfile", ".", cwd=source)
    before, after = layers("kernel-collector"), layers(image)
    run("docker", "rmi", image)
    differing = [number for number, pair in enumerate(zip(before, after, strict=True)) if len(set(pair)) > 1]
    # base, packages of Debian, of Python, our own
    assert differing == [3]


def test_the_images_hold_no_compiler() -> None:
    for image in IMAGES:
        found = run("docker", "run", "--rm", "--entrypoint", "sh", image, "-c", "command -v clang gcc cc pip; true")
        assert not found
