"""Programs that a test starts: their output is kept, and they end with the test, or with the test run if that dies."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from tests.lab.network import Host

SHOWN_BYTES = 6000


class Program:
    """A running program, in a session of its own, that the kernel kills when the thread that started it is gone.

    Attributes:
        name: of its log file, and in messages.
        pid: of the program itself.
        returncode: None while it runs.

    """

    def __init__(
        self, name: str, command: Sequence[str], log: Path, *, host: Host | None = None, env: Mapping[str, str] = {}
    ) -> None:
        self.name = name
        self.log = log
        with log.open("wb") as output, host.entered() if host else contextlib.nullcontext():
            self._process = subprocess.Popen(
                ["setpriv", "--pdeathsig", "KILL", "--", *command],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=os.environ | env,
                start_new_session=True,
            )
        self.pid = self._process.pid

    def __repr__(self) -> str:
        return f"Program({self.name}, pid {self.pid}, returncode {self.returncode})"

    @property
    def returncode(self) -> int | None:
        return self._process.poll()

    def output(self) -> str:
        """Return all that it has written so far, to either of its outputs."""
        return self.log.read_text(errors="replace")

    def wait_for(self, pattern: str, timeout_s: float = 60.0, *, after: int = 0) -> re.Match[str]:
        """Return the first match of *pattern* in its output from character *after* on.

        Raises:
            AssertionError: it ended, or the time is over, before there was one.

        """
        deadline = time.monotonic() + timeout_s
        while True:
            ended = self.returncode is not None
            if match := re.compile(pattern, re.MULTILINE).search(self.output(), after):
                return match
            assert not ended, f"{self} ended before it wrote {pattern!r}:\n{self.tail()}"
            assert time.monotonic() < deadline, f"{self} has not written {pattern!r}:\n{self.tail()}"
            time.sleep(0.02)

    def wait(self, timeout_s: float = 60.0) -> int:
        """Return its exit status when it has ended by itself."""
        try:
            return self._process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"{self} has not ended after {timeout_s} s:\n{self.tail()}") from None

    def stop(self, with_signal: int = signal.SIGTERM, timeout_s: float = 30.0) -> int:
        """Send a signal, wait for the end, and return the exit status."""
        self._process.send_signal(with_signal)
        return self.wait(timeout_s)

    def pause(self) -> None:
        """Stop it in its tracks, until `resume`."""
        self._process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Let it go on."""
        self._process.send_signal(signal.SIGCONT)

    def kill(self) -> None:
        """Kill it and its children; nothing happens if it has ended."""
        if self.returncode is None:
            os.killpg(self.pid, signal.SIGKILL)
            self._process.wait()

    def tail(self) -> str:
        """Return the last of its output."""
        return self.output()[-SHOWN_BYTES:]


class Programs:
    """Starts programs, with logs in *directory*, and ends those that are left."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.started: list[Program] = []

    def start(self, name: str, *command: str, host: Host | None = None, env: Mapping[str, str] = {}) -> Program:
        """Start a program on *host*, else on the machine itself; *env* adds to the environment of the tests."""
        log = self.directory / f"{len(self.started)}-{name}.log"
        self.started.append(Program(name, command, log, host=host, env=env))
        return self.started[-1]

    def close(self) -> None:
        """Kill what still runs."""
        for program in reversed(self.started):
            program.kill()
