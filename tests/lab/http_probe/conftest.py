"""Fixtures of the HTTP probe alone; the tests of a module share a host, and a probe there, which takes time to load."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import pytest

from tests.lab.http_connection import Connection, Since, opened_probe
from tests.lab.network import Network

if TYPE_CHECKING:
    from collections.abc import Iterator

    from kernel_collector.http.probe import HttpProbe
    from tests.lab.network import Host


@pytest.fixture(scope="module")
def host() -> Iterator[Host]:
    """A host on a network of its own."""
    with contextlib.closing(Network()) as network:
        yield network.centre


@pytest.fixture(scope="module")
def shared_probe(host: Host) -> Iterator[HttpProbe]:
    """A probe that is limited to the host."""
    with opened_probe(host) as opened:
        yield opened


@pytest.fixture
def probe(shared_probe: HttpProbe) -> Since:
    """The shared probe, without what it counted for other tests."""
    return Since(shared_probe)


@pytest.fixture
def connection(host: Host, probe: Since) -> Iterator[Connection]:
    """A connection on the host that begins after the probe."""
    with contextlib.closing(Connection(host)) as opened:
        yield opened
