"""Ports for the daemons that tests start."""

from __future__ import annotations

import contextlib
import itertools
import random
import socket
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

# Below those that the kernel gives to who asks for none: it would give them to another before the daemon has them.
_PORTS = range(10_000, 32_768)


def free_ports(count: int) -> list[int]:
    """Return so many ports of loopback that nobody has."""
    with contextlib.ExitStack() as stack:
        return [stack.enter_context(each).getsockname()[1] for each in itertools.islice(_listening(), count)]


def _listening() -> Iterator[socket.socket]:
    for port in random.sample(_PORTS, len(_PORTS)):  # another run begins elsewhere
        with contextlib.suppress(OSError):
            yield socket.create_server(("127.0.0.1", port))
