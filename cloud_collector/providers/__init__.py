"""The providers, a module each, imported only where it is asked for: each has large libraries of its own."""

from __future__ import annotations

import importlib
import logging
from typing import TYPE_CHECKING

from daemon.errors import StartupError

if TYPE_CHECKING:
    from cloud_collector.options import Settings
    from cloud_collector.provider import Provider

# Their libraries tell of each request, and at level debug what it was signed with.
_TALKATIVE = ("azure", "boto3", "botocore", "google", "msal", "urllib3")


def opened(name: str, settings: Settings) -> Provider:
    """Return a provider: what the `provide` of its module makes of the settings.

    Raises:
        StartupError: its libraries are not installed.

    """
    try:
        module = importlib.import_module(f"cloud_collector.providers.{name}")
    except ImportError as error:
        raise StartupError(f"{error}: install what {name} needs: pip install 'ebpf-net[cloud,{name}]'") from error
    for library in _TALKATIVE:
        logging.getLogger(library).setLevel(logging.WARNING)
    provider: Provider = module.provide(settings)
    return provider
