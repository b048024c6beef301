"""The options of the collector of clouds; names and defaults are the reference's where it has the option."""

from __future__ import annotations

import re
import socket
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import click

from daemon.command import options
from daemon.errors import StartupError
from daemon.logs import log_arguments
from intake.health import internal_prometheus_option
from intake.options import IntakeSettings, intake_options, intake_settings

if TYPE_CHECKING:
    from collections.abc import Mapping

PROVIDERS = ("aws", "gcp", "azure")  # modules of cloud_collector.providers
DEFAULT_INTERNAL_PROMETHEUS = "0.0.0.0:7003"  # probes and scrapers of a cluster come from outside
DEFAULT_POLL_INTERVAL_MS = 30_000
DEFAULT_TIMEOUT_MS = 10_000
DEFAULT_AZURE_ENDPOINT = "https://management.azure.com"
_ROLE = re.compile(r"arn:[a-z0-9-]+:iam::[0-9]{12}:role/.+")


@dataclass(frozen=True)
class Settings:
    """What a collector was asked to do.

    Attributes:
        intake: where the reducer is, and what it is told of this collector.
        hostname: the collector's name.
        providers: those that are asked, by name.
        poll_interval_s: from when one reading of all scopes begins to when the next does.
        timeout_s: of one question to a provider.
        aws_regions: of AWS; none: all that are enabled.
        aws_roles: ARNs of roles that are assumed, each for an account that is read as well.
        aws_external_id: that those roles ask for.
        aws_own_account: whether the account of the credentials themselves is read.
        gcp_projects: of Google; none: that of the credentials.
        gcp_endpoint: of Google's API; empty: the public one.
        azure_subscriptions: of Azure; none: all that the credentials see.
        azure_endpoint: of Azure's resource manager.
        internal_prometheus: `address:port` of the collector's own metrics and its health; empty: nowhere.
        once: print what would be sent, and exit.

    """

    intake: IntakeSettings = field(default_factory=IntakeSettings)
    hostname: str = ""
    providers: tuple[str, ...] = ("aws",)
    poll_interval_s: float = DEFAULT_POLL_INTERVAL_MS / 1000
    timeout_s: float = DEFAULT_TIMEOUT_MS / 1000
    aws_regions: tuple[str, ...] = ()
    aws_roles: tuple[str, ...] = ()
    aws_external_id: str = ""
    aws_own_account: bool = True
    gcp_projects: tuple[str, ...] = ()
    gcp_endpoint: str = ""
    azure_subscriptions: tuple[str, ...] = ()
    azure_endpoint: str = DEFAULT_AZURE_ENDPOINT
    internal_prometheus: str = DEFAULT_INTERNAL_PROMETHEUS
    once: bool = False


def settings_from(arguments: dict[str, Any], environ: Mapping[str, str]) -> tuple[Settings, dict[str, bool]]:
    """Return the settings that the arguments of a command ask for, and the rest, which is for `configure_logs`.

    Raises:
        StartupError: the configuration file, a label, a file of credentials or the name of a role cannot be used, or
            nothing is to be read.

    """
    for role in arguments["aws_assume_role"]:
        if not _ROLE.fullmatch(role):
            example = "arn:aws:iam::123456789012:role/NAME"
            raise StartupError(f"--aws-assume-role {role!r} is no ARN of a role, such as {example}")
    if arguments["aws_assumed_only"] and not arguments["aws_assume_role"]:
        raise StartupError("--aws-assumed-only leaves nothing to read: give --aws-assume-role")
    intake = intake_settings(arguments, environ)
    settings = Settings(
        intake=intake,
        hostname=intake.labels.get("host") or socket.gethostname(),
        providers=tuple(dict.fromkeys(arguments["provider"])) or Settings.providers,
        poll_interval_s=arguments["ec2_poll_interval_ms"] / 1000,
        timeout_s=arguments["aws_timeout"] / 1000,
        aws_regions=arguments["aws_region"],
        aws_roles=arguments["aws_assume_role"],
        aws_external_id=arguments["aws_external_id"],
        aws_own_account=not arguments["aws_assumed_only"],
        gcp_projects=arguments["gcp_project"],
        gcp_endpoint=arguments["gcp_endpoint"],
        azure_subscriptions=arguments["azure_subscription"],
        azure_endpoint=arguments["azure_endpoint"].rstrip("/"),
        internal_prometheus=arguments["internal_prom"],
        once=arguments["once"],
    )
    return settings, log_arguments(arguments)


collector_options = options(
    intake_options,
    click.option(
        "--provider",
        type=click.Choice(PROVIDERS),
        multiple=True,
        envvar="CLOUD_COLLECTOR_PROVIDERS",
        show_envvar=True,
        help="Cloud to ask, aws, gcp or azure; may be given several times.  [default: aws]",
    ),
    click.option(
        "--poll-interval-ms",
        "--ec2-poll-interval-ms",
        "ec2_poll_interval_ms",
        type=click.IntRange(1000, 3_600_000),
        default=DEFAULT_POLL_INTERVAL_MS,
        show_default=True,
        help="How often all is read, milliseconds; what is still being read then is left out.",
    ),
    click.option(
        "--timeout-ms",
        "--aws-timeout",
        "aws_timeout",
        type=click.IntRange(100, 300_000),
        default=DEFAULT_TIMEOUT_MS,
        show_default=True,
        help="How long an answer may take, milliseconds.",
    ),
    click.option(
        "--aws-region", multiple=True, help="Read this region; may be given several times.  [default: all enabled ones]"
    ),
    click.option(
        "--aws-assume-role",
        multiple=True,
        metavar="ARN",
        help="Read the account of this role as well; may be given several times.",
    ),
    click.option("--aws-external-id", default="", help="External id that the roles ask for."),
    click.option("--aws-assumed-only", is_flag=True, help="Do not read the account of the credentials themselves."),
    click.option(
        "--gcp-project",
        multiple=True,
        help="Read this project; may be given several times.  [default: that of the credentials]",
    ),
    click.option(
        "--gcp-endpoint", default="", metavar="URL", help="Google's API, where it is not reached at its public name."
    ),
    click.option(
        "--azure-subscription",
        multiple=True,
        help="Read this subscription; may be given several times.  [default: all that the credentials see]",
    ),
    click.option(
        "--azure-endpoint",
        default=DEFAULT_AZURE_ENDPOINT,
        show_default=True,
        metavar="URL",
        help="Azure's resource manager: national clouds have others.",
    ),
    internal_prometheus_option(DEFAULT_INTERNAL_PROMETHEUS),
    click.option(
        "--once", is_flag=True, help="Print what would be sent as JSON, and exit: with 1 if not all could be read."
    ),
)
"""Add the collector's options to a click command; its arguments are for `settings_from`."""
