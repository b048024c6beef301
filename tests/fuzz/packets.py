"""Sends noise through sockets that the programs on packets watch: what is honest after it must be counted exactly.

    sudo python -m tests.fuzz.packets --inputs 1000000 --seed 7 [http|dns]

The packets are the kernel's own, in a network namespace of the run. Half of them are good messages with some bytes
changed, cut or doubled; the others are noise. Needs root.
"""

from __future__ import annotations

import argparse
import contextlib
import socket
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from intake.clock import SECOND_NS
from kernel_collector.dns.answers import MalformedAnswerError, read_answer
from kernel_collector.dns.probe import DnsProbe, constants
from kernel_collector.http.probe import HttpProbe
from kernel_collector.http.rows import http_rows
from kernel_collector.machine.network_namespaces import NetworkNamespace
from kernel_collector.packets import Packets
from tests.dns_messages import query, response
from tests.fuzz.kernel_inputs import Mutator
from tests.lab.network import Network
from tests.lab.sockets import cookie

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.lab.network import Host

GET = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
REQUESTS = [
    GET,
    b"POST /a HTTP/1.1\r\nContent-Length: 5\r\n\r\nGET /",
    GET * 9,
    b"CONNECT a:1 HTTP/1.1\r\n\r\n",
    b"PUT /b HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nGET /\r\n0\r\n\r\n",
]
RESPONSES = [
    OK,
    OK * 9,
    b"HTTP/1.1 100 Continue\r\n\r\n" + OK,
    b"HTTP/1.1 101 Switching Protocols\r\n\r\n",
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nffffffff\r\nHTTP/1.1 500 no\r\n0\r\n\r\n",
]
MESSAGES_A_CONNECTION = 500
EACH_READING = 20_000
DNS_TIMEOUT_NS = SECOND_NS


def fuzz_http(host: Host, inputs: int, seed: int) -> dict[str, int]:
    """Send *inputs* payloads; return what the probe made of them."""
    asking, answering = Mutator(seed, REQUESTS), Mutator(seed + 1, RESPONSES)
    outcome = {"inputs": 0, "requests": 0, "responses": 0}
    with watched(host, "http") as packets, contextlib.closing(HttpProbe(packets)) as probe:
        while outcome["inputs"] < inputs:
            with connection(host) as (client, server):
                for _ in range(min(MESSAGES_A_CONNECTION, inputs - outcome["inputs"]) // 2 + 1):
                    carry(client, server, asking.next())
                    carry(server, client, answering.next())
                    outcome["inputs"] += 2
            count(probe, outcome)
        with connection(host) as (client, server):
            for _ in range(3):
                carry(client, server, GET)
                carry(server, client, OK)
            told = read_http(probe)
            for end in (client, server):
                honest = told["socket"] == cookie(end)
                assert told["requests"][honest].sum() == told["status_2xx"][honest].sum() == 3
        outcome["heads unknown"], outcome["packets cut"] = probe.heads_unknown, probe.packets_cut
    return outcome


def fuzz_dns(host: Host, inputs: int, seed: int) -> dict[str, int]:
    """Send *inputs* datagrams to and from port 53; return what the probe made of them."""
    queries = [query("www.example.com", number=number) for number in range(8)]
    alias = ("www.example.com.", 60, "CNAME", "cdn.example.net.")
    answers = [response(each, alias, ("cdn.example.net.", 60, "A", "192.0.2.1")) for each in queries]
    asking, answering = Mutator(seed, queries), Mutator(seed + 1, answers)
    outcome = {"inputs": 0, "queries": 0, "answers told": 0, "answers malformed": 0}
    with (
        watched(host, "dns") as packets,
        contextlib.closing(DnsProbe(packets, DNS_TIMEOUT_NS)) as probe,
        datagrams(host) as client,
        datagrams(host, 53) as server,
    ):
        client.connect(server.getsockname())
        server.connect(client.getsockname())
        for sent in range(inputs // 2):
            for sender, receiver, mutator in ((client, server, asking), (server, client, answering)):
                sender.send(mutator.next())
                receiver.recv(65_536)
                outcome["inputs"] += 1
            if sent % EACH_READING == 0:
                learn(probe, outcome)
        time.sleep(1.1 * DNS_TIMEOUT_NS / SECOND_NS)  # then there is room for queries again
        learn(probe, outcome)
        server.close()
        with datagrams(host) as honest, datagrams(host, 53) as again:
            asking = query("honest.example")
            answer = response(asking, ("honest.example.", 60, "A", "192.0.2.1"))
            honest.sendto(asking, again.getsockname())
            _, where = again.recvfrom(65_536)
            again.sendto(answer, where)
            honest.recv(65_536)
            traffic = probe.drain()
            of_client = traffic.peers["cookie"] == cookie(honest)
            assert traffic.counts["queries"][of_client].sum() == 1
            assert traffic.counts["latency_count"][of_client].sum() == 1
    return outcome


def learn(probe: DnsProbe, outcome: dict[str, int]) -> None:
    outcome["queries"] += int(probe.drain().counts["queries"].sum())
    probe.expire()
    for message in probe.answers():
        outcome["answers told"] += 1
        try:
            read_answer(message.content, whole=message.whole)
        except MalformedAnswerError:
            outcome["answers malformed"] += 1


def read_http(probe: HttpProbe) -> dict[str, np.ndarray]:
    found = np.concatenate([probe.poll(), probe.drain()])
    return http_rows(found, lambda sockets: np.zeros(len(sockets["socket"]), np.uint32))["http"]


def count(probe: HttpProbe, outcome: dict[str, int]) -> None:
    told = read_http(probe)
    outcome["requests"] += int(told["requests"].sum())
    outcome["responses"] += sum(int(told[f"status_{kind}"].sum()) for kind in ("2xx", "3xx", "4xx", "5xx", "other"))


@contextlib.contextmanager
def watched(host: Host, concern: str) -> Iterator[Packets]:
    with (
        NetworkNamespace(host.namespace) as namespace,
        Packets(Path("/proc"), (concern,), frozenset([namespace.inode]), constants(DNS_TIMEOUT_NS)) as packets,
    ):
        yield packets


@contextlib.contextmanager
def connection(host: Host) -> Iterator[tuple[socket.socket, socket.socket]]:
    with host.entered(), socket.create_server(("127.0.0.1", 0)) as listener:
        client = socket.create_connection(listener.getsockname())
        server, _ = listener.accept()
    with client, server:
        for end in (client, server):
            end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            end.settimeout(10)
        yield client, server


def datagrams(host: Host, port: int = 0) -> socket.socket:
    with host.entered():
        opened = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    opened.bind(("127.0.0.1", port))
    opened.settimeout(10)
    return opened


def carry(sender: socket.socket, receiver: socket.socket, data: bytes) -> None:
    sender.sendall(data)
    left = len(data)
    while left:
        left -= len(receiver.recv(left))


TARGETS = {"http": fuzz_http, "dns": fuzz_dns}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--inputs", type=int, default=1_000_000, help="for each target")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("target", nargs="*", help=", ".join(TARGETS))
    arguments = parser.parse_args()
    with contextlib.closing(Network()) as network:
        for target in arguments.target or TARGETS:
            begin = time.monotonic()
            outcome = TARGETS[target](network.centre, arguments.inputs, arguments.seed)
            sys.stdout.write(f"{target}: {outcome} in {time.monotonic() - begin:.0f} s\n")
            sys.stdout.flush()


if __name__ == "__main__":
    main()
