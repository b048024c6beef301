"""HTTP requests to services of the machine that may be anything: bounded in time and size, and nothing is followed."""

from __future__ import annotations

import contextlib
import http.client
import socket
import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

# What may come besides a body: the head, and as much as the body for the lengths of its chunks.
_HEAD_BYTES = 1 << 16
_READING_BUDGET = 20


class AnswerError(Exception):
    """An answer that cannot be used; `status` is 0 where it was no HTTP, or too long."""

    def __init__(self, reason: str, status: int = 0) -> None:
        super().__init__(reason)
        self.status = status


@dataclass(frozen=True)
class Service:
    """Where a service is, and how much it may take.

    Attributes:
        address: path of a Unix socket, or host and port of IPv4.
        most_bytes: of an answer's body, or of a line of one that has no end.

    """

    address: str | tuple[str, int]
    most_bytes: int = 1 << 20

    def fetch(
        self, path: str, deadline: float, *, method: str = "GET", headers: dict[str, str] | None = None
    ) -> Answer:
        """Return the answer, got before *deadline* by time.monotonic().

        Raises:
            OSError: nothing answers there, or not in time.
            AnswerError: the status is not 200, the body is too long, or it is no HTTP.

        """
        with self._answer(method, path, deadline, headers or {}) as (response, _), _http_of(path):
            body = response.read(self.most_bytes + 1)
        if len(body) > self.most_bytes:
            raise AnswerError(f"{path}: an answer of more than {self.most_bytes} bytes")
        return Answer(body, {name.lower(): value for name, value in response.headers.items()})

    @contextmanager
    def follow(self, path: str, deadline: float) -> Iterator[Lines]:
        """Give the lines of an answer that has no end; *deadline*, by time.monotonic(), is that of its head.

        Raises:
            OSError: nothing answers there, or not in time.
            AnswerError: the status is not 200, or it is no HTTP.

        """
        with self._answer("GET", path, deadline, {}) as (response, connected):
            yield Lines(response, connected, path, self.most_bytes)

    @contextmanager
    def _answer(
        self, method: str, path: str, deadline: float, headers: dict[str, str]
    ) -> Iterator[tuple[http.client.HTTPResponse, _BoundedSocket]]:
        local = isinstance(self.address, str)
        with _BoundedSocket(socket.AF_UNIX if local else socket.AF_INET, deadline, self.most_bytes) as connected:
            connected.connect(self.address)
            connection = http.client.HTTPConnection("localhost" if local else self.address[0])
            connection.sock = connected
            with _http_of(path):
                connection.request(method, path, headers=headers)
                response = connection.getresponse()
            with response:
                if response.status != HTTPStatus.OK:
                    raise AnswerError(f"{path}: status {response.status}", response.status)
                yield response, connected


@dataclass(frozen=True)
class Answer:
    """The body and the headers, with names in lower case, of an answer with status 200."""

    body: bytes
    headers: dict[str, str] = field(default_factory=dict)


class Lines:
    """The lines of an answer, as they come; to read and use them takes its thread at most a twentieth of a core."""

    def __init__(
        self, response: http.client.HTTPResponse, connected: _BoundedSocket, path: str, most_bytes: int
    ) -> None:
        self._response = response
        self._connected = connected
        self._path = path
        self._most_bytes = most_bytes
        self._cpu_s = time.thread_time()

    def next(self) -> bytes:
        r"""Wait for the next line and return it, with its \n; empty at the end. One that is too long comes in pieces.

        Raises:
            OSError: the connection broke.
            AnswerError: it is no HTTP.

        """
        self._rest()
        self._connected.bound(None, self._most_bytes)
        with _http_of(self._path):
            return self._response.readline(self._most_bytes)

    def end(self) -> None:
        """End the answer, for a thread that waits for a line as well."""
        with contextlib.suppress(OSError):  # it has ended
            self._connected.shutdown(socket.SHUT_RDWR)

    def _rest(self) -> None:
        before_s, self._cpu_s = self._cpu_s, time.thread_time()
        time.sleep((_READING_BUDGET - 1) * (self._cpu_s - before_s))


class _BoundedSocket(socket.socket):
    """A socket whose calls all end by a time, however many there are, and that receives no more than so much."""

    def __init__(self, family: socket.AddressFamily, deadline: float, most_bytes: int) -> None:
        super().__init__(family, socket.SOCK_STREAM)
        self.bound(deadline, most_bytes)

    def bound(self, deadline: float | None, most_bytes: int) -> None:
        """Set the bounds for what comes now: the time, if there is one, and how long a body may be."""
        self._deadline = deadline
        self._left = _HEAD_BYTES + 2 * most_bytes

    def connect(self, address: Any) -> None:
        self._set_time_left()
        super().connect(address)

    def sendall(self, *arguments: Any) -> None:
        self._set_time_left()
        super().sendall(*arguments)

    def recv_into(self, *arguments: Any) -> int:
        self._set_time_left()
        received = super().recv_into(*arguments)
        # http.client reads a chunk of -1 bytes, and the lines after the last chunk, for as long as there are any.
        self._left -= received
        if self._left < 0:
            raise AnswerError("an answer that is too long")
        return received

    def _set_time_left(self) -> None:
        left = None if self._deadline is None else self._deadline - time.monotonic()
        if left is not None and left <= 0:
            raise TimeoutError("timed out")
        self.settimeout(left)


@contextmanager
def _http_of(path: str) -> Iterator[None]:
    try:
        yield
    except (http.client.HTTPException, ValueError) as error:
        raise AnswerError(f"{path}: no HTTP: {error!r}") from error
