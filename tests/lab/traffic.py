"""Real traffic with known totals: iperf3, and wrk against nginx."""

from __future__ import annotations

import json
import re
import signal
import socket
import time
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

from tests.lab.network import wait_for_listener
from tests.lab.sockets import live_sockets, payload, wait_until_closed
from tests.lab.waiting import wait_until
from tests.packages import debian_program

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from tests.lab.network import Host
    from tests.lab.programs import Programs
    from tests.lab.sockets import Socket

DISCARDING_SERVER = """
import socket, sys, threading
def serve(connection):
    while connection.recv(1 << 16): pass
    connection.close()
with socket.create_server(("0.0.0.0", int(sys.argv[1]))) as listener:
    print("listening", flush=True)
    while True: threading.Thread(target=serve, args=[listener.accept()[0]]).start()
"""
"""A Python program that reads what it is sent at the port of its argument, and closes each connection at its end."""

# The first bytes on each of iperf3's data connections name the test (COOKIE_SIZE in iperf.h).
IPERF_COOKIE_BYTES = 37
IPERF_PORT = 5201
HTTP_PORT = 80

NGINX_CONFIGURATION = """
daemon off;
master_process off;
pid nginx.pid;
error_log stderr;
events {{ worker_connections 4096; }}
http {{
  log_format exact '$request_length $bytes_sent $status';
  access_log access.log exact;
  client_body_temp_path body; proxy_temp_path proxy; fastcgi_temp_path fastcgi;
  uwsgi_temp_path uwsgi; scgi_temp_path scgi;
  keepalive_requests 1000000000;
  server {{
    listen {port} backlog=4096 reuseport; listen [::]:{port} backlog=4096 reuseport;
    location / {{ return 200 '{body}'; }}
    location = /204 {{ return 204; }}
    location = /301 {{ return 301 /; }}
    location = /404 {{ return 404 'none'; }}
    location = /503 {{ return 503 'busy'; }}
    location /status {{ stub_status; access_log off; }}
  }}
}}
"""

# A thread of wrk ends by time alone: once its share of requests is sent, each of its connections waits without a word.
WRK_SCRIPT = """
local begun, asked, paths = 0, 0, {}
function init(arguments)
  share = tonumber(arguments[1])
  for i = 2, #arguments do paths[i - 1] = arguments[i] end
end
function request()
  asked = asked + 1
  return wrk.format("GET", paths[asked % #paths + 1])
end
function delay()
  begun = begun + 1
  if begun <= share then return 0 else return 3600000 end
end
function done(summary)
  local errors = summary.errors
  io.write(string.format("requests=%d bytes=%d failed=%d\\n",
    summary.requests, summary.bytes, errors.connect + errors.read + errors.write))
end
"""


class Iperf:
    """An iperf3 server for one test, and its client.

    It moves *size* bytes; releases with threads, from 3.16 on, somewhat more. When the client has written all, it says
    so on the control connection, and the server closes without reading what is still on its way. So that both count
    the same, that word is held back until all has arrived.

    Attributes:
        client_port: of the data connection; any other is the control connection's.

    """

    def __init__(
        self, programs: Programs, server: Host, client: Host, address: str, *, size: int, bitrate: str
    ) -> None:
        self.client_port = 45201
        self._hosts = (client, server)
        self._size = size
        self._server = programs.start("iperf3-server", "iperf3", "--server", "--one-off", "--json", host=server)
        wait_for_listener(server, IPERF_PORT)
        data = ("--cport", f"{self.client_port}", "--bytes", f"{size}")
        command = ("iperf3", "--client", address, *data, "--bitrate", bitrate, "--json")
        self._client = programs.start("iperf3-client", *command, host=client)
        wait_until(lambda: self._data_sent() > IPERF_COOKIE_BYTES, 60, "iperf3 to send")
        held = f"tcp dport {IPERF_PORT} tcp sport != {self.client_port}"
        server.firewall("hold", input_rules=f"{held} drop")

    def finish(self, timeout_s: float = 400.0) -> int:
        """Wait for the end and return the bytes that it reports: those of the data connection but for the cookie.

        Raises:
            AssertionError: one of the two failed, or what was sent is not what was received.

        """
        deadline = time.monotonic() + timeout_s
        before, now = 0, self._data_arrived()
        while before != now or now < self._size:
            assert self._client.returncode is None, self._client.tail()
            assert time.monotonic() < deadline, f"not all of {self._size} bytes have arrived: {self._data_sockets()}"
            time.sleep(0.5)
            before, now = now, self._data_arrived()
        self._hosts[1].firewall("hold")
        for program in (self._client, self._server):
            assert program.wait(timeout_s) == 0, program.tail()
        report = json.loads(self._client.output())["end"]
        assert report["sum_sent"]["bytes"] == report["sum_received"]["bytes"], report
        return report["sum_sent"]["bytes"]

    def _data_sockets(self) -> list[Socket]:
        return [
            s for host in self._hosts for s in live_sockets(host) if self.client_port in (s.local_port, s.remote_port)
        ]

    def _data_sent(self) -> int:
        return payload(self._data_sockets())

    def _data_arrived(self) -> int:
        """Return the bytes sent, 0 while some are on their way or not yet read."""
        sockets = self._data_sockets()
        return 0 if any(socket.queued for socket in sockets) else payload(sockets)


def hand_over(sender: socket.socket, receiver: socket.socket, size: int) -> None:
    """Send *size* bytes, which must fit into the sockets' buffers, and their end; read both at the other end."""
    sender.sendall(bytes(size))
    sender.shutdown(socket.SHUT_WR)
    received = 0
    while data := receiver.recv(1 << 16):
        received += len(data)
    assert received == size


@dataclass(frozen=True)
class NginxCounts:
    """What nginx counted: connections, and the bytes of all requests and responses with their heads."""

    accepted: int
    requests: int
    request_bytes: int
    response_bytes: int


class Nginx:
    """A web server that answers each request with *body_bytes* bytes."""

    def __init__(self, programs: Programs, host: Host, directory: Path, *, body_bytes: int = 600) -> None:
        directory.mkdir()
        self.host = host
        self._access_log = directory / "access.log"
        configuration = directory / "nginx.conf"
        configuration.write_text(NGINX_CONFIGURATION.format(port=HTTP_PORT, body="x" * body_bytes))
        nginx = debian_program("usr/sbin/nginx", "nginx")
        self.program = programs.start("nginx", nginx, "-p", f"{directory}/", "-c", str(configuration), host=host)
        wait_for_listener(host, HTTP_PORT)
        self._own_connections = 0

    def logged(self) -> int:
        """Return how many requests it has answered so far."""
        return self._access_log.read_bytes().count(b"\n")

    def statuses(self) -> Counter[int]:
        """Return how often it has answered with each status so far."""
        return Counter(int(line.split()[2]) for line in self._access_log.read_text().splitlines())

    def counts(self) -> NginxCounts:
        """Return its counts so far; the connections made to ask are left out."""
        self._own_connections += 1
        status = self.host.get(f"http://127.0.0.1:{HTTP_PORT}/status")
        accepted = int(re.search(r"accepts handled requests\s+(\d+)", status)[1])
        lines = [tuple(map(int, line.split())) for line in self._access_log.read_text().splitlines()]
        requests, responses, _ = zip(*lines, strict=True) if lines else ((), (), ())
        return NginxCounts(accepted - self._own_connections, len(lines), sum(requests), sum(responses))


class Wrk:
    """wrk that sends *requests* requests in all to an Nginx, for *paths* in turn; *connection* is the header."""

    THREADS = 2

    def __init__(
        self,
        programs: Programs,
        nginx: Nginx,
        client: Host,
        *,
        requests: int,
        connections: int,
        connection: str = "close",
        paths: Sequence[str] = ("/",),
    ) -> None:
        self._nginx = nginx
        self._client = client
        self._requests = requests
        script = programs.directory / "wrk.lua"
        script.write_text(WRK_SCRIPT)
        command = ("wrk", "--threads", f"{self.THREADS}", "--connections", f"{connections}", "--duration", "10m")
        url = f"http://{nginx.host.ipv4}:{HTTP_PORT}/"
        header, share = f"Connection: {connection}", str(requests // self.THREADS)
        arguments = ("-s", str(script), "-H", header, url, "--", share, *paths)
        self._wrk = programs.start("wrk", *command, *arguments, host=client)

    def finish(self, timeout_s: float = 120.0) -> int:
        """Wait until all is answered and closed; return the bytes of the responses as the client counted them."""
        wait_until(lambda: self._nginx.logged() >= self._requests, timeout_s, "wrk's requests")
        wait_until(self._all_read, timeout_s, "wrk to read the last answers")
        assert self._wrk.stop(signal.SIGINT) == 0
        for host in (self._client, self._nginx.host):
            wait_until_closed(host, HTTP_PORT)
        counts = self._wrk.wait_for(r"requests=(\d+) bytes=(\d+) failed=(\d+)")
        requests, response_bytes, failed = map(int, counts.groups())
        assert (requests, failed) == (self._requests, 0), self._wrk.tail()
        return response_bytes

    def _all_read(self) -> bool:
        return not any(socket.queued for host in (self._nginx.host, self._client) for socket in live_sockets(host))
