"""HTTP between hosts is exported as nginx logged it, with the names of both ends, whichever of them has a collector."""

from __future__ import annotations

import socket
from itertools import pairwise
from typing import TYPE_CHECKING

import pytest

from tests.lab.daemons import Exported
from tests.lab.traffic import HTTP_PORT, Nginx, Wrk
from tests.lab.waiting import wait_until

if TYPE_CHECKING:
    from collections import Counter

    from tests.lab.daemons import Lab

REQUESTS = 20_000
PATHS = ("/", "/204", "/301", "/404", "/503", "/")
PIPELINED = 200


def by_class(statuses: Counter[int]) -> dict[str, int]:
    """Return how many responses of each `status_code` there are."""
    totals = dict.fromkeys(("200", "400", "500", "other"), 0)
    for status, count in statuses.items():
        totals[{2: "200", 4: "400", 5: "500"}.get(status // 100, "other")] += count
    return totals


@pytest.mark.parametrize("ends", ["client", "server", "both"])
def test_keep_alive_with_errors(lab: Lab, ends: str) -> None:
    client, server = lab.host("client"), lab.host("server")
    reducer = lab.start_reducer_with_sink()
    collectors = [lab.start_collector(host) for host in (client, server) if ends in (host.name, "both")]
    nginx = Nginx(lab.programs, server, lab.directory / "nginx")
    Wrk(lab.programs, nginx, client, requests=REQUESTS, connections=32, connection="keep-alive", paths=PATHS).finish()
    lab.finish(reducer, *collectors)
    exported = Exported(lab.sink.points())

    statuses = nginx.statuses()
    assert sum(statuses.values()) == REQUESTS
    assert set(statuses) == {200, 204, 301, 404, 503}
    names = {"source__ip": client.ipv4, "dest__ip": server.ipv4}
    if ends != "server":
        names["source__process__name"] = "wrk"
    if ends != "client":
        names["dest__process__name"] = "nginx"
    assert exported.total("http.requests", **names) == exported.total("http.requests") == REQUESTS
    for status, count in by_class(statuses).items():
        assert exported.total("http.status_code", status_code=status, **names) == count
        assert exported.total("http.status_code", status_code=status) == count
    measured = {"http.client.duration.average": "client", "http.server.duration.average": "server"}
    for metric, end in measured.items():
        series: dict[tuple[tuple[str, object], ...], list[float]] = {}
        for point in sorted(exported.points(metric, **names), key=lambda each: each.time_ns):
            series.setdefault(tuple(sorted(point.attributes.items())), []).append(point.value)
        assert bool(series) == (ends in (end, "both"))
        for values in series.values():  # one that is in a window no more has a point of 0, once
            assert all(0 <= value < 10 for value in values)
            assert all(one or other for one, other in pairwise((0, *values))), values


def test_pipelining_by_ipv6(lab: Lab) -> None:
    client, server = lab.host("client"), lab.host("server")
    reducer = lab.start_reducer_with_sink()
    # On a busy machine packets overtake each other on their way to the client, which then may miss responses.
    collectors = [lab.start_collector(server)]
    nginx = Nginx(lab.programs, server, lab.directory / "nginx")
    with client.entered(), socket.create_connection((server.ipv6, HTTP_PORT)) as asking:
        asking.settimeout(20)
        requests = [f"GET {PATHS[i % len(PATHS)]} HTTP/1.1\r\nHost: a\r\n\r\n".encode() for i in range(PIPELINED)]
        asking.sendall(b"".join(requests[:-1]) + requests[-1].replace(b"Host", b"Connection: close\r\nHost"))
        while asking.recv(1 << 16):
            pass
    lab.finish(reducer, *collectors)
    exported = Exported(lab.sink.points())
    statuses = nginx.statuses()
    assert sum(statuses.values()) == PIPELINED
    names = {"source__ip": client.ipv6, "dest__ip": server.ipv6, "dest__process__name": "nginx"}
    assert exported.total("http.requests", **names) == PIPELINED
    for status, count in by_class(statuses).items():
        assert exported.total("http.status_code", status_code=status, **names) == count


def test_where_it_is_disabled_there_is_none(lab: Lab) -> None:
    host = lab.host("host")
    reducer = lab.start_reducer_with_sink()
    collector = lab.start_collector(host, options=["--disable-http-metrics"])
    nginx = Nginx(lab.programs, lab.centre, lab.directory / "nginx")
    host.get(f"http://{lab.centre.ipv4}:{HTTP_PORT}/")
    wait_until(lambda: nginx.logged() == 1, 60, "nginx to log the request")
    lab.finish(reducer, collector)
    exported = Exported(lab.sink.points())
    assert exported.total("tcp.bytes", source__ip=host.ipv4) > 0
    assert not exported.points("http.requests")
