"""Which organisation's autonomous system a public address is in, by a database in MaxMind's format."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import maxminddb
import numpy as np

from daemon.errors import StartupError
from intake.addresses import address_text
from reducer.knowledge.timeline import place_of

if TYPE_CHECKING:
    from pathlib import Path

NO_SYSTEM = 0
# An address that was looked up takes about 150 bytes.
MOST_ADDRESSES = 1 << 18
_ORGANISATION = "autonomous_system_organization"
# Parts of the names of kinds of databases that have it.
_WITH_ORGANISATIONS = ("ASN", "ISP", "Enterprise")
_LOGGER = logging.getLogger(__name__)


class AutonomousSystems:
    """The database at *path*; each address is looked up once as long as it is remembered.

    Attributes:
        organisations: by number; empty at `NO_SYSTEM`.

    Raises:
        StartupError: the database cannot be read.

    """

    def __init__(self, path: Path) -> None:
        try:
            self._database = maxminddb.open_database(path)
        except (OSError, maxminddb.InvalidDatabaseError, ValueError) as error:
            reason = (isinstance(error, OSError) and error.strerror) or "it is no database of MaxMind's"
            raise StartupError(
                f"the database of autonomous systems {path} (--geoip-path, GEOIP_PATH) cannot be read: {reason}; "
                "give a GeoLite2-ASN.mmdb, or none"
            ) from error
        kind = self._database.metadata().database_type
        if not any(known in kind for known in _WITH_ORGANISATIONS):
            _LOGGER.warning(
                "%s (--geoip-path, GEOIP_PATH) is a %s, which may have no organisations: a GeoLite2-ASN has", path, kind
            )
        self.organisations = [""]
        self._number: dict[str, int] = {"": NO_SYSTEM}
        self._of: dict[bytes, int] = {}

    def of(self, address: np.ndarray) -> np.ndarray:
        """Return the numbers of the organisations, uint32, of addresses, (n, 2) uint64."""
        _, first, which = np.unique(place_of(address), return_index=True, return_inverse=True)
        if len(self._of) + len(first) > MOST_ADDRESSES:
            self._of.clear()
        text = np.ascontiguousarray(address[first]).tobytes()
        numbers = [self._look_up(text[at : at + 16]) for at in range(0, len(text), 16)]
        return np.array(numbers, np.uint32)[which]

    def close(self) -> None:
        """Close the database."""
        self._database.close()

    def _look_up(self, address: bytes) -> int:
        known = self._of.get(address)
        if known is None:
            try:
                record = self._database.get(address_text(address))
            except (maxminddb.InvalidDatabaseError, ValueError):
                record = None  # a damaged branch, or a database without IPv6
            organisation = record.get(_ORGANISATION) if isinstance(record, dict) else None
            known = self._numbered(organisation if isinstance(organisation, str) else "")
            self._of[address] = known
        return known

    def _numbered(self, organisation: str) -> int:
        number = self._number.setdefault(organisation, len(self.organisations))
        if number == len(self.organisations):
            self.organisations.append(organisation)
        return number
