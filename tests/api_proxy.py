"""What stands in front of an API server, and does what one does not do on demand: cut off, refuse, forget tokens."""

from __future__ import annotations

import contextlib
import http.client
import socket
import ssl
import struct
import threading
from collections import deque
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, NamedTuple
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from collections.abc import Callable

_LINGER_0 = struct.pack("ii", 1, 0)  # close sends a reset


class Fault(NamedTuple):
    """What happens to a request.

    Attributes:
        status: is answered, with *headers* and *body*; 0: the server's answer is, as far as it gets.
        headers: of the answer.
        body: of the answer.
        cut_after: so many bytes of the server's answer, the connection ends.
        reset: whether it ends with a reset.
        until: the second half of *body* waits for it.

    """

    status: int = 0
    headers: tuple[tuple[str, str], ...] = ()
    body: bytes = b"{}"
    cut_after: int = 1 << 40
    reset: bool = False
    until: threading.Event | None = None


class ApiProxy(ThreadingHTTPServer):
    """Forwards to *server*, with *token* in place of the one that it is shown.

    Attributes:
        url: of the proxy.
        faults: of the next requests, in order.
        fault_for: gives the fault of a request by its path and query where *faults* has none.
        accepted: the only token that is taken; None: any.
        asked: path and query of each request.
        shown: the tokens that were shown.

    """

    daemon_threads = True
    block_on_close = False

    def __init__(self, server: str = "http://127.0.0.1:9", token: str = "", ca_file: str | None = None) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.server, self.token = urlsplit(server), token
        self.trust = ssl.create_default_context(cafile=ca_file) if ca_file else None
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.faults: deque[Fault] = deque()
        self.fault_for: Callable[[str], Fault | None] = lambda _: None
        self.accepted: str | None = None
        self.asked: list[str] = []
        self.shown: list[str] = []
        self._thread = threading.Thread(target=self.serve_forever, args=(0.05,), daemon=True)
        self._thread.start()

    def close(self) -> None:
        self.shutdown()
        self.server_close()

    def handle_error(self, *_: object) -> None:
        """Say nothing of connections that were cut."""


class _Handler(BaseHTTPRequestHandler):
    server: ApiProxy

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        proxy = self.server
        proxy.asked.append(self.path)
        shown = self.headers.get("Authorization", "").partition(" ")[2]
        proxy.shown.append(shown)
        if proxy.accepted is not None and shown != proxy.accepted:
            self._answer(Fault(401, body=b'{"kind": "Status", "message": "Unauthorized", "code": 401}'))
            return
        fault = proxy.faults.popleft() if proxy.faults else proxy.fault_for(self.path) or Fault()
        if fault.status:
            self._answer(fault)
        else:
            self._forward(fault)

    def _answer(self, fault: Fault) -> None:
        self.send_response(fault.status)
        for name, value in (*fault.headers, ("Content-Length", f"{len(fault.body)}")):
            self.send_header(name, value)
        self.end_headers()
        half = len(fault.body) // 2 if fault.until else 0
        self.wfile.write(fault.body[:half])
        if fault.until:
            fault.until.wait(10)
        self.wfile.write(fault.body[half:])

    def _forward(self, fault: Fault) -> None:
        proxy = self.server
        host, port = str(proxy.server.hostname), proxy.server.port
        headers = {"Authorization": f"Bearer {proxy.token}", "Accept": self.headers["Accept"]}
        with contextlib.closing(http.client.HTTPSConnection(host, port, context=proxy.trust)) as connection:
            connection.request("GET", self.path, headers=headers)
            with connection.getresponse() as answer:
                self.send_response(answer.status)
                self.send_header("Content-Type", answer.headers["Content-Type"])
                self.end_headers()
                left = fault.cut_after
                while left and (part := answer.read1(min(left, 1 << 16))):
                    self.wfile.write(part)
                    left -= len(part)
        if fault.reset:
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _LINGER_0)
