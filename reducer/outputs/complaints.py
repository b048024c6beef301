"""What a receiver, or the way to it, says went wrong: one line that is safe to log, and what may be done about it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from google.protobuf.message import DecodeError
from google.rpc.status_pb2 import Status  # type: ignore[import-untyped]

if TYPE_CHECKING:
    from opentelemetry.exporter.http.transport._base import BaseHTTPResult

MOST_CHARACTERS = 300
_MOST_CAUSES = 10
# What to look at, by what is said.
_HINTS = {
    "not match SSL server name": "the endpoint must have a name that the certificate has",
    "Hostname Verification": "the endpoint must have a name that the certificate has",
    "not valid for": "the endpoint must have a name that the certificate has",
    "CERTIFICATE_VERIFY_FAILED": "is its authority in the file that OTEL_EXPORTER_OTLP_CERTIFICATE names?",
    "WRONG_VERSION_NUMBER": "does it take http:// only?",
    "Failed parsing HTTP/2": "is that its port for OTLP over HTTP?",
    "missing selected ALPN": "is that its port for OTLP over HTTP?",
    "message larger than max": "--otlp-grpc-batch-size makes requests smaller",
    "401 ": "are OTEL_EXPORTER_OTLP_HEADERS right?",
    "403 ": "are OTEL_EXPORTER_OTLP_HEADERS right?",
    "UNAUTHENTICATED": "are OTEL_EXPORTER_OTLP_HEADERS right?",
    "PERMISSION_DENIED": "are OTEL_EXPORTER_OTLP_HEADERS right?",
    "404 ": "is the path of the endpoint that of its OTLP receiver?",
    "413 ": "--otlp-grpc-batch-size makes requests smaller",
}


def with_hint(text: str) -> str:
    """Return what was said as one line, with what to look at, where that is known."""
    line = shortened(text)
    hint = next((hint for said, hint in _HINTS.items() if said in line), "")
    return f"{line}; {hint}" if hint else line


def of_exception(error: BaseException) -> str:
    """Return what the innermost cause says: clients wrap it in what they tried, with addresses of objects."""
    for _ in range(_MOST_CAUSES):
        inner = next(
            (each for each in (getattr(error, "reason", None), *error.args, error.__cause__) if _is_error(each)), None
        )
        if inner is None:
            break
        error = inner
    return with_hint((error.strerror if isinstance(error, OSError) else None) or str(error) or type(error).__name__)


def of_response(result: BaseHTTPResult) -> str:
    """Return what an answer says besides its status."""
    said = f"{result.status_code} {result.reason}"
    if result.status_code and result.status_code // 100 == 3:  # noqa: PLR2004 - redirects
        return shortened(f"{said}: redirects are not followed, this one leads to {result.headers().get('Location')}")
    try:
        message = _message(result)
    except (DecodeError, ValueError, RecursionError):  # the last of JSON that is nested deeply
        message = ""
    return with_hint(f"{said}: {message}" if message else said)


def shortened(text: str) -> str:
    """Return what a receiver said as one line that is safe to log."""
    line = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    return line if len(line) <= MOST_CHARACTERS else f"{line[:MOST_CHARACTERS]}…"


def _message(result: BaseHTTPResult) -> str:
    """Return the message of an answer: by the specification a Status, by what many receivers do text or JSON."""
    content_type = result.headers().get("Content-Type", "").partition(";")[0]
    if content_type == "text/plain":
        return result.text()
    if content_type == "application/json":
        told = result.json()
        return str(told.get("message", told)) if isinstance(told, dict) else str(told)
    return "" if content_type == "text/html" else str(Status.FromString(result.content()).message)


def _is_error(cause: object) -> bool:
    return isinstance(cause, BaseException)
