"""The daemons under test on lab hosts, and what they export."""

from __future__ import annotations

import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from tests.lab.network import Network
from tests.lab.programs import Programs
from tests.lab.waiting import wait_until
from tests.otlp_sink import OtlpSink

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from tests.lab.network import Host
    from tests.lab.programs import Program
    from tests.otlp_sink import Point

INTAKE_PORT = 8000
OTLP_PORT = 4317
PROMETHEUS_PORT = 7010
INTERNAL_PORT = 7001
WINDOW_S = 2
POLL_INTERVAL_S = 0.5


def script(name: str) -> str:
    """Return the path of a console script of the environment that the tests run in."""
    return str(Path(sys.executable).with_name(name))


class Lab:
    """Hosts, programs on them, and the daemons: the reducer and the receivers in the centre, collectors on hosts."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.programs = Programs(directory)
        self.network = Network()
        self.sink = OtlpSink(grpc_port=OTLP_PORT)
        self.start_sink()

    @property
    def centre(self) -> Host:
        return self.network.centre

    def host(self, name: str) -> Host:
        """Return a new host."""
        return self.network.host(name)

    def start_sink(self) -> None:
        """Have the OTLP receiver of the tests listen in the centre again after `stop_sink`."""
        with self.centre.entered():
            self.sink.start()

    def stop_sink(self) -> None:
        """Leave senders with a closed port; what came is kept."""
        self.sink.stop()

    def start_reducer(self, *options: str, env: Mapping[str, str] = {}) -> Program:
        """Start the reducer in the centre with series by node and short windows, and wait until it is ready."""
        command = (
            script("reducer"),
            *("--port", f"{INTAKE_PORT}", "--window", f"{WINDOW_S}", "--poll-interval", f"{POLL_INTERVAL_S}"),
            *("--internal-prom", f"127.0.0.1:{INTERNAL_PORT}", "--enable-id-id", "--log-console", "--no-log-file"),
            *options,
        )
        reducer = self.programs.start("reducer", *command, host=self.centre, env=env)
        self.wait_until_ready(reducer)
        return reducer

    def wait_until_ready(self, reducer: Program) -> None:
        """Wait until a reducer in the centre says that it is ready."""
        wait_until(lambda: self._ready(reducer), 60, "the reducer to be ready")

    def start_reducer_with_sink(self, *options: str) -> Program:
        """Start the reducer, sending to the OTLP receiver of the tests."""
        endpoint = ("--otlp-grpc-metrics-host", "127.0.0.1", "--otlp-grpc-metrics-port", f"{OTLP_PORT}")
        return self.start_reducer("--enable-otlp-grpc-metrics", *endpoint, *options)

    def start_collector(
        self,
        on: Host,
        *watched: Host,
        everywhere: bool = False,
        connected: bool = True,
        options: Sequence[str] = (),
        within: Sequence[str] = (),
    ) -> Program:
        """Start a collector on a host that sees the sockets of *watched* hosts, by default of its own.

        Where it is *everywhere* it sees those of this whole machine. *within* is a command that runs it.
        """
        namespaces = [f"--network-namespace={host.namespace}" for host in watched or (on,) if not everywhere]
        collector = self.programs.start(
            f"collector-{on.name}",
            *within,
            *(script("kernel-collector"), "--log-console", "--no-log-file", *namespaces, *options),
            host=on,
            env={
                "EBPF_NET_INTAKE_HOST": self.centre.ipv4,
                "EBPF_NET_INTAKE_PORT": f"{INTAKE_PORT}",
                "EBPF_NET_AGENT_HOST": on.name,
            },
        )
        collector.wait_for("watching .* sockets")
        if connected:
            collector.wait_for("connected to the reducer")
        return collector

    def finish(self, reducer: Program, *collectors: Program) -> None:
        """End the daemons in good order: after it everything they knew has been exported."""
        for daemon in (*collectors, reducer):
            assert daemon.stop(signal.SIGTERM) == 0, daemon.tail()

    def close(self) -> None:
        """End everything."""
        self.stop_sink()
        self.programs.close()
        self.network.close()

    def _ready(self, reducer: Program) -> bool:
        assert reducer.returncode is None, f"the reducer ended with {reducer.returncode}:\n{reducer.tail()}"
        try:
            self.centre.get(f"http://127.0.0.1:{INTERNAL_PORT}/readyz")
        except OSError:
            return False
        return True


class Exported:
    """The points that a receiver was sent; one that came twice counts once, and must have come the same."""

    def __init__(self, points: list[Point]) -> None:
        self._points: dict[tuple[object, ...], Point] = {}
        for point in points:
            key = (point.metric, point.start_ns, point.time_ns, *sorted(point.attributes.items()))
            known = self._points.setdefault(key, point)
            assert known.value == point.value, f"sent again with another value: {known} and {point}"

    def points(self, metric: str, aggregation: str = "id_id", **attributes: str) -> list[Point]:
        """Return the points of a metric with these attributes; `source__process__name` is `source.process.name`."""
        wanted = {name.replace("__", "."): value for name, value in attributes.items()} | {"aggregation": aggregation}
        return [p for p in self._points.values() if p.metric == metric and wanted.items() <= p.attributes.items()]

    def total(self, metric: str, aggregation: str = "id_id", **attributes: str) -> float:
        """Return the sum of the values of `points`."""
        return sum(point.value for point in self.points(metric, aggregation, **attributes))
