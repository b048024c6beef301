"""TLS, mutual TLS and bearer tokens of both ends, from command line options."""

from __future__ import annotations

import hmac
import ipaddress
import logging
import ssl
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import grpc

from daemon.errors import StartupError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

_LOGGER = logging.getLogger(__name__)
_HEADER = "authorization"
_SCHEME = "Bearer "

_CLIENT_OPTIONS = (
    ("tls-ca", "Certificates of the authorities that the reducer's certificate is checked with; switches TLS on."),
    ("tls-certificate", "This collector's certificate, for a reducer that asks for one (mutual TLS)."),
    ("tls-key", "The private key of the certificate."),
    ("token-file", "A file with the token that the reducer asks for."),
)
SERVER_OPTIONS = (
    ("tls-certificate", "The reducer's certificate, with those of its issuers; switches TLS on."),
    ("tls-key", "The private key of the certificate."),
    ("tls-client-ca", "Take only collectors whose certificate is from these authorities (mutual TLS)."),
    ("token-file", "Take only collectors that show the token in this file."),
)
"""Names and descriptions of the reducer's options; their values, paths or None, are for `server_credentials`."""


@dataclass(frozen=True)
class ClientCredentials:
    """What a collector shows and asks for, by gRPC or by HTTP: plaintext and no token where empty."""

    channel: grpc.ChannelCredentials | None = None
    token: str = field(default="", repr=False)
    tls: ssl.SSLContext | None = None

    @property
    def metadata(self) -> tuple[tuple[str, str], ...]:
        """The metadata of a call, or headers of a request."""
        return ((_HEADER, _SCHEME + self.token),) if self.token else ()


@dataclass(frozen=True)
class ServerCredentials:
    """What the reducer shows and asks for: plaintext and no token where empty."""

    server: grpc.ServerCredentials | None = None
    token: str = field(default="", repr=False)

    def admits(self, metadata: Iterable[tuple[str, str | bytes]] | None) -> bool:
        """Tell whether a call's metadata has the token, in a time that does not depend on how much of it is right."""
        if not self.token:
            return True
        shown = next((value for key, value in metadata or () if key == _HEADER), "")
        shown = shown if isinstance(shown, bytes) else shown.encode()
        return hmac.compare_digest(shown, (_SCHEME + self.token).encode())


def client_credential_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the collectors' options to a click command; its `intake_...` arguments are for `client_credentials`."""
    for name, text in reversed(_CLIENT_OPTIONS):
        variable = f"EBPF_NET_INTAKE_{name.upper().replace('-', '_')}"
        path = click.Path(path_type=Path)
        command = click.option(f"--intake-{name}", type=path, envvar=variable, show_envvar=True, help=text)(command)
    return command


def client_credentials(
    host: str,
    *,
    intake_tls_ca: Path | None,
    intake_tls_certificate: Path | None,
    intake_tls_key: Path | None,
    intake_token_file: Path | None,
) -> ClientCredentials:
    """Return the credentials for the reducer at *host*.

    Raises:
        StartupError: a file cannot be read or is not what it should be, or an option lacks its companion.

    """
    if (intake_tls_certificate is None) != (intake_tls_key is None):
        raise StartupError("--intake-tls-certificate and --intake-tls-key go together: give both or neither")
    if intake_tls_certificate and not intake_tls_ca:
        raise StartupError("--intake-tls-certificate needs --intake-tls-ca, which switches TLS on")
    token = _read_token(intake_token_file) if intake_token_file else ""
    if intake_tls_ca is None:
        if token and not _is_loopback(host):
            _LOGGER.warning("the token goes to %s in clear text: give --intake-tls-ca to switch TLS on", host)
        return ClientCredentials(None, token)
    authorities = _read_authorities(intake_tls_ca)
    tls = ssl.create_default_context(cafile=intake_tls_ca)
    key, chain = None, None
    if intake_tls_certificate and intake_tls_key:
        key, chain = _read_pair(intake_tls_certificate, intake_tls_key)
        tls.load_cert_chain(intake_tls_certificate, intake_tls_key)
    return ClientCredentials(grpc.ssl_channel_credentials(authorities, key, chain), token, tls)


def server_credentials(
    *, tls_certificate: Path | None, tls_key: Path | None, tls_client_ca: Path | None, token_file: Path | None
) -> ServerCredentials:
    """Return the reducer's credentials.

    Raises:
        StartupError: a file cannot be read or is not what it should be, or an option lacks its companion.

    """
    if (tls_certificate is None) != (tls_key is None):
        raise StartupError("--tls-certificate and --tls-key go together: give both or neither")
    token = _read_token(token_file) if token_file else ""
    if not tls_certificate or not tls_key:
        if tls_client_ca:
            raise StartupError("--tls-client-ca needs --tls-certificate and --tls-key, which switch TLS on")
        return ServerCredentials(None, token)
    pair = _read_pair(tls_certificate, tls_key)
    authorities = _read_authorities(tls_client_ca) if tls_client_ca else None
    server = grpc.ssl_server_credentials([pair], authorities, require_client_auth=authorities is not None)
    return ServerCredentials(server, token)


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise StartupError(f"cannot read {path}: {error.strerror}") from error


def _read_token(path: Path) -> str:
    token = _read(path).strip()
    if not token or not token.isascii() or not token.decode().isprintable():
        raise StartupError(f"{path} must hold a token: one line of printable ASCII characters")
    return token.decode()


def _read_authorities(path: Path) -> bytes:
    authorities = _read(path)
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(path)
    except ssl.SSLError as error:
        raise StartupError(f"{path} holds no certificates in PEM format: {error.reason or error}") from error
    return authorities


def _read_pair(certificate: Path, key: Path) -> tuple[bytes, bytes]:
    """Return the key and the certificate, once they are known to belong together."""
    pair = _read(key), _read(certificate)
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(certificate, key, password="")
    except ssl.SSLError as error:
        raise StartupError(
            f"{certificate} and {key} are no certificate and key in PEM format that belong together, "
            f"without a passphrase: {error.reason or error}"
        ) from error
    return pair


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"
