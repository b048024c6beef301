"""The reducer as its users start it: what it says of what it cannot do, and what it reads of its environment."""

from __future__ import annotations

import asyncio
import os
import re
import socket
import subprocess
import time
import urllib.error
import urllib.request
from typing import TYPE_CHECKING

import netaddr
import pytest
from ebpf_net.v1 import intake_pb2
from mmdb_writer import MMDBWriter

from tests.intake_ends import collector
from tests.lab.daemons import script
from tests.lab.disk import fill
from tests.lab.waiting import wait_until
from tests.otlp_sink import OtlpSink
from tests.ports import free_ports
from tests.rows import tcp_rows

if TYPE_CHECKING:
    from pathlib import Path

    from tests.lab.programs import Program, Programs

ROW = {
    "socket": 1,
    "local_address": "10.0.0.1",
    "remote_address": "8.8.8.8",
    "local_port": 40000,
    "remote_port": 443,
    "role": intake_pb2.ROLE_CONNECTOR,
    "bytes_sent": 1000,
    "opened": 1,
}


class Ports:
    """A reducer's ports on the machine's own loopback."""

    def __init__(self) -> None:
        self.intake, self.prometheus, self.internal = free_ports(3)

    @property
    def options(self) -> tuple[str, ...]:
        addresses = ("--prom", f"127.0.0.1:{self.prometheus}", "--internal-prom", f"127.0.0.1:{self.internal}")
        return ("--port", f"{self.intake}", *addresses, "--window", "1", "--poll-interval", "0.5", "--no-log-file")


def get(port: int, path: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=10) as response:
            return response.status, response.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()
    except OSError:
        return 0, ""


def start(programs: Programs, ports: Ports, *options: str, **env: str) -> Program:
    reducer = programs.start("reducer", script("reducer"), *ports.options, "--log-console", *options, env=env)
    wait_until(lambda: reducer.returncode is not None or get(ports.internal, "/readyz")[0] == 200, 60, "it to be ready")
    assert reducer.returncode is None, reducer.tail()
    return reducer


def tell(ports: Ports, *rows: dict, number: int = 1) -> None:
    """Tell rows as a collector does, and wait until the reducer has them."""

    async def main() -> None:
        async with collector(ports.intake) as client:
            for _ in range(number):
                client.submit(time.time_ns(), intake_pb2.Entities(), {"tcp": tcp_rows(*rows)})
            assert await client.finish(30)

    asyncio.run(main())


def refused(*arguments: str, **env: str) -> str:
    """Return what the reducer says before it ends for one clear reason, of one line."""
    command = (script("reducer"), *arguments)
    done = subprocess.run(command, env=os.environ | env, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 1, done
    assert (done.stdout, done.stderr.count("\n")) == ("", 1), done
    return done.stderr


def test_organisations_of_the_database_at_geoip_path(programs: Programs, tmp_path: Path) -> None:
    writer = MMDBWriter(6, "GeoLite2-ASN", ipv4_compatible=True)
    organisation = {"autonomous_system_number": 15169, "autonomous_system_organization": "GOOGLE"}
    writer.insert_network(netaddr.IPSet(["8.8.8.0/24"]), organisation)
    writer.to_db_file(str(tmp_path / "asn.mmdb"))
    ports = Ports()
    start(programs, ports, GEOIP_PATH=str(tmp_path / "asn.mmdb"))
    tell(ports, ROW)

    def lines() -> list[str]:
        return re.findall("^tcp_bytes_total{.* 1000$", get(ports.prometheus, "/metrics")[1], re.MULTILINE)

    wait_until(lambda: bool(lines()), 60, "the window")
    (line,) = lines()
    assert 'dest_workload_name="(internet)"' in line
    assert 'dest_availability_zone="GOOGLE"' in line


@pytest.mark.parametrize("which", ["intake", "prometheus", "internal"])
def test_a_port_that_is_in_use(which: str) -> None:
    ports = Ports()
    with socket.socket() as listener:
        listener.bind(("0.0.0.0" if which == "intake" else "127.0.0.1", 0))
        listener.listen()
        setattr(ports, which, listener.getsockname()[1])
        said = refused(*ports.options)
    assert "in use" in said
    assert {"intake": "--port", "prometheus": "--prom", "internal": "--internal-prom"}[which] in said


def test_directories_that_cannot_be_written() -> None:
    options = Ports().options
    assert "--data-dir (EBPF_NET_DATA_DIR)" in refused(*options, "--data-dir", "/proc/nowhere")
    assert "--data-dir (EBPF_NET_DATA_DIR)" in refused(*options, EBPF_NET_DATA_DIR="/proc/nowhere")
    assert "--parquet-dir" in refused(*options, "--parquet-dir", "/proc/nowhere")
    assert "--flow-logs-file" in refused(*options, "--flow-logs-file", "/nowhere/flows")
    assert "GEOIP_PATH" in refused(*options, GEOIP_PATH="/nowhere/asn.mmdb")


def test_a_data_directory_that_another_reducer_has(programs: Programs, tmp_path: Path) -> None:
    start(programs, Ports(), "--data-dir", str(tmp_path / "data"))
    assert "in use by another reducer" in refused(*Ports().options, "--data-dir", str(tmp_path / "data"))


def test_keys_that_are_mistyped(tmp_path: Path) -> None:
    path = tmp_path / "reducer.yaml"
    path.write_text("telemetry_prot: 7000\n")
    assert "did you mean 'telemetry_port'?" in refused("--config-file", str(path))
    assert "is EBPF_NET_REDUCER_WINDOW meant?" in refused(*Ports().options, EBPF_NET_REDUCER_WINDWO="5")


def test_a_disk_that_is_full_for_a_while(programs: Programs, disk: Path) -> None:
    """Windows are sealed meanwhile; all of it arrives once there is room, and collectors hear of it only then."""
    ports = Ports()
    with OtlpSink() as sink:
        endpoint = ("--enable-otlp-grpc-metrics", "--otlp-grpc-metrics-host", "127.0.0.1")
        options = ("--data-dir", str(disk / "data"), "--parquet-dir", str(disk / "flows"))
        reducer = start(programs, ports, *endpoint, "--otlp-grpc-metrics-port", f"{sink.grpc_port}", *options)
        ballast = fill(disk)
        tell(ports, ROW, number=3)
        wait_until(lambda: get(ports.internal, "/readyz")[0] == 503, 60, "it to say that it is not ready")
        assert "could not take" in get(ports.internal, "/readyz")[1]
        assert get(ports.internal, "/healthz")[0] == 200
        assert sink.total("tcp.bytes") == 0
        reducer.wait_for("ERROR .*cannot write flows to")
        ballast.unlink()
        wait_until(lambda: get(ports.internal, "/readyz")[0] == 200, 60, "it to be ready again")
        sink.wait(lambda sink: sink.total("tcp.bytes", aggregation="az_az") == 3000, 30)
        assert reducer.stop() == 0
    assert len(re.findall("ERROR .*cannot use the data directory", reducer.output())) == 1
    assert len(re.findall("ERROR .*cannot write flows to", reducer.output())) == 1
    assert "Traceback" not in reducer.output()


def test_questions_that_cannot_be_answered(tmp_path: Path) -> None:
    def ask(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = (script("ebpf-net"), "query", *arguments)
        return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)

    nowhere = ask("select 1", "--parquet-dir", str(tmp_path / "nowhere"))
    assert (nowhere.returncode, nowhere.stderr.count("\n")) == (1, 1)
    assert "there is no directory" in nowhere.stderr
    (tmp_path / "flows").mkdir()
    assert "there are no flows in" in ask("select 1", "--parquet-dir", str(tmp_path / "flows")).stderr
