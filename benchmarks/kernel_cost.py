"""What the collector costs the node's other programs.

- ns a run of each BPF program, a connection's whole life, and an HTTP request, by kernel.bpf_stats_enabled;
- iperf3, and wrk against nginx with and without keep-alive, between two network namespaces, in pairs of rounds with the
  collector on and off, in turn. The collector sees both ends of each connection. It talks to a sink that only
  acknowledges, so that no reducer takes part of the two cores.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import re
import socket
import statistics
import tempfile
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks.conditions import conditions, usage
from benchmarks.rig import start_collector, start_intake_sink
from kernel_collector.bpf_object import ProgramCost
from kernel_collector.http import HttpProbe
from kernel_collector.packets import Packets
from kernel_collector.tcp import TcpProbe
from kernel_collector.udp import UdpProbe
from tests.lab.daemons import Lab
from tests.lab.network import wait_for_listener
from tests.lab.traffic import HTTP_PORT, IPERF_PORT, Nginx

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from tests.lab.network import Host

BPF_STATISTICS = Path("/proc/sys/kernel/bpf_stats_enabled")
Figures = dict[str, float]


@contextlib.contextmanager
def bpf_statistics() -> Iterator[None]:
    """Have the kernel time every BPF program."""
    before = BPF_STATISTICS.read_text()
    BPF_STATISTICS.write_text("1")
    try:
        yield
    finally:
        BPF_STATISTICS.write_text(before)


def cost_of_hooks(connections: int) -> None:
    """Print what each TCP program costs, driven by connections over loopback."""
    print(f"\n## Hooks: {connections} connections over loopback, then one poll")
    with bpf_statistics(), TcpProbe() as probe, socket.create_server(("127.0.0.1", 0), backlog=1024) as listener:
        for _ in range(connections):
            with socket.create_connection(listener.getsockname()), listener.accept()[0]:
                pass
            probe.drain()
        life_ns = sum(cost.run_time_ns for cost in probe.cost().values())
        probe.poll()
        print_cost(probe.cost())
    print(f"a connection's whole life, both ends: {life_ns / connections:.0f} ns")


def cost_of_packets(packets: int) -> None:
    """Print what the UDP programs cost a UDP packet, and a packet that is none."""
    with bpf_statistics(), Packets(Path("/proc"), ("udp",)) as watched, contextlib.ExitStack() as stack:
        probe = UdpProbe(watched)
        server, client = (stack.enter_context(socket.socket(type=socket.SOCK_DGRAM)) for _ in range(2))
        server.bind(("127.0.0.1", 0))
        client.connect(server.getsockname())
        print(f"\n## Packets: {packets} over loopback by UDP, then one poll")
        for _ in range(packets):
            client.send(b"x")
        probe.poll()
        print_cost(before := probe.cost())
        print(f"\n## Packets: {packets} over loopback by TCP")
        listener = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        one = stack.enter_context(socket.create_connection(listener.getsockname()))
        other = stack.enter_context(listener.accept()[0])
        for _ in range(packets):
            one.send(b"x")
            other.recv(1)
        print_cost(
            {
                program: ProgramCost(*(now - then for now, then in zip(cost, before[program], strict=True)))
                for program, cost in probe.cost().items()
            }
        )


def cost_of_http(client: Host, server: Host, seconds: int) -> None:
    """Print what HTTP costs a request of wrk with keep-alive: both ends, two packets each."""
    with (
        bpf_statistics(),
        Packets(Path("/proc"), ("http",)) as watched,
        contextlib.closing(HttpProbe(watched)) as probe,
    ):
        requests = wrk(client, server, seconds, "keep-alive")["requests/s"] * seconds
        costs = probe.cost()
    print(f"\n## HTTP: wrk, keep-alive, {requests / seconds:.0f} requests/s while the kernel times every program")
    print_cost(costs)
    print(f"a request, both ends: {sum(cost.run_time_ns for cost in costs.values()) / requests:.0f} ns")


def print_cost(costs: dict[str, ProgramCost]) -> None:
    for program, cost in costs.items():
        if cost.run_count:
            print(f"{program:24} {cost.run_count:10} runs {cost.run_time_ns / cost.run_count:8.0f} ns a run")


def iperf3(client: Host, server: Host, seconds: int) -> Figures:
    """Return bits/s of one stream."""
    report = client.run("iperf3", "--client", server.ipv4, "--time", f"{seconds}", "--json")
    return {"Gbit/s": json.loads(report)["end"]["sum_received"]["bits_per_second"] / 1e9}


def wrk(client: Host, server: Host, seconds: int, connection: str) -> Figures:
    """Return requests/s and the 99th percentile of the time to an answer."""
    options = ("--threads", "1", "--connections", "64", "--duration", f"{seconds}", "--latency")
    report = client.run("wrk", *options, "-H", f"Connection: {connection}", f"http://{server.ipv4}:{HTTP_PORT}/")
    p99, unit = re.search(r"99%\s+([\d.]+)(us|ms|s)", report).groups()
    requests = float(re.search(r"Requests/sec:\s+([\d.]+)", report)[1])
    return {"requests/s": requests, "p99 ms": float(p99) * {"us": 1e-3, "ms": 1, "s": 1e3}[unit]}


def pairs(
    lab: Lab, hosts: list[Host], name: str, load: Callable[[], Figures], rounds: int, *, options: Sequence[str] = ()
) -> None:
    """Run a load in turns with the collector off and on, with *options*, and print the medians."""
    off: list[Figures] = []
    on: list[Figures] = []
    for number in range(rounds):
        for with_collector in (False, True) if number % 2 else (True, False):
            collector = start_collector(lab, hosts, options) if with_collector else None
            (on if with_collector else off).append(load())
            if collector:
                used = usage(collector.pid)
                collector.stop()
    print(f"\n## {' '.join((name, *options))}: {rounds} pairs of rounds")
    print(f"{'':12} {'off':>12} {'on':>12} {'on/off':>8} {'lowest':>8} {'highest':>8}")
    for figure in off[0]:
        medians = [statistics.median(round_[figure] for round_ in rounds_) for rounds_ in (off, on)]
        ratios = [b[figure] / a[figure] for a, b in zip(off, on, strict=True)]
        print(
            f"{figure:12} {medians[0]:12.3f} {medians[1]:12.3f} {statistics.median(ratios):8.3f} "
            f"{min(ratios):8.3f} {max(ratios):8.3f}"
        )
    print(
        f"the last round's collector: {used.cpu_s:.2f} CPU seconds, its start included; RSS {used.resident_mib:.0f} MiB"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=int, default=10, help="of a round")
    parser.add_argument("--rounds", type=int, default=10, help="pairs of rounds")
    parser.add_argument("--connections", type=int, default=10_000, help="for the cost of the hooks")
    arguments = parser.parse_args()
    print(f"# What the collector costs the node\n{conditions()}; rounds of {arguments.seconds} s")
    cost_of_hooks(arguments.connections)
    cost_of_packets(10 * arguments.connections)
    with tempfile.TemporaryDirectory() as directory, contextlib.closing(Lab(Path(directory))) as lab:
        client, server = hosts = [lab.host("client"), lab.host("server")]
        start_intake_sink(lab)
        lab.programs.start("iperf3", "iperf3", "--server", host=server)
        wait_for_listener(server, IPERF_PORT)
        Nginx(lab.programs, server, lab.directory / "nginx")
        seconds = arguments.seconds
        pairs(lab, hosts, "iperf3, one stream", lambda: iperf3(client, server, seconds), arguments.rounds)
        cost_of_http(client, server, seconds)
        for options in ((), ("--disable-http-metrics",), ("--disable-http-metrics", "--disable-dns-metrics")):
            keep_alive = partial(wrk, client, server, seconds, "keep-alive")
            pairs(lab, hosts, "wrk, keep-alive", keep_alive, arguments.rounds, options=options)
        pairs(lab, hosts, "wrk, Connection: close", lambda: wrk(client, server, seconds, "close"), arguments.rounds)


if __name__ == "__main__":
    main()
