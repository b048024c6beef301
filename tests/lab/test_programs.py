"""The daemons as programs: what they say when they cannot run, and how they end."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import time
from typing import TYPE_CHECKING

import pytest

from tests.lab.daemons import INTAKE_PORT, INTERNAL_PORT, PROMETHEUS_PORT, script
from tests.lab.network import wait_for_listener
from tests.lab.traffic import IPERF_PORT
from tests.lab.transfer import Transfer

if TYPE_CHECKING:
    from pathlib import Path

    from tests.lab.daemons import Lab
    from tests.lab.network import Host

DAEMONS = ("reducer", "kernel-collector")


def result(*command: str, on: Host, timeout_s: float = 30, **env: str) -> tuple[int, str]:
    """Run a program that ends by itself; return its exit status and what it wrote on standard error."""
    with on.entered():
        done = subprocess.run(
            command, check=False, capture_output=True, text=True, timeout=timeout_s, env=os.environ | env
        )
    return done.returncode, done.stderr


@pytest.mark.parametrize("daemon", DAEMONS)
def test_an_unknown_option_is_named_with_the_one_that_was_meant(lab: Lab, daemon: str) -> None:
    status, message = result(script(daemon), "--log-consol", on=lab.centre)
    assert status == 2
    assert "No such option" in message
    assert "--log-console" in message


@pytest.mark.parametrize("daemon", DAEMONS)
def test_a_log_file_that_cannot_be_written(lab: Lab, daemon: str, tmp_path: Path) -> None:
    target = tmp_path / "absent" / "ebpf_net.log"
    status, message = result(script(daemon), on=lab.centre, EBPF_NET_LOG_FILE_PATH=str(target))
    assert status == 1
    assert message.startswith(f"error: cannot write the log file {target}: ")
    assert message.count("\n") == 1


@pytest.mark.parametrize(
    ("port", "option"), [(INTAKE_PORT, "--port"), (PROMETHEUS_PORT, "--prom"), (INTERNAL_PORT, "--internal-prom")]
)
def test_a_port_in_use(lab: Lab, port: int, option: str) -> None:
    with lab.centre.entered():
        other = socket.create_server(("0.0.0.0", port))
    with other:
        status, message = result(script("reducer"), "--no-log-file", on=lab.centre)
    assert status == 1
    assert message.startswith("error: ")
    assert message.count("\n") == 1
    assert str(port) in message
    assert option in message


def test_a_data_directory_that_another_reducer_has(lab: Lab, tmp_path: Path) -> None:
    lab.start_reducer("--data-dir", str(tmp_path))
    others = ("--port", "8001", "--prom", "127.0.0.1:7011", "--internal-prom", "127.0.0.1:7002")
    status, message = result(script("reducer"), "--no-log-file", "--data-dir", str(tmp_path), *others, on=lab.centre)
    assert status == 1
    assert message.startswith("error: ")
    assert str(tmp_path) in message


@pytest.mark.parametrize("capability", ["bpf", "perfmon"])
def test_a_missing_capability_is_named(lab: Lab, capability: str) -> None:
    without = ("setpriv", f"--bounding-set=-{capability},-sys_admin", f"--inh-caps=-{capability},-sys_admin")
    status, message = result(*without, "--", script("kernel-collector"), "--no-log-file", on=lab.centre)
    assert status == 1
    assert message.startswith("error: ")
    assert f"CAP_{capability.upper()}" in message


def test_without_root(lab: Lab) -> None:
    nobody = ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "--bounding-set=-all", "--inh-caps=-all")
    status, message = result(*nobody, "--", script("kernel-collector"), "--no-log-file", on=lab.centre)
    assert status == 1
    assert message.startswith("error: ")
    assert "root" in message


@pytest.mark.parametrize("with_signal", [signal.SIGINT, signal.SIGTERM], ids=lambda s: s.name)
def test_daemons_end_well_and_at_once_when_told_to(lab: Lab, with_signal: signal.Signals) -> None:
    reducer = lab.start_reducer()
    collector = lab.start_collector(lab.host("node"))
    for daemon in (collector, reducer):
        begin = time.monotonic()
        assert daemon.stop(with_signal) == 0, daemon.tail()
        assert time.monotonic() - begin < 5
        assert "Traceback" not in daemon.output()


def test_a_collector_waits_for_a_reducer_that_is_not_there_and_loses_nothing(lab: Lab) -> None:
    transfer = Transfer(lab)
    transfer.collectors = [lab.start_collector(host, connected=False) for host in (transfer.client, transfer.server)]
    for collector in transfer.collectors:
        complaint = collector.wait_for(rf".*{re.escape(lab.centre.ipv4)}:{INTAKE_PORT}.*")
        assert "WARNING" in complaint[0]
    size = 50 << 20
    transfer.begin(size, "100M")
    time.sleep(6)
    for collector in transfer.collectors:
        assert collector.output().count("WARNING") == 1, "one line, not one each retry"
    transfer.reducer = lab.start_reducer_with_sink()
    for collector in transfer.collectors:
        collector.wait_for("connected to the reducer", timeout_s=60)
    transfer.check(transfer.finish(), named=False)


def test_ebpf_net_run_shows_loopback_flows_within_5_s_and_ends_with_ctrl_c(lab: Lab) -> None:
    host = lab.host("node")
    lab.programs.start("iperf3-server", "iperf3", "--server", host=host)
    wait_for_listener(host, IPERF_PORT)
    traffic = ("--client", "127.0.0.1", "--time", "60", "--bitrate", "10M")
    lab.programs.start("iperf3-client", "iperf3", *traffic, host=host)
    begin = time.monotonic()
    console = lab.programs.start("ebpf-net", script("ebpf-net"), "run", host=host)
    line = console.wait_for(r".*iperf3.*iperf3.*", timeout_s=5)
    assert time.monotonic() - begin < 5
    assert re.search(r"bytes/s \d.*rtt \d.* ms, retransmits \d+, connections \d", line[0])
    assert f"http://127.0.0.1:{PROMETHEUS_PORT}/metrics" in console.output()
    assert "OTLP" in console.output()
    host.get(f"http://127.0.0.1:{PROMETHEUS_PORT}/metrics")
    assert console.stop(signal.SIGINT, timeout_s=10) == 0
    assert "Traceback" not in console.output()


def test_ebpf_net_run_where_the_port_is_in_use(lab: Lab) -> None:
    host = lab.host("node")
    with host.entered():
        other = socket.create_server(("0.0.0.0", INTAKE_PORT))
    with other:
        status, message = result(script("ebpf-net"), "run", on=host)
    assert status == 1
    assert message.startswith("error: ")
    assert str(INTAKE_PORT) in message
