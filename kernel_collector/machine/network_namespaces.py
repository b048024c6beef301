"""Network namespaces: which there are, how many TCP sockets each has, and how to step into one."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import re
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from daemon.errors import StartupError
from kernel_collector.closing import Closing

if TYPE_CHECKING:
    from collections.abc import Iterator

PROC = Path("/proc")
OWN_NETWORK_NAMESPACE = Path("/proc/thread-self/ns/net")
_CLONE_NEWNET = 0x40000000
_NS_GET_NSTYPE = 0xB703  # include/uapi/linux/nsfs.h
_TCP_IN_USE = re.compile(r"^TCP6?: inuse (\d+)", re.MULTILINE)


class NetworkNamespace(Closing):
    """A network namespace, held open so that its inode number is not given to another.

    Attributes:
        fd: its file descriptor.
        inode: its number, as in `struct net` and in /proc/PID/ns/net.

    Raises:
        OSError: the file cannot be opened, or is none of a network namespace.

    """

    def __init__(self, path: Path) -> None:
        self.fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        self.inode = os.fstat(self.fd).st_ino
        if not _is_network_namespace(self.fd):
            self.close()
            raise OSError(errno.EINVAL, "not a file of a network namespace", str(path))

    def close(self) -> None:
        """Let go of it."""
        os.close(self.fd)


def named_network_namespaces(paths: tuple[Path, ...]) -> list[NetworkNamespace]:
    """Open the namespaces that an operator named.

    Raises:
        StartupError: one is not there, or is no network namespace.

    """
    namespaces = []
    for path in paths:
        try:
            namespaces.append(NetworkNamespace(path))
        except OSError as error:
            raise StartupError(
                f"{path} is no network namespace: {error.strerror}; name /run/netns/NAME (ip netns) or /proc/PID/ns/net"
            ) from error
    return namespaces


def processes_by_network_namespace(proc: Path = PROC) -> dict[int, int]:
    """Return the inode number of each namespace that a process is in, and the pid of one such process."""
    found: dict[int, int] = {}
    for entry in os.scandir(proc):
        if entry.name.isdecimal():
            try:
                inode = Path(entry.path, "ns", "net").stat().st_ino
            except OSError:  # it has ended, or is not ours to look at
                continue
            found.setdefault(inode, int(entry.name))
    return found


def tcp_sockets_in_use(pid: int, proc: Path = PROC) -> int:
    """Return how many TCP sockets, of both families, the namespace of a process has: listening, open and orphaned.

    TIME_WAIT is not counted, nor is a socket that is neither bound nor connected.

    Raises:
        OSError: the process has ended.

    """
    directory = proc / str(pid) / "net"
    text = (directory / "sockstat").read_text()
    ipv6 = directory / "sockstat6"  # absent where the kernel has no IPv6
    if ipv6.exists():
        text += ipv6.read_text()
    return sum(map(int, _TCP_IN_USE.findall(text)))


@contextmanager
def entered(network_namespace: int) -> Iterator[None]:
    """Run the body with the calling thread in the network namespace of this file descriptor.

    Raises:
        OSError: it cannot be entered: CAP_SYS_ADMIN is missing, or it is no network namespace.

    """
    home = os.open(OWN_NETWORK_NAMESPACE, os.O_RDONLY | os.O_CLOEXEC)
    try:
        _enter(network_namespace)
        try:
            yield
        finally:
            _enter(home)
    finally:
        os.close(home)


def _is_network_namespace(fd: int) -> bool:
    try:
        return fcntl.ioctl(fd, _NS_GET_NSTYPE) == _CLONE_NEWNET
    except OSError:
        return False


_libc = ctypes.CDLL(None, use_errno=True)


def _enter(network_namespace: int) -> None:
    if _libc.setns(network_namespace, _CLONE_NEWNET):
        number = ctypes.get_errno()
        raise OSError(number, f"cannot enter a network namespace: {os.strerror(number)}")
