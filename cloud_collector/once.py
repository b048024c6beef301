"""What would be sent, as JSON for people and their tools."""

from __future__ import annotations

from itertools import chain
from typing import TYPE_CHECKING

from cloud_collector.inventory import Inventory
from cloud_collector.providers import opened
from cloud_collector.reader import Reader
from intake.readable import print_readable

if TYPE_CHECKING:
    from cloud_collector.options import Settings


async def print_once(settings: Settings) -> int:
    """Read the clouds, print what the reducer would be told, and on standard error what could not be read.

    Returns:
        The exit status: 1 where something could not be read.

    Raises:
        StartupError: a provider's libraries are missing.

    """
    inventory = Inventory()
    reader = Reader([opened(name, settings) for name in settings.providers], inventory)
    await reader.read()
    reader.close()
    missing = chain(reader.failures.values(), *reader.lacking.values())
    return print_readable(inventory.take_changes(), ("cloud_interfaces",), missing)
