"""Connections that live shorter than a poll are all counted, with their bytes and owners."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.lab.daemons import Exported
from tests.lab.traffic import Nginx, Wrk

if TYPE_CHECKING:
    from tests.lab.daemons import Lab

REQUESTS = 20_000


def test_each_of_20000_connections_to_nginx_is_counted(lab: Lab) -> None:
    client, server = lab.host("client"), lab.host("server")
    reducer = lab.start_reducer_with_sink()
    collectors = [lab.start_collector(host) for host in (client, server)]
    nginx = Nginx(lab.programs, server, lab.directory / "nginx")
    response_bytes = Wrk(lab.programs, nginx, client, requests=REQUESTS, connections=32).finish()
    counted = nginx.counts()
    lab.finish(reducer, *collectors)
    exported = Exported(lab.sink.points())

    assert counted.requests == REQUESTS
    assert counted.response_bytes == response_bytes
    there = {"source__process__name": "wrk", "source__id": client.name, "dest__process__name": "nginx"}
    back = {"source__process__name": "nginx", "source__id": server.name, "dest__process__name": "wrk"}
    assert exported.total("tcp.new_sockets", **there) == counted.accepted
    assert exported.total("tcp.closed_sockets", **there) == counted.accepted
    assert exported.total("tcp.bytes", **there) == counted.request_bytes
    assert exported.total("tcp.bytes", **back) == counted.response_bytes
    assert exported.total("http.requests", **there) == exported.total("http.requests") == REQUESTS
    assert exported.total("http.status_code", status_code="200", **there) == REQUESTS
    # Each connection once, on the series from the connecting end; and no byte under another name.
    assert exported.total("tcp.new_sockets", **back) == 0
    for source, dest, expected in ((client, server, counted.request_bytes), (server, client, counted.response_bytes)):
        assert exported.total("tcp.bytes", source__ip=source.ipv4, dest__ip=dest.ipv4) == expected
    both_ways = [
        exported.total("tcp.bytes", "az_az", source__process__name=source, dest__process__name=dest)
        for source, dest in (("wrk", "nginx"), ("nginx", "wrk"))
    ]
    assert both_ways == [counted.request_bytes, counted.response_bytes]
