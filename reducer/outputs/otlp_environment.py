"""What OTEL_EXPORTER_OTLP_* say, by OpenTelemetry's specification, "OpenTelemetry Protocol Exporter".

OpenTelemetry's exporters read these variables too, but some of them otherwise: to that over gRPC `none` is no
compression but an error, and a client's certificate nothing without authorities; what is no header is written to the
log, secret as it may be. So they are given what is read here.
"""

from __future__ import annotations

import contextlib
import logging
import math
import os
import re
import ssl
from dataclasses import dataclass
from ipaddress import IPv6Address
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from daemon.errors import StartupError

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator

    from reducer.outputs.request import Signal

_LOGGER = logging.getLogger(__name__)
_PREFIX = "OTEL_EXPORTER_OTLP_"
_HOST = re.compile(r"[\w-]+(\.[\w-]+)*\.?")
_HOST_AND_PORT = re.compile(r"[\w.-]+:\d+")
_SCHEME = re.compile(r"^https?:/*")
_DEFAULT_TIMEOUT_S = 10.0
# By the specification milliseconds; to OpenTelemetry's exporters in Python seconds. Nobody gives a receiver less than a
# tenth of a second, or more than a minute and a half.
_LEAST_TIMEOUT_MS = 100
# RFC 9110, 5.6.2 and 5.5, without what is no ASCII.
_HEADER_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9a-z-]+")
_HEADER_VALUE = re.compile(r"[\t\x20-\x7e]*")
# gRPC over HTTP/2, "Custom-Metadata", of which names in -bin are for bytes.
_GRPC_NAME = re.compile(r"[0-9a-z_.-]+(?<!-bin)")
_GRPC_VALUE = re.compile(r"[\x20-\x7e]*")


@dataclass(frozen=True)
class OtlpVariables:
    """What the variables say of one signal; what they do not say is None, or the specification's default.

    Attributes:
        compression: `none`, or another of those asked for.
        client_key: where there is a certificate: the certificate's own file, if no other was named.

    """

    headers: dict[str, str]
    timeout_s: float
    compression: str
    insecure: bool | None
    authorities: str | None
    client_certificate: str | None
    client_key: str | None


def otlp_variables(signal: Signal, protocol: str, compressions: Collection[str]) -> OtlpVariables:
    """Return what the variables say of *signal*, which is sent by *protocol*.

    Raises:
        StartupError: one has a value that cannot be used; the message does not show what may be secret.

    """
    _forget_empty()
    variable, compression = _variable(signal, "COMPRESSION", "none")
    if compression.lower() not in compressions:
        raise StartupError(f"{variable} is {compression!r}: {' and '.join(compressions)} are known")
    variable, insecure = _variable(signal, "INSECURE")
    if insecure.lower() not in {"", "true", "false"}:
        raise StartupError(f"{variable} is {insecure!r}: true and false are known")
    return OtlpVariables(
        _headers(*_variable(signal, "HEADERS"), protocol),
        _timeout_s(*_variable(signal, "TIMEOUT")),
        compression.lower(),
        insecure.lower() == "true" if insecure else None,
        *_certificates(signal),
    )


def warn_of_other_protocols(signals: Iterable[Signal], protocol: str) -> None:
    """Warn of each variable that asks for another protocol than the one in use."""
    _forget_empty()
    for variable, asked in dict(_variable(signal, "PROTOCOL") for signal in signals).items():
        if asked not in {"", protocol}:
            _LOGGER.warning("%s is %r, which does nothing here: the options ask for %s", variable, asked, protocol)


def named_values(text: str) -> Iterator[tuple[int, str, str]]:
    """Yield places, names and values of what is NAME=VALUE between commas, percent-encoded; no name without a `=`."""
    for place, entry in enumerate(text.split(","), 1):
        if entry.strip():
            name, equals, value = entry.partition("=")
            yield place, unquote(name).strip() if equals else "", unquote(value).strip()


def http_endpoint(signal: Signal) -> str:
    """Return the URL that a signal goes to over HTTP.

    Raises:
        StartupError: it is no such URL.

    """
    _forget_empty()
    if own := os.environ.get(_name(signal, "ENDPOINT")):
        return checked_url(own)
    base = checked_url(os.environ.get(f"{_PREFIX}ENDPOINT", "http://localhost:4318"))
    return f"{base.removesuffix('/')}/v1/{signal}"


def checked_url(url: str) -> str:
    """Return a URL of HTTP, without what is blank around it.

    Raises:
        StartupError: it is none; the message does not show what may be secret.

    """
    url = url.strip()
    with contextlib.suppress(ValueError):
        parts = urlsplit(url)
        host = parts.hostname or ""
        # Only addresses of IPv6 have colons here; ends of lines within it are passed over when it is split.
        is_host = ":" in host or _HOST.fullmatch(host)
        if parts.scheme in {"http", "https"} and is_host and parts.port != 0 and url.isprintable():
            return url
    raise StartupError(
        f"the OTLP endpoint {_shown(url)!r} must be http://HOST:PORT or https://HOST:PORT, with or without a path"
    )


def host_of_url(host: str) -> str:
    """Return a name or an address as URLs have it.

    Raises:
        StartupError: it is neither.

    """
    with contextlib.suppress(ValueError):
        return f"[{IPv6Address(host.removeprefix('[').removesuffix(']'))}]"
    if not _HOST.fullmatch(host):
        raise StartupError(
            f"{host!r} is no name or address; the port is --otlp-grpc-metrics-port, and "
            "a URL is for OTEL_EXPORTER_OTLP_ENDPOINT"
        )
    return host


def checked_target(url: str) -> str:
    """Return where OTLP over gRPC goes: a URL of HTTP, or HOST:PORT.

    Raises:
        StartupError: it is neither; the message does not show what may be secret.

    """
    url = url.strip()
    if _HOST_AND_PORT.fullmatch(url):
        return checked_url(f"http://{url}").removeprefix("http://")
    if "@" in urlsplit(checked_url(url)).netloc:
        raise StartupError(
            f"the OTLP endpoint {without_secrets(url)!r} has a user before its host, which gRPC has not: give "
            f"{_PREFIX}HEADERS what the receiver asks for, such as authorization=Basic%20…"
        )
    return url


def without_secrets(url: str) -> str:
    """Return a URL without the user, password, query and fragment that it may have."""
    parts = urlsplit(url)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2], query="", fragment="").geturl()


def _shown(mistyped: str) -> str:
    """Return what was to be a URL without what stands before an `@` and after a `?`, wherever they are."""
    after_scheme = _SCHEME.sub("", mistyped)
    scheme = mistyped.removesuffix(after_scheme)
    rest, _, query = after_scheme.partition("?")
    user, _, place = rest.rpartition("@")
    if "@" in query:
        return f"{scheme}…"
    return f"{scheme}…@{place}" if user else f"{scheme}{place}"


def _forget_empty() -> None:
    """Take variables that are empty for such as are not set, as the specification has it, whoever reads them."""
    for name in [name for name, value in os.environ.items() if name.startswith(_PREFIX) and not value.strip()]:
        del os.environ[name]


def _name(signal: Signal, what: str) -> str:
    return f"{_PREFIX}{signal.upper()}_{what}"


def _variable(signal: Signal, what: str, default: str = "") -> tuple[str, str]:
    """Return the variable that counts, and its value: the signal's own before that of all."""
    name = _name(signal, what)
    name = name if name in os.environ else f"{_PREFIX}{what}"
    return name, os.environ.get(name, default).strip()


def _headers(variable: str, text: str, protocol: str) -> dict[str, str]:
    headers = {}
    for place, cased, value in named_values(text):
        name = cased.lower()
        if not _HEADER_NAME.fullmatch(name) or not _HEADER_VALUE.fullmatch(value):
            raise StartupError(
                f"{variable} must be NAME=VALUE, with commas between several; number {place} is not: in values write a "
                "comma as %2C, and what else is no plain ASCII in the same way"
            )
        if protocol == "grpc" and not (_GRPC_NAME.fullmatch(name) and _GRPC_VALUE.fullmatch(value)):
            raise StartupError(
                f"{variable}: number {place} is no header of gRPC, whose names have letters, digits, _, . and - alone "
                "and do not end in -bin, and whose values have no tabs"
            )
        headers[name] = value
    # It parses them as well, and logs what it does not understand, secret or not.
    logging.getLogger("opentelemetry.util.re").disabled = True
    return headers


def _timeout_s(variable: str, text: str) -> float:
    if not text:
        return _DEFAULT_TIMEOUT_S
    try:
        number = float(text)
    except ValueError:
        number = math.nan
    if not 0 < number < math.inf:
        raise StartupError(
            f"{variable} is {text!r}: give how long to wait for an answer, in milliseconds, such as 10000"
        )
    return number / 1000 if number >= _LEAST_TIMEOUT_MS else number


def _certificates(signal: Signal) -> tuple[str | None, str | None, str | None]:
    """Return the files of authorities, client certificate and key, which can be loaded."""
    names = ("CERTIFICATE", "CLIENT_CERTIFICATE", "CLIENT_KEY")
    authorities, certificate, key = (_readable(*_variable(signal, name)) for name in names)
    if key and not certificate:
        raise StartupError(f"{_variable(signal, names[2])[0]} names a key, but {_PREFIX}{names[1]} no certificate")
    if certificate and not key:
        key = certificate
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    try:
        if authorities:
            context.load_verify_locations(authorities)
        if certificate:
            context.load_cert_chain(certificate, key)
    except ssl.SSLError as error:
        files = ", ".join(filter(None, (authorities, certificate, key)))
        raise StartupError(
            f"{', '.join(_variable(signal, name)[0] for name in names)} name files of PEM, the last two a certificate "
            f"and its key; {files}: {error.strerror or error}"
        ) from error
    return authorities, certificate, key


def _readable(variable: str, path: str) -> str | None:
    """Return the path that a variable holds, None if it has none."""
    try:
        if path:
            Path(path).read_bytes()
    except OSError as error:
        raise StartupError(f"cannot read {path}, which {variable} names: {error.strerror}") from error
    return path or None
