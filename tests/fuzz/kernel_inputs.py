"""Gives the kernel collector what no kernel, container engine or peer should say: nothing but a refusal may come of it.

    python -m tests.fuzz.kernel_inputs --inputs 1000000 --seed 7 [TARGET...]

Half of the inputs are good ones with some bytes changed, cut or doubled; the others are made of noise. Prints how many
were taken and refused; what breaks a target is shown as hex.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import time
from collections import Counter
from typing import TYPE_CHECKING

import dns.message
import dns.rdatatype
import dns.rrset
import numpy as np

from kernel_collector.dns.answers import MalformedAnswerError, read_answer
from kernel_collector.machine.foreign_json import LONGEST_VALUE
from kernel_collector.nat.conntrack_messages import FRONT_BYTES, decode
from kernel_collector.tcp.sockets import SocketTable
from kernel_collector.workloads.cgroup_paths import place_of
from kernel_collector.workloads.docker import AnswerError, created, described
from tests.conntrack_messages import message as connection
from tests.tcp_records import TcpRecordKind, tcp_dtype, tcp_records

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

LONGEST_NOISE = 600
RECORDS_AT_ONCE = 64
# A table is made anew now and then: what noise says of sockets stays in it.
TABLE_LIFE = 50
CONTAINER = "0123456789abcdef" * 4
POD = "12345678-1234-1234-1234-123456789abc"


class Mutator:
    """Makes inputs out of good ones."""

    def __init__(self, seed: int, good: list[bytes]) -> None:
        self._random = random.Random(seed)
        self._good = good

    def next(self) -> bytes:
        """Return an input."""
        if self._random.random() < 0.5:
            return self._random.randbytes(self._random.randrange(LONGEST_NOISE))
        data = bytearray(self._random.choice(self._good))
        for _ in range(self._random.randrange(1, 6)):
            self._change(data)
        return bytes(data)

    def _change(self, data: bytearray) -> None:
        at = self._random.randrange(len(data) + 1)
        match self._random.randrange(4):
            case 0:
                data[at : at + 1] = self._random.randbytes(1)
            case 1:
                del data[at : at + self._random.randrange(20)]
            case 2:
                data[at:at] = data[at : at + self._random.randrange(40)]
            case 3:
                data[at : at + 2] = self._random.choice([b"\0\0", b"\xff\xff", b"\xc0\x0c", b"\x80\0"])


def answers() -> list[bytes]:
    """Return answers of the DNS: aliases, addresses of both families, an error."""
    query = dns.message.make_query("WWW.example.com", "A")
    good = []
    for records in (
        [("www.example.com.", "CNAME", "cdn.example.net."), ("cdn.example.net.", "A", "192.0.2.1")],
        [("www.example.com.", "AAAA", f"2001:db8::{number}") for number in range(20)],
        [],
    ):
        answer = dns.message.make_response(query)
        answer.answer = [dns.rrset.from_text(name, 60, "IN", kind, data) for name, kind, data in records]
        good.append(answer.to_wire())
    return good


def read_dns(data: bytes) -> bool:
    """Read an answer of the DNS; what it says must be addresses of a name that can be shown."""
    try:
        answer = read_answer(data, whole=len(data) % 2 == 0)
    except MalformedAnswerError:
        return False
    if answer:
        assert answer.name.isprintable()
        assert all(len(address) == 16 for address in answer.addresses)
    return answer is not None


def read_path(data: bytes) -> bool:
    """Read the path of a cgroup."""
    place = place_of(data.decode(errors="surrogateescape"))
    assert place.container_id == "" or len(place.container_id) >= 32
    assert place.service.isprintable()
    return any((place.service, place.pod_uid, place.container_id))


def read_docker(data: bytes) -> bool:
    """Read what Docker says of a container."""
    try:
        cgroup = described(data, "com.example.namespace")
    except AnswerError:
        return False
    assert all(len(value) <= LONGEST_VALUE for _, value in cgroup.ListFields())
    return True


def read_docker_event(data: bytes) -> bool:
    """Read what Docker says when it makes a container."""
    try:
        container_id, cgroup = created(data, "com.example.namespace")
    except AnswerError:
        return False
    assert len(container_id) == 64
    assert all(len(value) <= LONGEST_VALUE for _, value in cgroup.ListFields())
    return True


def read_connection(data: bytes) -> bool:
    """Read a message of connection tracking."""
    front = np.frombuffer(data[:FRONT_BYTES].ljust(FRONT_BYTES, b"\0"), np.uint8).reshape(1, -1)
    found, unread = decode(np.ascontiguousarray(front), np.array([len(data)], np.uint32))
    assert len(found) + unread <= 1
    return bool(len(found))


class Sockets:
    """Reads records of sockets, many at once; what they add up to stays within what a row can say."""

    def __init__(self) -> None:
        self._size = tcp_dtype().itemsize
        self._updates = 0
        self._table = SocketTable(baseline_ns=0, most_sockets=500)
        self._waiting = b""

    def __call__(self, data: bytes) -> bool:
        self._waiting += data.ljust(self._size, b"\1")[: self._size]
        if len(self._waiting) < RECORDS_AT_ONCE * self._size:
            return True
        records = np.frombuffer(self._waiting, tcp_dtype()).copy()
        self._waiting = b""
        records["cookie"] %= 300
        if self._updates % TABLE_LIFE == 0:
            self._table = SocketTable(baseline_ns=0, most_sockets=500)
        self._updates += 1
        rows = self._table.update(records, records["pid"] % 7, 0)
        lengths = {len(column) for column in rows.values()}
        assert len(lengths) == 1
        assert len(self._table) <= 500
        return True


def records() -> list[bytes]:
    """Return one record of each kind."""
    return [tcp_records({"kind": kind, "cookie": 7, "time_ns": 5, "pid": 9}).tobytes() for kind in TcpRecordKind]


def container() -> list[bytes]:
    """Return answers of Docker."""
    labels = {"io.kubernetes.pod.name": "web-0", "com.example.namespace": "shop"}
    config = {"Image": "nginx:1.25", "Labels": labels, "Env": ["NOMAD_JOB_NAME=a", "PATH=/bin"]}
    return [json.dumps({"Id": CONTAINER, "Name": "/web", "Config": config}).encode()]


def creation() -> list[bytes]:
    """Return events of Docker."""
    attributes = {"image": "nginx:1.25", "name": "web", "io.kubernetes.pod.name": "web-0", "text": "a" * 400}
    actor = {"ID": CONTAINER, "Attributes": attributes}
    return [json.dumps({"Type": "container", "Action": "create", "Actor": actor}).encode()]


PATHS = (
    f"/kubepods.slice/kubepods-burstable-pod{POD.replace('-', '_')}.slice/cri-containerd-{CONTAINER}.scope",
    f"/kubepods/besteffort/pod{POD}/{CONTAINER}",
    f"/system.slice/docker-{CONTAINER}.scope",
    f"/docker/{CONTAINER}",
    "/system.slice/nginx.service",
    f"/machine.slice/libpod-{CONTAINER}.scope/container",
)
CONNECTIONS = [
    connection(("10.0.0.1", 40000, "10.96.0.1", 80), ("10.0.0.7", 8080, "10.0.0.1", 40000)),
    connection(("fd00::1", 40000, "fd00::96", 80), ("fd00::7", 8080, "fd00::1", 40000)),
]
TARGETS: dict[str, tuple[Callable[[], Callable[[bytes], bool]], Callable[[], list[bytes]]]] = {
    "dns": (lambda: read_dns, answers),
    "cgroup-paths": (lambda: read_path, lambda: [path.encode() for path in PATHS]),
    "docker": (lambda: read_docker, container),
    "docker-events": (lambda: read_docker_event, creation),
    "connections": (lambda: read_connection, lambda: CONNECTIONS),
    "sockets": (Sockets, records),
}


def run(target: str, inputs: int, seed: int) -> Counter[str]:
    """Give *inputs* to a target; return how many were taken, and how many were not."""
    reader, good = TARGETS[target]
    read, mutator = reader(), Mutator(seed, good())
    outcome: Counter[str] = Counter()
    for data in _inputs(mutator, inputs):
        try:
            outcome["taken" if read(data) else "refused"] += 1
        except BaseException:
            sys.stderr.write(f"{target}: {data.hex()}\n")
            raise
    return outcome


def _inputs(mutator: Mutator, inputs: int) -> Iterator[bytes]:
    for _ in range(inputs):
        yield mutator.next()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--inputs", type=int, default=1_000_000, help="for each target")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("target", nargs="*", help="; ".join(TARGETS))
    arguments = parser.parse_args()
    for target in arguments.target or TARGETS:
        begin = time.monotonic()
        outcome = run(target, arguments.inputs, arguments.seed)
        sys.stdout.write(f"{target}: {dict(outcome)} in {time.monotonic() - begin:.0f} s\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
