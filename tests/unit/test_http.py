from __future__ import annotations

import asyncio
import contextlib
import gzip
import socket
import time
import urllib.request
from http.client import HTTPConnection
from types import SimpleNamespace
from typing import TYPE_CHECKING
from urllib.error import HTTPError

import pytest
from aiohttp import web

from daemon.errors import StartupError
from daemon.http import HttpServer, _Idle, health_page, parse_address
from reducer import http
from reducer.columns.series import EndTable
from reducer.columns.value_columns import VALUE_COLUMNS
from reducer.http import flow_metrics_page, internal_metrics_page, takes_gzip
from reducer.internal_export import InternalMetrics
from reducer.internal_metrics import Snapshot
from reducer.outputs.expositions import TEXT
from reducer.outputs.prometheus import PrometheusSeries
from tests.windows import sealed_window

if TYPE_CHECKING:
    from collections.abc import Callable
    from http.client import HTTPResponse

    from daemon.http import Page


def with_server(pages: dict[str, Page], client: Callable[[str], None], address: str = "127.0.0.1:0") -> None:
    """Run *client*, given the server's URL, in a thread."""

    async def main() -> None:
        server = HttpServer("--prom", address, pages)
        port = await server.start()
        try:
            await asyncio.to_thread(client, f"http://{address.rpartition(':')[0]}:{port}")
        finally:
            await server.stop()

    asyncio.run(main())


def get(url: str, **headers: str) -> HTTPResponse:
    return urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=60)


@pytest.fixture
def series() -> PrometheusSeries:
    series = PrometheusSeries()
    rows = [({"workload.name": f"w{i}"}, {"workload.name": "db"}, {"bytes": i}) for i in range(6000)]
    series.observe(sealed_window(EndTable(), {"az_az": rows}))
    return series


@pytest.mark.parametrize("address", ["127.0.0.1:0", "[::1]:0"])
def test_flow_metrics(series: PrometheusSeries, address: str) -> None:
    expected = b"".join(series.render())

    def client(url: str) -> None:
        for _ in range(2):
            with get(f"{url}/metrics") as response:
                assert response.headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"
                assert response.headers["Content-Encoding"] is None
                assert response.read() == expected
        with get(f"{url}/metrics", **{"Accept-Encoding": "gzip"}) as response:
            assert response.headers["Content-Encoding"] == "gzip"
            assert gzip.decompress(response.read()) == expected

    with_server({"/metrics": flow_metrics_page(series)}, client, address)


def test_who_asks_for_the_head_gets_no_more_and_may_ask_again(series: PrometheusSeries) -> None:
    def client(url: str) -> None:
        connection = HTTPConnection(url.removeprefix("http://"), timeout=10)
        for method, body in (("HEAD", b""), ("HEAD", b""), ("GET", b"".join(series.render()))):
            connection.request(method, "/metrics")
            response = connection.getresponse()
            assert (response.status, response.headers["Content-Type"]) == (200, TEXT.content_type)
            assert response.read() == body
        connection.close()

    with_server({"/metrics": flow_metrics_page(series)}, client)


def test_who_does_not_read_is_cut_off(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(http, "SCRAPE_TIMEOUT_S", 2)
    monkeypatch.setattr(http, "MOST_SCRAPES", 1)
    values = dict.fromkeys(VALUE_COLUMNS, 1)
    rows = [({"workload.name": f"w{i}" + 200 * "x"}, {"workload.name": "db"}, values) for i in range(3000)]
    series = PrometheusSeries()
    series.observe(sealed_window(EndTable(), {"az_az": rows}))

    def client(url: str) -> None:
        with socket.socket() as idler:
            idler.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            idler.connect(("127.0.0.1", int(url.rpartition(":")[2])))
            idler.sendall(b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n")
            with get(f"{url}/metrics", **{"Accept-Encoding": "gzip"}) as response:
                assert gzip.decompress(response.read()) == b"".join(series.render())
            idler.settimeout(60)
            body = b"".join(iter(lambda: idler.recv(1 << 20), b""))
            assert body.startswith(b"HTTP/1.1 200")
            assert not body.endswith(b"0\r\n\r\n")  # which would say that this was all

    with_server({"/metrics": flow_metrics_page(series)}, client)
    assert [record.message for record in caplog.records] == [
        "127.0.0.1 has not taken the metrics within 2 s: it is cut off"
    ]


def test_no_series_is_an_empty_page() -> None:
    def client(url: str) -> None:
        with get(f"{url}/metrics") as response:
            assert response.read() == b""

    with_server({"/metrics": flow_metrics_page(PrometheusSeries())}, client)


def test_internal_metrics() -> None:
    metrics = InternalMetrics(lambda: Snapshot({}, []))

    def client(url: str) -> None:
        with get(f"{url}/metrics") as response:
            assert response.headers["Content-Type"].startswith("text/plain; version=0.0.4")
            assert b"\nebpf_net_up{" in response.read()

    with_server({"/metrics": internal_metrics_page(metrics)}, client)


def test_health_says_what_is_wrong() -> None:
    wrong: list[str] = []

    def client(url: str) -> None:
        with get(f"{url}/healthz") as response:
            assert response.read() == b"ok\n"
        wrong.append("no window for 90 s")
        with pytest.raises(HTTPError) as raised:
            get(f"{url}/healthz")
        with raised.value as response:
            assert (response.code, response.read()) == (503, b"no window for 90 s\n")

    with_server({"/healthz": health_page(lambda: wrong[0] if wrong else None)}, client)


def test_other_paths_are_not_found() -> None:
    def client(url: str) -> None:
        with pytest.raises(HTTPError, match="404") as raised:
            get(f"{url}/other")
        raised.value.close()

    with_server({}, client)


def test_port_in_use_names_the_option() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(
            StartupError, match=f"cannot listen at {address}: it is in use; give --internal-prom another"
        ):
            asyncio.run(HttpServer("--internal-prom", address, {}).start())


def test_address_of_another_machine() -> None:
    with pytest.raises(StartupError, match=r"cannot listen at 192\.0\.2\.1:7010: [a-z ]+; give --prom"):
        asyncio.run(HttpServer("--prom", "192.0.2.1:7010", {}).start())


def test_an_address_with_a_name_that_nobody_has() -> None:
    server = HttpServer("--prom", "[fe80::1%nowhere]:7010", {})
    with pytest.raises(
        StartupError, match=r"cannot listen at \[fe80::1%nowhere\]:7010: [A-Z][a-z ]+; give --prom"
    ) as error:
        asyncio.run(server.start())
    assert "unknown error" not in str(error.value).lower()


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("127.0.0.1:7010", ("127.0.0.1", 7010)),
        ("[::1]:7010", ("::1", 7010)),
        ("localhost:0", ("localhost", 0)),
        (":7001", ("", 7001)),
    ],
)
def test_addresses(address: str, expected: tuple[str, int]) -> None:
    assert parse_address("--prom", address) == expected


@pytest.mark.parametrize("address", ["", "7010", "127.0.0.1", "::1:7010", "a:b", "a:70000", "[::1]", "a:1:2"])
def test_what_is_no_address(address: str) -> None:
    with pytest.raises(StartupError, match=r"--prom .* is not ADDR:PORT"):
        parse_address("--prom", address)


@pytest.mark.parametrize(
    ("header", "taken"),
    [
        ("gzip", True),
        ("br, GZIP;q=0.5", True),
        ("gzip;q=1.0, identity", True),
        ("", False),
        ("br", False),
        ("gzip;q=0", False),
        ("gzip; q=0.000, br", False),
        ("x-gzip-like", False),
    ],
)
def test_gzip_is_sent_to_who_takes_it(header: str, *, taken: bool) -> None:
    assert takes_gzip(header) == taken


def test_connections_without_requests_are_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("daemon.http.IDLE_S", 2)

    async def slow(_request: web.Request) -> web.Response:
        await asyncio.sleep(3)
        return web.Response(text="done")

    async def quick(_request: web.Request) -> web.Response:
        return web.Response(text="ok")

    def client(url: str) -> None:
        address = url.removeprefix("http://").split(":")
        where = (address[0], int(address[1]))
        with socket.create_connection(where, timeout=20) as silent, socket.create_connection(where, timeout=20) as half:
            half.sendall(b"GET /quick HTTP/1.1\r\nHost: ")
            used, waiting = HTTPConnection(*where, timeout=20), HTTPConnection(*where, timeout=20)
            waiting.request("GET", "/slow")
            used.connect()
            kept = used.sock
            for _ in range(10):
                used.request("GET", "/quick")
                assert used.getresponse().read() == b"ok"
                time.sleep(0.25)
            assert used.sock is kept
            for idle in (silent, half):
                with contextlib.suppress(ConnectionResetError):
                    assert idle.recv(1) == b""
            assert waiting.getresponse().read() == b"done"
            used.close()
            waiting.close()

    with_server({"/slow": slow, "/quick": quick}, client)


def test_who_has_left_before_a_page_is_begun_gets_none_and_no_error():
    async def page(_):
        raise AssertionError("nobody is there to read it")

    asyncio.run(_Idle().note(SimpleNamespace(transport=None), page))


def test_what_is_no_request_fills_no_log(caplog: pytest.LogCaptureFixture) -> None:
    async def broken(_: web.Request) -> web.Response:
        raise ZeroDivisionError

    def client(url: str) -> None:
        host, port = url.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port)), timeout=10) as connection:
            connection.sendall(b"GET / HTTP/1.1\r\nX: " + b"x" * 20_000 + b"\r\n\r\n")
            assert b"400 Bad Request" in connection.recv(1000)
        assert not caplog.text
        with pytest.raises(HTTPError, match="500"):
            get(f"{url}/broken")

    with_server({"/broken": broken}, client)
    assert "ZeroDivisionError" in caplog.text
