"""The kernel's own word on sockets, mostly by `ss`: what the collectors are compared with."""

from __future__ import annotations

import contextlib
import re
import socket
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tests.lab.network import run
from tests.lab.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from tests.lab.network import Host
    from tests.lab.programs import Program, Programs

NETLINK_SOCK_DIAG = "4"
SO_COOKIE = 57


@dataclass(frozen=True)
class Socket:
    """What `ss -ti` says of a socket; addresses are `address:port`, `queued` bytes wait to be acknowledged or read."""

    local: str
    remote: str
    queued: int
    payload_sent: int
    retransmits: int

    @property
    def local_port(self) -> int:
        return int(self.local.rpartition(":")[2])

    @property
    def remote_port(self) -> int:
        return int(self.remote.rpartition(":")[2])


def cookie(sock: socket.socket) -> int:
    """Return the kernel's number of a socket."""
    number: int = struct.unpack("Q", sock.getsockopt(socket.SOL_SOCKET, SO_COOKIE, 8))[0]
    return number


def live_sockets(host: Host) -> list[Socket]:
    """Return the connected TCP sockets of a host."""
    with host.entered():
        return _parse(run("ss", "-tinOH"))


def kernel_counter(host: Host, protocol: str, name: str) -> int:
    """Return what the kernel counted on a host, for `Tcp`, or `TcpExt`, over both versions of IP."""
    lines = host.run("grep", "-h", f"^{protocol}:", "/proc/net/snmp", "/proc/net/netstat").splitlines()
    names, values = (line.split() for line in lines)
    return int(values[names.index(name)])


def udp_counter(host: Host, family: str, name: str) -> int:
    """Return what the kernel counted of UDP on a host (RFC 4113), over `ipv4` or `ipv6`."""
    if family == "ipv4":
        return kernel_counter(host, "Udp", name)
    return int(host.run("grep", f"^Udp6{name}\\s", "/proc/net/snmp6").split()[1])


def wait_until_closed(host: Host, port: int) -> None:
    """Wait until a host has no connection to or from a port any more, nor sends anything for one."""
    command = ("ss", "-tnOH", f"( sport = :{port} or dport = :{port} )")
    wait_until(lambda: not host.run(*command), 60, f"the end of connections of port {port} on {host}")


@contextlib.contextmanager
def arrival(host: Host) -> Iterator[Callable[[], None]]:
    """Yield what waits until all that was sent before on the host's loopback interface has arrived.

    It stands in a queue, which a busy kernel before 6.4 leaves to ksoftirqd (Linux d15121be7485).
    """
    with host.entered():
        listener = socket.create_server(("127.0.0.1", 0))
        sender = socket.create_connection(listener.getsockname())
    receiver, _ = listener.accept()

    def wait() -> None:
        sender.send(b"x")
        receiver.recv(1)

    with listener, sender, receiver:
        yield wait


class ClosedSockets:
    """The final counters of every TCP socket that is destroyed on a host (sock_diag's destroy groups)."""

    def __init__(self, programs: Programs, host: Host) -> None:
        self._program: Program = programs.start(f"ss-{host.name}", "stdbuf", "-oL", "ss", "-tinOE", host=host)
        wait_until(self._listens, 60, "ss to join the groups")

    def sockets(self, where: Callable[[Socket], bool]) -> list[Socket]:
        """Return those that were destroyed so far."""
        return [socket for socket in _parse(self._program.output()) if where(socket)]

    def _listens(self) -> bool:
        fields = [line.split() for line in Path(f"/proc/{self._program.pid}/net/netlink").read_text().splitlines()]
        return any(protocol == NETLINK_SOCK_DIAG and int(groups, 16) for _, protocol, _, groups, *_ in fields[1:])


def payload(sockets: Iterable[Socket]) -> int:
    """Return the payload bytes that they sent, each counted once."""
    return sum(socket.payload_sent for socket in sockets)


def _parse(text: str) -> list[Socket]:
    sockets = []
    for line in text.splitlines():
        fields = line.split()
        if not re.search(r":\d+$", fields[4]):
            continue  # the heading, or a socket without a peer
        counters = dict(re.findall(r"\b(bytes_sent|bytes_retrans|retrans):(?:\d+/)?(\d+)", line))
        value = {name: int(counters.get(name, 0)) for name in ("bytes_sent", "bytes_retrans", "retrans")}
        sent = value["bytes_sent"] - value["bytes_retrans"]
        sockets.append(Socket(fields[3], fields[4], int(fields[1]) + int(fields[2]), sent, value["retrans"]))
    return sockets
