"""A real Docker engine: its containers are named as it names them, those that are gone at once as well."""

from __future__ import annotations

import io
import os
import re
import subprocess
import tarfile
import urllib.request
from typing import TYPE_CHECKING

import pytest

from tests.docker_engine import require_docker
from tests.lab.daemons import script
from tests.lab.network import run
from tests.lab.traffic import DISCARDING_SERVER
from tests.lab.waiting import wait_until
from tests.ports import free_ports

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.lab.programs import Programs

SHORT_LIVED = 20
IMAGE = f"ebpfnet-{os.getpid()}:1.2"
SIZE = 123_456
SENT = re.compile(
    'tcp_bytes_total{source_container_name="([^"]*)",source_image_version="([^"]*)"'
    '.*source_workload_name="([^"]*)".* (.*)'
)


@pytest.fixture
def image() -> Iterator[str]:
    """An image without files of its own: what runs in it is mounted from the machine."""
    require_docker()
    if not os.path.islink("/lib"):  # noqa: PTH114
        pytest.skip("the machine's /lib is not in its /usr")
    files = io.BytesIO()
    with tarfile.open(fileobj=files, mode="w") as archive:
        for name in ("bin", "lib", "lib64"):
            link = tarfile.TarInfo(name)
            link.type, link.linkname = tarfile.SYMTYPE, f"usr/{name}"
            archive.addfile(link)
    subprocess.run(["docker", "import", "-", IMAGE], input=files.getvalue(), check=True, capture_output=True)
    yield IMAGE
    run("docker", "rmi", "--force", IMAGE)


def test_containers_of_the_engine_are_named(image: str, programs: Programs, tmp_path: Path) -> None:
    socket_of_engine = run("docker", "context", "inspect", "--format", "{{.Endpoints.docker.Host}}").strip()
    socket_of_engine = os.environ.get("DOCKER_HOST", socket_of_engine).removeprefix("unix://")
    (tmp_path / "host" / "run").mkdir(parents=True)
    (tmp_path / "host" / "run" / "docker.sock").symlink_to(socket_of_engine)
    logs = ("--log-console", "--no-log-file")
    intake, prometheus, internal, port = free_ports(4)
    ports = ("--port", f"{intake}", "--prom", f"127.0.0.1:{prometheus}", "--internal-prom", f"127.0.0.1:{internal}")
    intervals = ("--window", "1", "--poll-interval", "0.5")
    programs.start("reducer", script("reducer"), *ports, *intervals, "--keep-loopback", *logs).wait_for("listening for")
    to_reducer = {"EBPF_NET_INTAKE_HOST": "127.0.0.1", "EBPF_NET_INTAKE_PORT": f"{intake}"}
    host = ("--host-dir", str(tmp_path / "host"))
    collector = programs.start("collector", script("kernel-collector"), *host, *logs, env=to_reducer)
    collector.wait_for("connected to the reducer")
    programs.start("server", "python3", "-c", DISCARDING_SERVER, f"{port}").wait_for("listening")

    # Docker knows nothing more of a container that ended at once when it is asked, least of all of several.
    lifetimes = {"half-a-second": 0.5} | {f"at-once-{number}": 0 for number in range(SHORT_LIVED)}
    wanted = {f"ebpfnet-{os.getpid()}-{what}": [f"{SIZE}"] for what in lifetimes}
    found: dict[str, list[str]] = {}
    running = []
    for name, lifetime_s in zip(wanted, lifetimes.values(), strict=True):
        send = f"head -c {SIZE} /dev/zero > /dev/tcp/127.0.0.1/{port}; sleep {lifetime_s}"
        command = ("docker", "run", "--rm", "--name", name, "--volume", "/usr:/usr:ro", "--network", "host", image)
        running.append(subprocess.Popen([*command, "/usr/bin/bash", "-c", send]))

    def all_are_found() -> bool:
        """Note the bytes by container: its series is shown for some windows only."""
        with urllib.request.urlopen(f"http://127.0.0.1:{prometheus}/metrics", timeout=5) as response:
            page = response.read().decode()
        shown: dict[str, list[str]] = {}
        for name, version, workload, value in SENT.findall(page):
            if (version, workload) == ("1.2", name):
                shown.setdefault(name, []).append(value)
        found.update(shown)
        return wanted.items() <= found.items()

    wait_until(all_are_found, 60, f"{SIZE} bytes of each container")
    assert [container.wait(10) for container in running] == [0] * len(running)
