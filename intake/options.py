"""What collectors have in common on the command line: where the reducer is, and the operator's labels."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from daemon.command import options
from daemon.config_file import check_keys, read_config_file
from daemon.errors import StartupError
from daemon.logs import LOG_FILE_VARIABLE
from daemon.variables import check_variables, variables_of
from intake.credentials import ClientCredentials, client_credential_options, client_credentials
from intake.labels import LABEL_VARIABLES, operator_labels

if TYPE_CHECKING:
    from collections.abc import Mapping

DEFAULT_INTAKE_HOST = "127.0.0.1"
DEFAULT_INTAKE_PORT = 8000
_PORTS = range(1, 65536)
_CREDENTIALS = ("intake_tls_ca", "intake_tls_certificate", "intake_tls_key", "intake_token_file")


@dataclass(frozen=True)
class IntakeSettings:
    """Where the reducer is, and what the collector says and shows to it.

    Attributes:
        host: of the reducer.
        port: of the reducer.
        labels: of the operator, as `operator_labels` gives them.
        credentials: what the collector shows to the reducer, and asks of it.

    """

    host: str = DEFAULT_INTAKE_HOST
    port: int = DEFAULT_INTAKE_PORT
    labels: dict[str, str] = field(default_factory=dict)
    credentials: ClientCredentials = field(default_factory=ClientCredentials)


def intake_settings(arguments: dict[str, Any], environ: Mapping[str, str]) -> IntakeSettings:
    """Return what the arguments of a command ask for.

    An option comes before its variable, that before the configuration file, and that before the default.

    Raises:
        StartupError: the host, the configuration file, a label or a file of credentials cannot be used.

    """
    path = arguments["config_file"]
    config = read_config_file(path, ("labels", "intake")) if path else {}
    intake = config.get("intake") or {}
    if not isinstance(intake, dict):
        raise StartupError(f"{path}: intake must be a mapping with host and port, not {intake!r}")
    check_keys(intake, ("host", "port"), f"{path}: intake")
    host = _host(arguments["intake_host"] or str(intake.get("host") or DEFAULT_INTAKE_HOST))
    port = arguments["intake_port"] or intake.get("port") or DEFAULT_INTAKE_PORT
    if not isinstance(port, int) or port not in _PORTS:
        raise StartupError(f"{path}: intake: port must be a number from 1 to 65535, not {port!r}")
    return IntakeSettings(
        host=host,
        port=port,
        labels=operator_labels(config.get("labels") or {}, environ),
        credentials=client_credentials(host, **{name: arguments[name] for name in _CREDENTIALS}),
    )


def _host(text: str) -> str:
    host = text.removeprefix("[").removesuffix("]")  # an IPv6 address as in a URL
    if "/" in host or "]" in host or " " in host or host.count(":") == 1 or not host or not host.isprintable():
        message = f"the reducer's host (--intake-host, EBPF_NET_INTAKE_HOST) is a name or an address, not {text!r}"
        raise StartupError(f"{message}; its port goes into --intake-port (EBPF_NET_INTAKE_PORT)")
    return host


intake_options = options(
    click.option(
        "--intake-host",
        envvar="EBPF_NET_INTAKE_HOST",
        show_envvar=True,
        help=f"Name or address of the reducer.  [default: {DEFAULT_INTAKE_HOST}]",
    ),
    click.option(
        "--intake-port",
        type=click.IntRange(_PORTS.start, _PORTS.stop - 1),
        envvar="EBPF_NET_INTAKE_PORT",
        show_envvar=True,
        help=f"Port of the reducer.  [default: {DEFAULT_INTAKE_PORT}]",
    ),
    click.option(
        "--config-file", type=click.Path(path_type=Path), help="YAML with `labels:` and `intake: {host, port}`."
    ),
    client_credential_options,
)
"""Add the options to a click command; its arguments are for `intake_settings`."""


def check_collector_variables(command: click.Command, environ: Mapping[str, str], *prefixes: str) -> None:
    """Look for variables of collectors, or with one of *prefixes*, whose names are nearly one that *command* reads.

    Raises:
        StartupError: there is one; the message says which may have been meant.

    """
    known = [*variables_of(command), *LABEL_VARIABLES.values(), LOG_FILE_VARIABLE]
    for prefix in ("EBPF_NET_", *prefixes):
        check_variables(environ, known, prefix)
