"""What the collector costs the node's other programs.

- ns a run of each BPF program, a connection's whole life, an HTTP request, and a connection of its own for each, by
  kernel.bpf_stats_enabled;
- iperf3, and wrk against nginx with keep-alive, with keep-alive at a tenth of the rate that two cores reach, and with a
  connection a request, between two network namespaces, in pairs of rounds with the collector on and off, in turn. The
  collector sees both ends of each connection. It talks to a sink that only acknowledges, so that no reducer takes part
  of the two cores.

The time that the processors were busy for each request is the overhead where they are idle in between, as at a tenth of
the rate, and varies much less from round to round than throughput and latency do. The last column is the mean of all
pairs with its standard error: a difference that is less than twice that was not seen.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import socket
import statistics
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from benchmarks.conditions import busy_s, conditions, usage
from benchmarks.rig import POLL_INTERVAL_S, start_collector, start_intake_sink
from benchmarks.wrk import wrk_command, wrk_figures
from kernel_collector.bpf.bpf_object import ProgramCost
from kernel_collector.drops.probe import DropsProbe
from kernel_collector.http.probe import HttpProbe
from kernel_collector.packets import Packets
from kernel_collector.tcp.probe import TcpProbe
from kernel_collector.udp.probe import UdpProbe
from tests.lab.daemons import Lab
from tests.lab.network import wait_for_listener
from tests.lab.traffic import IPERF_PORT, Nginx

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.lab.network import Host
    from tests.lab.programs import Program

BPF_STATISTICS = Path("/proc/sys/kernel/bpf_stats_enabled")
Figures = dict[str, float]
# A tenth of what two cores reach.
TENTH = 10_000
TENTH_CONNECTIONS = 100
# What the collector leaves out.
WATCHED = {
    "": (),
    "-no-http": ("--disable-http-metrics",),
    "-no-dns": ("--disable-dns-metrics",),
    "-no-udp": ("--disable-udp-metrics",),
    "-no-drops": ("--disable-drop-metrics",),
    "-no-nat": ("--disable-nat",),
}
WATCHED["-tcp-alone"] = tuple(option for options in WATCHED.values() for option in options)


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


def cost_of_http(wrk: Callable[[], Figures], seconds: int) -> None:
    """Print what HTTP costs a request of wrk with keep-alive: both ends, two packets each."""
    with (
        bpf_statistics(),
        Packets(Path("/proc"), ("http",)) as watched,
        contextlib.closing(HttpProbe(watched)) as probe,
    ):
        requests = wrk()["requests/s"] * seconds
        costs = probe.cost()
    print(f"\n## HTTP: wrk, keep-alive, {requests / seconds:.0f} requests/s while the kernel times every program")
    print_cost(costs)
    print(f"a request, both ends: {sum(cost.run_time_ns for cost in costs.values()) / requests:.0f} ns")


def cost_of_connections(wrk: Callable[[], Figures], seconds: int) -> None:
    """Print what each program costs a connection of wrk with one request: both ends, with all that is watched."""
    with (
        bpf_statistics(),
        TcpProbe() as tcp,
        DropsProbe() as drops,
        Packets(Path("/proc"), ("udp", "dns", "http")) as watched,
        contextlib.closing(HttpProbe(watched)) as http,
        ThreadPoolExecutor(1) as pool,
    ):
        load = pool.submit(wrk)
        while not load.done():
            time.sleep(0.05)
            tcp.drain()
            http.drain()
        connections = load.result()["requests/s"] * seconds
        costs = tcp.cost() | drops.cost() | http.cost()
    print(
        f"\n## A connection a request: wrk, {connections / seconds:.0f} a second while the kernel times every program"
    )
    print_cost(costs, connections)
    print(f"a connection, both ends: {sum(cost.run_time_ns for cost in costs.values()) / connections:.0f} ns")


def print_cost(costs: dict[str, ProgramCost], connections: float = 0) -> None:
    """Print what programs cost a run, and, where their number is given, how often they run a connection."""
    for program, cost in costs.items():
        if cost.run_count:
            a_run = f"{cost.run_count:10} runs {cost.run_time_ns / cost.run_count:8.0f} ns a run"
            times = f" x {cost.run_count / connections:5.2f} a connection" if connections else ""
            print(f"{program:24} {a_run}{times}")


class Load(NamedTuple):
    """A load: what runs it once and returns its figures, of which the first is a rate, and what that counts."""

    run: Callable[[], Figures]
    unit: str


def loads(lab: Lab, client: Host, server: Host, seconds: int) -> dict[str, Load]:
    """Start the servers; return the loads by name."""

    def iperf3() -> Figures:
        report = client.run("iperf3", "--client", server.ipv4, "--time", f"{seconds}", "--json")
        return {"Gbit/s": json.loads(report)["end"]["sum_received"]["bits_per_second"] / 1e9}

    def wrk(connection: str = "keep-alive", connections: int = 64, rate: int = 0) -> Figures:
        command = wrk_command(server, seconds, lab.directory, connections=connections, connection=connection, rate=rate)
        return wrk_figures(client.run(*command))

    lab.programs.start("iperf3", "iperf3", "--server", host=server)
    wait_for_listener(server, IPERF_PORT)
    Nginx(lab.programs, server, lab.directory / "nginx")
    return {
        "iperf3": Load(iperf3, "Gbit"),
        "keep-alive": Load(wrk, "request"),
        "tenth": Load(lambda: wrk(connections=TENTH_CONNECTIONS, rate=TENTH), "request"),
        "close": Load(lambda: wrk("close"), "request"),
    }


def pairs(title: str, load: Load, start: Callable[[], Program], rounds: int) -> None:
    """Run a load in turns with the collector off and on, which *start* starts, and print how they compare."""
    off: list[Figures] = []
    on: list[Figures] = []
    own: list[float] = []
    for number in range(rounds):
        for with_collector in (False, True) if number % 2 else (True, False):
            collector = start() if with_collector else None
            time.sleep(1)  # its first polls are over
            begin, busy = time.monotonic(), busy_s()
            used = usage(collector.pid) if collector else None
            figures = load.run()
            seconds = time.monotonic() - begin
            rate = next(iter(figures.values()))
            figures[f"us/{load.unit}"] = 1e6 * (busy_s() - busy) / seconds / rate
            if collector and used:
                own.append(1e6 * (usage(collector.pid).cpu_s - used.cpu_s) / seconds / rate)
                resident_mib = usage(collector.pid).resident_mib
                collector.stop()
            (on if with_collector else off).append(figures)
    print(f"\n## {title}: {rounds} pairs of rounds")
    print(f"{'':12} {'off':>10} {'on':>10} {'on/off':>8} {'lowest':>8} {'highest':>8}   mean of the pairs")
    for figure in off[0]:
        medians = [statistics.median(round_[figure] for round_ in rounds_) for rounds_ in (off, on)]
        ratios = [b[figure] / a[figure] for a, b in zip(off, on, strict=True)]
        print(
            f"{figure:12} {medians[0]:10.3f} {medians[1]:10.3f} {statistics.median(ratios):8.3f} "
            f"{min(ratios):8.3f} {max(ratios):8.3f}   {mean_difference(ratios)}",
            flush=True,
        )
    print(
        f"the collector itself: {statistics.median(own):.3f} us of CPU a {load.unit}, RSS {resident_mib:.0f} MiB",
        flush=True,
    )


def mean_difference(ratios: list[float]) -> str:
    """Return the mean of the ratios' logarithms and its standard error, in percent."""
    logarithms = [math.log(ratio) for ratio in ratios]
    mean = 100 * math.expm1(statistics.fmean(logarithms))
    if len(ratios) == 1:
        return f"{mean:+.1f}%"
    return f"{mean:+.1f}% \u00b1 {100 * statistics.stdev(logarithms) / math.sqrt(len(ratios)):.1f}%"


def main() -> None:
    names = [f"{load}{watched}" for load in ("iperf3", "keep-alive", "tenth", "close") for watched in WATCHED]
    usual = ["programs", "iperf3", *(f"keep-alive{watched}" for watched in ("", "-no-http", "-tcp-alone"))]
    usual += ["tenth", "tenth-no-http", "close"]
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=int, default=10, help=f"of a round: a multiple of {POLL_INTERVAL_S:g}")
    parser.add_argument("--rounds", type=int, default=10, help="pairs of rounds")
    parser.add_argument("--connections", type=int, default=10_000, help="for the cost of the hooks")
    parser.add_argument(
        "--only",
        nargs="+",
        choices=["programs", *names],
        default=usual,
        metavar="NAME",
        help="what is measured: programs (ns a run), or a load, and what the collector leaves out of what it watches: "
        f"{', '.join(names)}. By default {', '.join(usual)}",
    )
    arguments = parser.parse_args()
    print(f"# What the collector costs the node\n{conditions()}; rounds of {arguments.seconds} s", flush=True)
    if "programs" in arguments.only:
        cost_of_hooks(arguments.connections)
        cost_of_packets(10 * arguments.connections)
    with tempfile.TemporaryDirectory() as directory, contextlib.closing(Lab(Path(directory))) as lab:
        client, server = hosts = [lab.host("client"), lab.host("server")]
        start_intake_sink(lab)
        by_name = loads(lab, client, server, arguments.seconds)
        if "programs" in arguments.only:
            cost_of_http(by_name["keep-alive"].run, arguments.seconds)
            cost_of_connections(by_name["close"].run, arguments.seconds)
        for load_name, load in by_name.items():
            for watched, options in WATCHED.items():
                if f"{load_name}{watched}" in arguments.only:
                    start = partial(start_collector, lab, hosts, options)
                    pairs(" ".join((load_name, *options)), load, start, arguments.rounds)


if __name__ == "__main__":
    main()
