"""Docker engines: what answers on a Unix socket as one does (GET /containers/ID/json, no events), and the real one."""

from __future__ import annotations

import contextlib
import json
import shutil
import socketserver
import subprocess
import threading
from http.server import BaseHTTPRequestHandler
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

Answer = bytes | dict
"""The bytes of a whole answer, or the document of a good one."""


def require_docker() -> None:
    """Skip the test where no real engine answers."""
    if not shutil.which("docker") or subprocess.run(["docker", "info"], check=False, capture_output=True).returncode:
        pytest.skip("no Docker engine answers")


class Engine(socketserver.ThreadingUnixStreamServer):
    """Answers with what *answers* gives for a container id; 404 where that is nothing.

    Attributes:
        asked: the container ids, in order.

    """

    daemon_threads = True
    block_on_close = False

    def __init__(self, path: Path, answers: Callable[[str], Answer | None]) -> None:
        self.answers = answers
        self.asked: list[str] = []
        super().__init__(str(path), _Handler)


class _Handler(BaseHTTPRequestHandler):
    server: Engine
    protocol_version = "HTTP/1.1"

    def address_string(self) -> str:
        return "unix"

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        if self.path.startswith("/events?"):
            self.send_error(403)
            return
        container = self.path.removeprefix("/containers/").removesuffix("/json")
        answer = self.server.answers(container)
        self.server.asked.append(container)
        if isinstance(answer, bytes):
            with contextlib.suppress(OSError):  # who asked has had enough of it
                self.wfile.write(answer)
            self.close_connection = True
            return
        body = json.dumps(answer or {"message": f"No such container: {container}"}).encode()
        self.send_response(200 if answer else 404)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


@contextlib.contextmanager
def engine(path: Path, answers: Callable[[str], Answer | None]) -> Iterator[Engine]:
    """Serve at *path* while it is open."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with Engine(path, answers) as server:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        try:
            yield server
        finally:
            server.shutdown()
            path.unlink()
