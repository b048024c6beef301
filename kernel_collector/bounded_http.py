"""HTTP requests to services of the machine that may be anything: bounded in time and size, and nothing is followed."""

from __future__ import annotations

import http.client
import socket
import time
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any


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
        most_bytes: of an answer's body.

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
        connection = _Connection(self.address, deadline)
        try:
            connection.request(method, path, headers=headers or {})
            with connection.getresponse() as response:
                if response.status != HTTPStatus.OK:
                    raise AnswerError(f"{path}: status {response.status}", response.status)
                body = response.read(self.most_bytes + 1)
        except (http.client.HTTPException, ValueError) as error:
            raise AnswerError(f"{path}: no HTTP: {error!r}") from error
        finally:
            connection.close()
        if len(body) > self.most_bytes:
            raise AnswerError(f"{path}: an answer of more than {self.most_bytes} bytes")
        return Answer(body, {name.lower(): value for name, value in response.headers.items()})


@dataclass(frozen=True)
class Answer:
    """The body and the headers, with names in lower case, of an answer with status 200."""

    body: bytes
    headers: dict[str, str] = field(default_factory=dict)


class _Connection(http.client.HTTPConnection):
    def __init__(self, address: str | tuple[str, int], deadline: float) -> None:
        super().__init__("localhost" if isinstance(address, str) else address[0])
        self._address = address
        self._deadline = deadline

    def connect(self) -> None:
        family = socket.AF_UNIX if isinstance(self._address, str) else socket.AF_INET
        self.sock = _SocketWithDeadline(family, self._deadline)
        self.sock.connect(self._address)


class _SocketWithDeadline(socket.socket):
    """A socket whose calls all end by a time, however many there are."""

    def __init__(self, family: socket.AddressFamily, deadline: float) -> None:
        super().__init__(family, socket.SOCK_STREAM)
        self._deadline = deadline

    def connect(self, address: Any) -> None:
        self._set_time_left()
        super().connect(address)

    def sendall(self, *arguments: Any) -> None:
        self._set_time_left()
        super().sendall(*arguments)

    def recv_into(self, *arguments: Any) -> int:
        self._set_time_left()
        return super().recv_into(*arguments)

    def _set_time_left(self) -> None:
        left = self._deadline - time.monotonic()
        if left <= 0:
            raise TimeoutError("timed out")
        self.settimeout(left)
