"""The APIs of Google Cloud and Azure as far as the collector asks them, with answers as their descriptions have them.

Each is a server that gives pages, counts what is asked, and refuses what it is told to refuse.
"""

from __future__ import annotations

import contextlib
import json
import ssl
import threading
from collections import Counter
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING
from urllib.parse import parse_qs, urlsplit

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@dataclass
class Api:
    """A server; a path is answered with its pages, one after the other.

    Attributes:
        pages: by path, a list of JSON objects.
        refusals: by path, the status and body that it is answered with instead.
        asked: how often each path was asked for.
        authorizations: the headers that came.

    """

    next_page: str
    pages: dict[str, list[dict]] = field(default_factory=dict)
    refusals: dict[str, tuple[int, dict]] = field(default_factory=dict)
    asked: Counter[str] = field(default_factory=Counter)
    authorizations: set[str] = field(default_factory=set)
    url: str = ""

    def answer(self, target: str, authorization: str) -> tuple[int, dict]:
        parts = urlsplit(target)
        self.asked[parts.path] += 1
        self.authorizations.add(authorization)
        if parts.path in self.refusals:
            return self.refusals[parts.path]
        pages = self.pages.get(parts.path)
        if pages is None:
            return 404, {"error": {"code": 404, "message": f"no {parts.path}"}}
        number = int(parse_qs(parts.query).get("pageToken", ["0"])[0])
        page = dict(pages[number])
        if number + 1 < len(pages):
            token = str(number + 1)
            page[self.next_page] = (
                f"{self.url}{parts.path}?pageToken={token}" if self.next_page == "nextLink" else token
            )
        return 200, page


@contextlib.contextmanager
def serving(next_page: str, pair: tuple[str, str] | None = None) -> Iterator[Api]:
    """Serve an API on loopback; *next_page* is the member that tells where the next page is.

    *pair* are files of a certificate and its key, for TLS.
    """
    api = Api(next_page)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            status, body = api.answer(self.path, self.headers.get("Authorization", ""))
            data = json.dumps(body).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, *_arguments: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    if pair:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(*pair)
        server.socket = context.wrap_socket(server.socket, server_side=True)
    api.url = f"{'https' if pair else 'http'}://127.0.0.1:{server.server_port}"
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield api
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def google_credentials(directory: Path, project: str) -> Path:
    """Write the key of a service account, with which tokens are signed without asking anybody."""
    key = rsa.generate_private_key(public_exponent=65537, key_size=2048)
    text = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    ).decode()
    path = directory / "service-account.json"
    path.write_text(
        json.dumps(
            {
                "type": "service_account",
                "project_id": project,
                "private_key_id": "1",
                "private_key": text,
                "client_email": f"collector@{project}.iam.gserviceaccount.com",
                "token_uri": "http://127.0.0.1:1/token",
            }
        )
    )
    return path
