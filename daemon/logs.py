"""Where a daemon's log goes: a rotating file, the console, or both.

Options, variable and defaults are the reference's: EBPF_NET_LOG_FILE_PATH, /var/log/ebpf_net.log, 5 files of 1 MiB.
A variable that is empty names no file, as --no-log-file.
"""

from __future__ import annotations

import logging
import os
import sys
import time
from logging.handlers import RotatingFileHandler
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from daemon.errors import StartupError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

LOG_FILE_VARIABLE = "EBPF_NET_LOG_FILE_PATH"
DEFAULT_LOG_FILE = "/var/log/ebpf_net.log"
ROTATED_BYTES = 1 << 20
ROTATED_FILES = 5
TRACE = 5
# Loggers that anybody who reaches a port of the daemon can make write, and how often they do at most.
PROVOKED = ("daemon.http", "asyncio")
PROVOKED_INTERVAL_S = 10.0
# From the most to the least verbose: of several given on the command line the first here wins.
LEVELS = {
    "trace": TRACE,
    "debug": logging.DEBUG,
    "info": logging.INFO,
    "warning": logging.WARNING,
    "error": logging.ERROR,
    "critical": logging.CRITICAL,
}


def log_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the log options to a click command, which gives them to `log_arguments`."""
    for level in reversed(LEVELS):
        command = click.option(f"--{level}", is_flag=True, help=f"Log messages of level {level} and above.")(command)
    no_file = click.option("--no-log-file", is_flag=True, help=f"Do not log to the file (${LOG_FILE_VARIABLE}).")
    to_console = click.option("--log-console", "--console-log", is_flag=True, help="Log to the console.")
    return to_console(no_file(command))


def log_arguments(arguments: Mapping[str, Any]) -> dict[str, bool]:
    """Return those of a command's arguments that are for `configure_logs`."""
    return {name: arguments[name] for name in ("log_console", "no_log_file", *LEVELS)}


def configure_logs(*, log_console: bool, no_log_file: bool, **levels: bool) -> None:
    """Send the log of this process where the options say.

    Raises:
        StartupError: the log file cannot be written.

    """
    logging.addLevelName(TRACE, "TRACE")
    handlers: list[logging.Handler] = []
    if log_console:
        handlers.append(logging.StreamHandler(sys.stdout))
    file = os.environ.get(LOG_FILE_VARIABLE, DEFAULT_LOG_FILE)
    if file and not no_log_file:
        handlers.append(_file_handler(Path(file)))
    formatter = logging.Formatter("%(asctime)s.%(msecs)03dZ %(levelname)s %(name)s: %(message)s", "%Y-%m-%dT%H:%M:%S")
    formatter.converter = time.gmtime
    for handler in handlers:
        handler.setFormatter(formatter)
    root = logging.getLogger()
    root.handlers = handlers or [logging.NullHandler()]
    for name in PROVOKED:
        logger = logging.getLogger(name)
        logger.filters = [
            *(each for each in logger.filters if not isinstance(each, Seldom)),
            Seldom(PROVOKED_INTERVAL_S),
        ]
    root.setLevel(next((number for name, number in LEVELS.items() if levels.get(name)), logging.INFO))


class Seldom(logging.Filter):
    """Lets a record pass if none did for *interval_s*, and lets it tell how many did not."""

    def __init__(self, interval_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._interval_s = interval_s
        self._clock = clock
        self._silent_until = 0.0
        self._left_out = 0

    def filter(self, record: logging.LogRecord) -> bool:
        """Return whether *record* is to be written."""
        now = self._clock()
        if now < self._silent_until:
            self._left_out += 1
            return False
        self._silent_until = now + self._interval_s
        if self._left_out:
            record.msg, record.args = f"{record.getMessage()} ({self._left_out} like it left out)", None
            self._left_out = 0
        return True


class _LogFile(RotatingFileHandler):
    """A log file that may come to fail, as on a full disk: one line on standard error says so, all else goes on."""

    _told = False

    def handleError(self, record: logging.LogRecord) -> None:  # noqa: ARG002, N802
        if not self._told:
            self._told = True
            why = f"{sys.exc_info()[1]}; its lines are lost meanwhile"
            sys.stderr.write(f"error: cannot write the log file {self.baseFilename}: {why}\n")


def _file_handler(path: Path) -> logging.Handler:
    try:
        return _LogFile(path, maxBytes=ROTATED_BYTES, backupCount=ROTATED_FILES)
    except OSError as error:
        raise StartupError(
            f"cannot write the log file {path}: {error.strerror}; "
            f"set {LOG_FILE_VARIABLE} to a file that can be written, or give --no-log-file"
        ) from error
