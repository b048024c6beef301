"""Variables of the environment that nobody reads, though they look as if somebody should."""

from __future__ import annotations

import difflib
import re
from typing import TYPE_CHECKING

from daemon.errors import StartupError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    import click

# Kubernetes tells each container of services by SERVICE_SERVICE_HOST, SERVICE_PORT_8000_TCP and so on.
_OF_SERVICES = re.compile(r"(SERVICE_(HOST|PORT)|PORT)(_|$)")
_NEARLY = 0.9


def variables_of(command: click.Command) -> list[str]:
    """Return the variables that the options of a command are read from."""
    named = [parameter.envvar for parameter in command.params if parameter.envvar]
    return [variable for names in named for variable in ([names] if isinstance(names, str) else names)]


def check_variables(names: Iterable[str], known: Sequence[str], prefix: str) -> None:
    """Look for variables with this prefix whose names are nearly one that is known.

    Others that begin alike are no business of this daemon: Kubernetes makes some of the names of services.

    Raises:
        StartupError: there is one; the message says which may have been meant.

    """
    for name in sorted(names):
        if name in known or not name.startswith(prefix) or _OF_SERVICES.match(name, len(prefix)):
            continue
        close = difflib.get_close_matches(name, known, 1, _NEARLY)
        if close:
            raise StartupError(f"the variable {name} is no option's: is {close[0]} meant?")
