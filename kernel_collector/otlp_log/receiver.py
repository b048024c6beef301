"""Posts one request to a receiver of OTLP logs, and says what became of it (OTLP specification, "OTLP/HTTP").

http.client, in a thread of whoever calls: neither redirects nor proxies are followed, answers are bounded.
"""

from __future__ import annotations

import http.client
import time
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from typing import TYPE_CHECKING

from google.protobuf.message import DecodeError
from opentelemetry.proto.collector.logs.v1.logs_service_pb2 import ExportLogsServiceResponse

from daemon.cut_off import cut_off_after
from daemon.export_outcome import Accepted, Outcome, Refused, Unavailable
from daemon.version import VERSION
from kernel_collector.text import printable

if TYPE_CHECKING:
    from intake.credentials import ClientCredentials

PATH = "/v1/logs"
TIMEOUT_S = 10.0
_MOST_ANSWER_BYTES = 64 << 10
_LONGEST_REASON = 300
_RETRYABLE = {
    HTTPStatus.TOO_MANY_REQUESTS,
    HTTPStatus.BAD_GATEWAY,
    HTTPStatus.SERVICE_UNAVAILABLE,
    HTTPStatus.GATEWAY_TIMEOUT,
}
_HEADERS = (
    ("content-type", "application/x-protobuf"),
    ("content-encoding", "gzip"),
    ("user-agent", f"ebpf-net-kernel-collector/{VERSION}"),
)


class LogReceiver:
    """A receiver at a host and port, by a connection that is kept; `send` is called by one thread at a time.

    Attributes:
        url: of the receiver.
        bytes_sent: in the bodies of requests.
        bytes_received: in those of answers.

    """

    def __init__(self, host: str, port: int, credentials: ClientCredentials) -> None:
        host = host.strip("[]")
        address = f"[{host}]" if ":" in host else host
        self.url = f"http{'s' if credentials.tls else ''}://{address}:{port}{PATH}"
        self.bytes_sent = self.bytes_received = 0
        self._headers = dict((*_HEADERS, *credentials.metadata))
        self._connection = (
            http.client.HTTPSConnection(host, port, timeout=TIMEOUT_S, context=credentials.tls)
            if credentials.tls
            else http.client.HTTPConnection(host, port, timeout=TIMEOUT_S)
        )

    def send(self, body: bytes) -> Outcome:
        """Post an ExportLogsServiceRequest, compressed by gzip, once."""
        kept = self._connection.sock is not None
        try:
            with cut_off_after(TIMEOUT_S, lambda: [self._connection.sock]):
                return self._send(body)
        except (OSError, http.client.HTTPException) as error:
            self.close()
            if kept and isinstance(error, http.client.RemoteDisconnected | ConnectionError):
                return self.send(body)  # it had closed an idle connection
            return Unavailable(_one_line(str(error) or type(error).__name__))

    def close(self) -> None:
        """Give up the connection."""
        self._connection.close()

    def _send(self, body: bytes) -> Outcome:
        self._connection.request("POST", PATH, body, self._headers)
        self.bytes_sent += len(body)
        with self._connection.getresponse() as response:
            answer = response.read(_MOST_ANSWER_BYTES)
            self.bytes_received += len(answer)
            if not response.isclosed():  # there is more: the next answer would begin with it
                self.close()
        if response.status == HTTPStatus.OK:
            return _accepted(answer)
        reason = _one_line(f"{response.status} {response.reason}")
        if response.status in _RETRYABLE:
            return Unavailable(reason, _seconds(response.headers.get("retry-after", "")))
        return Refused(reason)


def _accepted(answer: bytes) -> Accepted:
    try:
        partial = ExportLogsServiceResponse.FromString(answer).partial_success
    except DecodeError:
        # It was answered with success: what was answered besides does not take that back.
        return Accepted()
    return Accepted(max(partial.rejected_log_records, 0), _one_line(partial.error_message))


def _seconds(retry_after: str) -> float:
    """Return the seconds of a Retry-After header, in either of its forms (RFC 9110, 10.2.3); 0 if it is none."""
    if retry_after.strip().isdecimal():
        return float(retry_after)
    try:
        return max(0.0, parsedate_to_datetime(retry_after).timestamp() - time.time())
    except ValueError:
        return 0.0


def _one_line(text: str) -> str:
    return " ".join(printable(text).split())[:_LONGEST_REASON]
