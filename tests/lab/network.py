"""Network namespaces as hosts: a switch between them, addresses of both families, and nothing left behind.

All names hold the process id of the test run, so that two runs do not meet and the leavings of a dead run are known as
such. The root namespace of the machine is never touched: the switch lives in a namespace of its own.
"""

from __future__ import annotations

import contextlib
import ctypes
import itertools
import json
import os
import socket
import struct
import subprocess
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING

from tests.lab.waiting import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

NAMESPACES = Path("/run/netns")
PREFIX = "ebpfnet"
CLONE_NEWNET = 0x40000000
# Where a collector sees the whole machine, the pods of another test run must have other addresses.
PODS = 104 + os.getpid() % 96

_numbers = itertools.count(1)
_libc = ctypes.CDLL(None, use_errno=True)


class Host:
    """A network namespace that plays a machine.

    Attributes:
        name: what a test calls it.
        namespace: the path of its network namespace.
        ipv4, ipv6: its addresses on the switch.

    """

    def __init__(self, name: str, namespace: Path, ipv4: str, ipv6: str) -> None:
        self.name = name
        self.namespace = namespace
        self.ipv4 = ipv4
        self.ipv6 = ipv6

    @property
    def pods_ipv4(self) -> str:
        """The first three bytes of the addresses behind it."""
        return f"10.{PODS}.{self.ipv4.rpartition('.')[2]}"

    @property
    def pods_ipv6(self) -> str:
        """The first 64 bits of the addresses behind it."""
        return f"fd00:{PODS}:{self.ipv6.rpartition(':')[2]}"

    def __repr__(self) -> str:
        return f"Host({self.name}, {self.ipv4})"

    @contextlib.contextmanager
    def entered(self) -> Iterator[None]:
        """Have the calling thread, and the programs that it starts, live in this namespace (setns(2))."""
        with Path("/proc/thread-self/ns/net").open() as before, self.namespace.open() as here:
            _setns(here.fileno())
            try:
                yield
            finally:
                _setns(before.fileno())

    def run(self, *command: str, **options: object) -> str:
        """Run a command here to its end and return its output.

        Raises:
            RuntimeError: it failed; the message has what it said.

        """
        with self.entered():
            return run(*command, **options)

    def get(self, url: str, timeout_s: float = 20.0) -> str:
        """Fetch a page as a program on this host would."""
        with self.entered(), urllib.request.urlopen(url, timeout=timeout_s) as response:
            return response.read().decode()

    def firewall(self, name: str, *, input_rules: str = "", output_rules: str = "") -> None:
        """Put nft rules in the place of those given before under this name; without any, let everything pass."""
        chains = "".join(
            f"chain {hook} {{ type filter hook {hook} priority 0; {rules}; }}\n"
            for hook, rules in (("input", input_rules), ("output", output_rules))
            if rules
        )
        table = f"inet {name}"
        self.run("nft", "-f", "-", input=f"table {table}\ndelete table {table}\ntable {table} {{\n{chains}}}\n")

    def counted(self, name: str) -> tuple[int, int]:
        """Return packets and bytes of the only counter in the rules that were given under this name."""
        listed = json.loads(self.run("nft", "-j", "list", "table", "inet", name))["nftables"]
        expressions = [each for item in listed if "rule" in item for each in item["rule"]["expr"]]
        [found] = [each["counter"] for each in expressions if "counter" in each]
        return found["packets"], found["bytes"]


class Network:
    """A switch, and hosts that are plugged into it.

    Attributes:
        centre: the host with the switch; the reducer and the receivers live here, and every host reaches it.

    """

    def __init__(self) -> None:
        remove_leavings()
        self._number = next(_numbers)
        self._hosts: list[Host] = []
        self.centre = self._add("centre")
        run("ip", "-n", self.centre.namespace.name, "link", "add", "switch", "type", "bridge")
        self._address(self.centre, "switch")

    def host(self, name: str) -> Host:
        """Plug a new host into the switch."""
        host = self._add(name)
        centre, port = self.centre.namespace.name, f"port{len(self._hosts)}"
        run(
            "ip",
            "-n",
            centre,
            "link",
            "add",
            port,
            "type",
            "veth",
            "peer",
            "name",
            "eth0",
            "netns",
            host.namespace.name,
        )
        run("ip", "-n", centre, "link", "set", port, "master", "switch", "up")
        self._address(host, "eth0")
        return host

    def behind(self, node: Host, name: str) -> Host:
        """Plug a new host into a switch of *node*, which forwards what it sends: as a pod on its machine."""
        host = self._add(name)
        number = len(self._hosts)
        on = node.namespace.name
        if "pods" not in run("ip", "-n", on, "-o", "link"):
            run("ip", "-n", on, "link", "add", "pods", "type", "bridge")
            run("ip", "-n", on, "address", "add", f"{node.pods_ipv4}.1/24", "dev", "pods")
            run("ip", "-n", on, "address", "add", f"{node.pods_ipv6}::1/64", "dev", "pods", "nodad")
            run("ip", "-n", on, "link", "set", "pods", "up")
            node.run("sysctl", "-qw", "net.ipv4.ip_forward=1", "net.ipv6.conf.all.forwarding=1")
        peer = ("peer", "name", "eth0", "netns", host.namespace.name)
        run("ip", "-n", on, "link", "add", f"pod{number}", "type", "veth", *peer)
        run("ip", "-n", on, "link", "set", f"pod{number}", "master", "pods", "up")
        run("ip", "-n", on, "link", "set", f"pod{number}", "type", "bridge_slave", "hairpin", "on")
        host.ipv4, host.ipv6 = f"{node.pods_ipv4}.{number}", f"{node.pods_ipv6}::{number}"
        self._address(host, "eth0")
        host.run("ip", "route", "add", "default", "via", f"{node.pods_ipv4}.1")
        host.run("ip", "-6", "route", "add", "default", "via", f"{node.pods_ipv6}::1")
        return host

    def remove(self, host: Host) -> None:
        """Remove a host; what still runs in it keeps it, without a name, until it ends."""
        self._hosts.remove(host)
        run("ip", "netns", "delete", host.namespace.name)

    def close(self) -> None:
        """Remove all hosts; what still runs in one keeps it, without a name, until it ends."""
        while self._hosts:
            run("ip", "netns", "delete", self._hosts.pop().namespace.name)

    def _add(self, name: str) -> Host:
        number = len(self._hosts) + 1
        namespace = f"{PREFIX}-{os.getpid()}-{self._number}-{name}"
        run("ip", "netns", "add", namespace)
        host = Host(name, NAMESPACES / namespace, f"10.203.0.{number}", f"fd00:203::{number}")
        self._hosts.append(host)
        run("ip", "-n", namespace, "link", "set", "lo", "up")
        return host

    def _address(self, host: Host, device: str) -> None:
        namespace = host.namespace.name
        run("ip", "-n", namespace, "address", "add", f"{host.ipv4}/24", "dev", device)
        run("ip", "-n", namespace, "address", "add", f"{host.ipv6}/64", "dev", device, "nodad")
        run("ip", "-n", namespace, "link", "set", device, "up")


def run(*command: str, **options: object) -> str:
    """Run a command to its end and return its output.

    Raises:
        RuntimeError: it failed; the message has what it said.

    """
    done = subprocess.run(command, check=False, capture_output=True, text=True, **options)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} ended with {done.returncode}:\n{done.stdout}{done.stderr}")
    return done.stdout


def forget_connections(host: Host) -> None:
    """Have the kernel forget all connections that it tracks on a host, as `conntrack -F` does."""
    delete, request_and_answer = 0x102, 5  # linux/netfilter/nfnetlink_conntrack.h, linux/netlink.h
    with host.entered(), socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 12) as netlink:
        netlink.send(struct.pack("<IHHIIBBH", 20, delete, request_and_answer, 1, 0, socket.AF_UNSPEC, 0, 0))
        number = -struct.unpack_from("<i", netlink.recv(4096), 16)[0]
    if number:
        raise OSError(number, os.strerror(number))


def wait_for_listener(host: Host, port: int, protocol: str = "tcp") -> None:
    """Wait until a program listens on a port, of TCP or UDP; nothing is sent that could be counted."""
    command = ("ss", f"--{protocol}", "-lnOH", f"sport = :{port}")
    wait_until(lambda: bool(host.run(*command)), 60, f"a listener on {protocol} port {port} of {host}")


def remove_leavings() -> None:
    """Remove the namespaces of test runs that died before they could."""
    for path in NAMESPACES.glob(f"{PREFIX}-*-*"):
        owner = path.name.split("-")[1]
        if not Path(f"/proc/{owner}").exists():
            with contextlib.suppress(RuntimeError):  # another test run has removed it meanwhile
                run("ip", "netns", "delete", path.name)


def _setns(descriptor: int) -> None:
    if _libc.setns(descriptor, CLONE_NEWNET):
        raise OSError(ctypes.get_errno(), "setns")
