"""Where tables of flows are written to besides OTLP: lines of JSON in a file, and Parquet, partitioned by time.

What cannot be written waits, and is tried again with the next window; nothing else waits for it. Windows are
acknowledged to collectors without regard to these files: those that wait are lost if the reducer is killed.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import os
import re
import stat
from collections import deque
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Protocol

import polars as pl

from daemon.errors import StartupError
from daemon.events import set_within
from daemon.threads import in_daemon_thread

_LOGGER = logging.getLogger(__name__)

JSON_LINES_BYTES = 320 << 20
PARQUET_BYTES = 10 << 30
PARQUET_HOURS = 168
# Of the lines of JSON: the one that is written, and those before it.
_FILES = 5
MOST_WAITING_WINDOWS = 8
RETRY_S = 10.0
# Errors of what is written to: a disk, or an object store by way of polars.
_ERRORS = (OSError, pl.exceptions.PolarsError)
# What polars writes to by URL, with a bucket or container.
_STORE = re.compile(r"(s3a?|gs|az|azure|adl|abfss?)://[^/]")
# Inside of a string quotes are escaped, so these are keys.
_NOTHING = re.compile(rb',"\w+":(?:null|0)(?=[,}])')


class FlowFiles(Protocol):
    """A place for tables of flows.

    Attributes:
        name: says in messages where that is.

    """

    name: str

    def write(self, flows: pl.DataFrame) -> None:
        """Write the flows of a window, all or none.

        Raises:
            OSError, PolarsError: they cannot be written now.

        """


@dataclass
class FlowFileStatistics:
    """What was written since the start, and what was lost."""

    windows_written: int = 0
    windows_waiting: int = 0
    windows_dropped: int = 0
    flows_written: int = 0
    flows_dropped: int = 0


class JsonLines:
    """A file with a line of JSON a flow, rotated so that it and those before it take at most *most_bytes*.

    What is 0 or not known is left out of a line.

    Raises:
        StartupError: the file cannot be written.

    """

    def __init__(self, path: Path, most_bytes: int = JSON_LINES_BYTES) -> None:
        self.name = str(path)
        self._most_bytes = most_bytes // _FILES
        # What is no file stays open: who reads a FIFO takes it for ended when it is closed.
        self._pipe: int | None = None
        try:
            with contextlib.suppress(_NoReaderError):
                self._keep(_open_to_append(path))
            # What a link leads to is rotated where that is.
            self._path = path.resolve() if path.is_file() else path
        except OSError as error:
            raise StartupError(
                f"cannot write {path}: {error.strerror}; give --flow-logs-file a file that can be written"
            ) from error

    def write(self, flows: pl.DataFrame) -> None:
        """Append the flows of a window."""
        times = pl.col("window_start", "window_end").dt.strftime("%Y-%m-%dT%H:%M:%S%.3fZ")
        lines = _NOTHING.sub(b"", flows.with_columns(times).write_ndjson().encode())
        with contextlib.suppress(FileNotFoundError):
            size = self._path.stat().st_size if self._path.is_file() else 0
            if size and size + len(lines) > self._most_bytes:
                self._rotate()
        if self._pipe is None:
            self._append(_open_to_append(self._path), lines)
        else:
            self._append(self._pipe, lines)

    def _append(self, file: int, lines: bytes) -> None:
        before = os.fstat(file)
        try:
            _write_all(file, lines)
        except OSError:
            if stat.S_ISREG(before.st_mode):
                os.ftruncate(file, before.st_size)
            os.close(file)
            self._pipe = None
            raise
        self._keep(file)

    def _keep(self, file: int) -> None:
        """Close a file; what is none stays open."""
        if stat.S_ISREG(os.fstat(file).st_mode):
            os.close(file)
        else:
            self._pipe = file

    def _rotate(self) -> None:
        for number in range(_FILES - 1, 0, -1):
            older = self._path if number == 1 else self._rotated(number - 1)
            with contextlib.suppress(FileNotFoundError):
                older.rename(self._rotated(number))

    def _rotated(self, number: int) -> Path:
        return self._path.with_name(f"{self._path.name}.{number}")


class _NoReaderError(OSError):
    """A FIFO that nobody reads, yet."""


def _open_to_append(path: Path) -> int:
    """Open a file, or a FIFO that has a reader: to wait for one could take forever.

    Raises:
        OSError: it cannot be written.

    """
    # In a directory such as /tmp the kernel refuses to create what is there, and another user's (fs.protected_fifos).
    create = 0 if path.exists() else os.O_CREAT
    try:
        file = os.open(path, os.O_WRONLY | os.O_APPEND | create | os.O_NONBLOCK | os.O_CLOEXEC, 0o666)
    except OSError as error:
        if path.is_fifo() and error.errno == errno.ENXIO:
            raise _NoReaderError(errno.ENXIO, "nobody reads from it", str(path)) from error
        if path.is_socket():
            raise OSError(errno.ENXIO, "it is a socket", str(path)) from error
        raise
    os.set_blocking(file, True)
    return file


def _write_all(file: int, data: bytes) -> None:
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(file, rest) :]


class ParquetFiles:
    """A file of Parquet a window below *directory*, at `date=YYYY-MM-DD/hour=HH/`; the oldest go beyond the limits.

    *directory* may be a URL that polars knows, such as `s3://BUCKET/PREFIX`, with credentials from the environment:
    there nothing is removed.

    Raises:
        StartupError: the directory cannot be written, or the URL is of no object store.

    """

    def __init__(self, directory: str, most_bytes: int = PARQUET_BYTES, most_hours: float = PARQUET_HOURS) -> None:
        self.name = directory
        self._directory = None if "://" in directory else Path(directory)
        if self._directory is None and not _STORE.match(directory):
            raise StartupError(
                f"there is no object store {directory}: give --parquet-dir a directory, or a URL such as s3://BUCKET/PREFIX"
            )
        self._most_bytes = most_bytes
        self._most_hours = most_hours
        # Oldest first, with the size of each.
        self._files: deque[tuple[Path, int]] = deque()
        self._bytes = 0
        if self._directory:
            self._open(self._directory)

    def write(self, flows: pl.DataFrame) -> None:
        """Write the flows of a window; one that was written before is replaced."""
        if not len(flows):
            return
        start, end = flows["window_start"][0], flows["window_end"][0]
        partition = f"date={start:%Y-%m-%d}/hour={start:%H}"
        file = f"flows-{_moment(start)}-{_moment(end)}.parquet"
        if self._directory is None:
            _write_to_store(flows, f"{self.name.rstrip('/')}/{partition}/{file}")
            return
        place = self._directory / partition
        place.mkdir(mode=0o750, parents=True, exist_ok=True)
        incomplete = place / f".{file}.incomplete"
        try:
            flows.write_parquet(incomplete)
            incomplete.rename(place / file)
        except BaseException:
            incomplete.unlink(missing_ok=True)
            raise
        size = (place / file).stat().st_size
        self._files.append((place / file, size))
        self._bytes += size
        self._remove_oldest(start)

    def _open(self, directory: Path) -> None:
        try:
            directory.mkdir(mode=0o750, parents=True, exist_ok=True)
            probe = directory / ".writable"
            probe.touch()
            probe.unlink()
            for path in directory.glob("date=*/hour=*/.flows-*.parquet.incomplete"):
                path.unlink()
            for path in sorted(directory.glob("date=*/hour=*/flows-*.parquet")):
                with contextlib.suppress(ValueError):  # not one of ours
                    _hour_end(path)
                    self._files.append((path, path.stat().st_size))
        except OSError as error:
            raise StartupError(
                f"cannot write to {directory}: {error.strerror}; give --parquet-dir a directory that can be written"
            ) from error
        self._bytes = sum(size for _, size in self._files)

    def _remove_oldest(self, now: datetime) -> None:
        oldest = now.timestamp() - self._most_hours * 3600
        while len(self._files) > 1 and (self._bytes > self._most_bytes or _hour_end(self._files[0][0]) < oldest):
            path, size = self._files.popleft()
            path.unlink(missing_ok=True)
            self._bytes -= size
            for partition in (path.parent, path.parent.parent):
                with contextlib.suppress(OSError):  # there is more in it
                    partition.rmdir()


def _write_to_store(flows: pl.DataFrame, url: str) -> None:
    try:
        flows.write_parquet(url)
    except _ERRORS:
        raise
    except Exception as error:
        # Those of a store's own library, such as that there are no credentials, have no class in common.
        raise OSError(str(error) or type(error).__name__) from error


def _moment(time: datetime) -> str:
    return f"{time:%Y%m%dT%H%M%S}{time.microsecond // 1000:03}Z"


def _hour_end(path: Path) -> float:
    """Return when the hour of a file ended, seconds since the epoch.

    Raises:
        ValueError: its directories are not those of an hour.

    """
    return datetime.strptime("/".join(path.parts[-3:-1]) + "+0000", "date=%Y-%m-%d/hour=%H%z").timestamp() + 3600


class FlowWriter:
    """Writes windows to *files* one after the other, beside all else: `put`, and `run` until `finish`.

    At most `MOST_WAITING_WINDOWS` wait; beyond it the oldest is lost.
    """

    def __init__(self, files: FlowFiles) -> None:
        self.name = files.name
        self.statistics = FlowFileStatistics()
        self._files = files
        self._waiting: deque[pl.DataFrame] = deque()
        self._writing: pl.DataFrame | None = None
        self._failing = False
        self._woken = asyncio.Event()
        self._finishing = False

    def put(self, flows: pl.DataFrame) -> None:
        """Have a window written; called in the event loop."""
        self._waiting.append(flows)
        self._limit()
        self._woken.set()

    def finish(self) -> None:
        """Make `run` return when all is written, or something cannot be."""
        self._finishing = True
        self._woken.set()

    async def run(self) -> None:
        """Write what is put."""
        while True:
            self._woken.clear()
            while self._waiting and await self._write(self._waiting.popleft()):
                pass
            if self._finishing:
                break
            await set_within(self._woken, RETRY_S if self._waiting else None)

    def close(self) -> None:
        """Log what is not written: nobody waits for it any longer."""
        count = len(self._waiting) + (self._writing is not None)
        if count:
            _LOGGER.error("%d windows of flows could not be written to %s and are lost", count, self.name)

    async def _write(self, flows: pl.DataFrame) -> bool:
        """Write a window, or let it wait before the others; return whether it was written."""
        self._writing = flows
        try:
            await in_daemon_thread(self._files.write, flows)
        except _ERRORS as error:
            if not self._failing:
                reason = (str(error).splitlines() or [type(error).__name__])[0]
                _LOGGER.error("cannot write flows to %s: %s; all else goes on", self.name, reason)  # noqa: TRY400
            self._failing = True
            self._writing = None
            self._waiting.appendleft(flows)
            self._limit()
            return False
        self._writing = None
        if self._failing:
            self._failing = False
            _LOGGER.warning("flows are written to %s again", self.name)
        self.statistics.windows_written += 1
        self.statistics.flows_written += len(flows)
        self.statistics.windows_waiting = len(self._waiting)
        return True

    def _limit(self) -> None:
        while len(self._waiting) > MOST_WAITING_WINDOWS:
            self._drop_oldest()
        self.statistics.windows_waiting = len(self._waiting)

    def _drop_oldest(self) -> None:
        self.statistics.windows_dropped += 1
        self.statistics.flows_dropped += len(self._waiting.popleft())
        self.statistics.windows_waiting = len(self._waiting)
