"""A recorded collector, played again: what its core submits, without a machine and without waiting."""

from __future__ import annotations

import contextlib
import logging
from typing import TYPE_CHECKING, NamedTuple

from kernel_collector.core import CollectorCore
from kernel_collector.outside import played
from kernel_collector.replay.recording import Player
from kernel_collector.replay.transcript import TranscriptEndError, TranscriptError, TranscriptReader

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from ebpf_net.v1 import intake_pb2

    from intake.columns import Tables

_LOGGER = logging.getLogger(__name__)
_MOMENTS = {"begin", "poll", "drain", "take_cgroups"}


class Submission(NamedTuple):
    """What the core gave its client: see `CollectorSession.submit`."""

    time_unix_ns: int
    entities: intake_pb2.Entities
    tables: Tables
    statistics: intake_pb2.CollectorStatistics | None


class RecordedCollector:
    """The collector of a recording.

    Args:
        path: of the recording.

    Attributes:
        host: that it was on.

    Raises:
        StartupError: the file cannot be read, or is no recording.
        TranscriptError: it is damaged, or of another version.

    """

    def __init__(self, path: Path) -> None:
        self._reader = TranscriptReader(path)
        self._player = Player(iter(self._reader))
        made_with = self._player.begin()
        self.host: intake_pb2.Host = made_with["host"]
        self._longest_command_line: int = made_with["longest_command_line"]
        self._every_container: bool = made_with["every_container"]

    def submissions(self) -> Iterator[Submission]:
        """Yield all that is submitted, in order; where the recording was cut off, until then.

        Raises:
            TranscriptError: it is damaged, or of another version.

        """
        submitted: list[Submission] = []
        outside = played(self._player, lambda *given: submitted.append(Submission(*given)))
        with contextlib.closing(self._reader):
            try:
                core = CollectorCore(
                    outside,
                    self.host,
                    longest_command_line=self._longest_command_line,
                    every_container=self._every_container,
                )
                while (moment := self._player.next_moment()) is not None:
                    _call(core, moment)
                    yield from submitted
                    submitted.clear()
            except TranscriptEndError as error:
                _LOGGER.warning("what was recorded last is left out: %s", error)


def _call(core: CollectorCore, moment: str) -> None:
    name, _, number = moment.partition(" ")
    if name in _MOMENTS:
        getattr(core, name)()
    elif name == "drain_concern" and number.isdecimal():
        core.drain_concern(int(number))
    else:
        raise TranscriptError(f"the recording has a moment {moment}: another version made it")
