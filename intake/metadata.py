"""How collectors that tell of addresses, and of no flows, tell the reducer, and end."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from ebpf_net.v1 import intake_pb2

from daemon.version import VERSION
from intake.client import IntakeClient
from intake.labels import labelled_host

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from intake.options import IntakeSettings

_LOGGER = logging.getLogger(__name__)
FINISH_TIMEOUT_S = 5.0


def metadata_client(
    kind: intake_pb2.CollectorKind,
    name: str,
    intake: IntakeSettings,
    snapshot: Callable[[], Iterable[intake_pb2.Entities]],
) -> IntakeClient:
    """Return a client, not connected yet, of a collector of a kind and name; *snapshot* as `IntakeClient` takes it."""
    hello = intake_pb2.Hello(kind=kind, version=VERSION, host=labelled_host(name, intake.labels))
    return IntakeClient(intake.host, intake.port, hello, snapshot, intake.credentials)


async def finish(client: IntakeClient) -> None:
    """Have the reducer take what is left, for a while."""
    if client.session.welcomed and not await client.finish(FINISH_TIMEOUT_S):
        _LOGGER.warning("the reducer did not take all within %.0f s", FINISH_TIMEOUT_S)
