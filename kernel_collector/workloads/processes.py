"""Processes by ids that change with every exec and rename, so that a row names what its process was then.

An incarnation is a process between two such changes: pid, start, name and command line. The kernel's records carry the
first three; command line and parent come from the exec or fork event, else from /proc, where they are read once an
incarnation.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from ebpf_net.v1 import intake_pb2

from intake.clock import SECOND_NS
from kernel_collector.columns.fingerprint import fingerprints
from kernel_collector.text import printable
from kernel_collector.workloads.announced import Announced

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable
    from pathlib import Path

MOST_PROCESSES = 65_536
# The latest execs and forks. Only of processes that have ended since is a command line not to be had otherwise.
MOST_EXECS = 8_192
LONGEST_COMMAND_LINE = 256
LONGEST_NAME = 15  # as the kernel keeps it
# Among the first of them is the program that a process is named for: "python -m program" has it third.
_PROGRAM_ARGUMENTS = 3
_CLOCK_TICK_NS = SECOND_NS // os.sysconf("SC_CLK_TCK")
_PARENT_FIELD, _START_FIELD = 1, 19  # of /proc/PID/stat, after the name


class Origin(NamedTuple):
    """What a process was made from: the arguments of its program, each ended by NUL, cut at the end, and its parent."""

    arguments: bytes = b""
    parent_pid: int = 0


class ProcessTable:
    """The incarnations that rows refer to, at most *most*; one beyond that gets the id 0 and is counted.

    Args:
        origin_of: gives what is known of a pid, start (nanoseconds since boot) and name, as `read_origin` does.
        boot_time_unix_ns: when the machine started.
        cgroup_of: gives `Process.cgroup` of a pid.
        service_of: gives `Process.service` of a pid.
        longest_command_line: characters that are told of one, at most 256; 0: none is told.
        most: the bound.

    Attributes:
        untracked: how often an incarnation found no room.

    """

    def __init__(
        self,
        origin_of: Callable[[int, int, bytes], Origin],
        boot_time_unix_ns: int,
        cgroup_of: Callable[[int], int] = lambda _: 0,
        service_of: Callable[[int], str] = lambda _: "",
        *,
        longest_command_line: int = LONGEST_COMMAND_LINE,
        most: int = MOST_PROCESSES,
    ) -> None:
        self.untracked = 0
        self._origin_of = origin_of
        self._boot_time_unix_ns = boot_time_unix_ns
        self._cgroup_of = cgroup_of
        self._service_of = service_of
        self._longest_command_line = longest_command_line
        self._most = most
        self._last_id = 0
        self._told: Announced[intake_pb2.Process] = Announced()
        # By fingerprint of pid, start and name: what the process is now, and what it executed.
        self._current: dict[int, intake_pb2.Process] = {}
        self._execs: dict[int, Origin] = {}

    def __len__(self) -> int:
        return len(self._told)

    def executed(self, records: np.ndarray) -> None:
        """Take `exec_record`s, before the sockets' records that were read after them."""
        columns = (_fingerprints(records), *(records[name] for name in ("arguments", "arguments_length", "parent_pid")))
        for fingerprint, arguments, length, parent in zip(*(column.tolist() for column in columns), strict=True):
            self._execs.pop(fingerprint, None)  # a dict keeps the place of a key that it has
            self._execs[fingerprint] = Origin(arguments[:length], parent)
            if len(self._execs) > MOST_EXECS:
                del self._execs[next(iter(self._execs))]
            current = self._current.get(fingerprint)
            if current and current.command_line != self._command_line(arguments[:length]):
                del self._current[fingerprint]

    def identify(self, records: np.ndarray) -> np.ndarray:
        """Return the id of each `tcp_record`'s process, uint32; 0 where the record has none."""
        marks = _fingerprints(records)
        marks[records["pid"] == 0] = 0
        known, first, which = np.unique(marks, return_index=True, return_inverse=True)
        ids = np.zeros(len(known), np.uint32)
        for i in np.argsort(first).tolist():  # fingerprints have another order in each run
            fingerprint = int(known[i])
            current = self._current.get(fingerprint)
            if current is None and fingerprint:
                current = self._add(fingerprint, records[first[i]])
            ids[i] = current.id if current else 0
        return ids[which]

    def take_changes(self) -> tuple[list[intake_pb2.Process], list[int]]:
        """Return what is new, and the ids that are retired, since the call before."""
        return self._told.take_changes()

    def submitted(self, ids: Iterable[int], batch: int) -> None:
        """Note that *batch* announced what `take_changes` gave last, and that its rows refer to *ids*."""
        self._told.submitted(ids, batch)

    def retire(self, in_use: Collection[int], acknowledged: int) -> None:
        """Retire what neither the sockets *in_use* belong to nor a batch after number *acknowledged* refers to."""
        if self._told.retire(in_use, acknowledged):
            self._current = {key: process for key, process in self._current.items() if process.id in self._told}

    def cgroups(self) -> set[int]:
        """Return the ids of the cgroups that processes refer to."""
        return {process.cgroup for process in self._told.messages()}

    def messages(self) -> list[intake_pb2.Process]:
        """Return all that batches which are not acknowledged, and later rows, may refer to."""
        return self._told.messages()

    def _add(self, fingerprint: int, record: np.void) -> intake_pb2.Process | None:
        if len(self._told) >= self._most:
            self.untracked += 1
            return None
        pid, start_ns, name = int(record["pid"]), int(record["process_start_ns"]), bytes(record["comm"])
        origin = self._execs.get(fingerprint) or self._origin_of(pid, start_ns, name)
        self._last_id += 1
        message = intake_pb2.Process(
            id=self._last_id,
            pid=pid,
            start_time_unix_ns=self._boot_time_unix_ns + start_ns,
            name=printable(full_name(name, origin.arguments)),
            command_line=self._command_line(origin.arguments),
            parent_pid=origin.parent_pid,
            cgroup=self._cgroup_of(pid),
            service=self._service_of(pid),
        )
        self._told.add(message.id, message)
        self._current[fingerprint] = message
        return message

    def _command_line(self, arguments: bytes) -> str:
        return printable(arguments.rstrip(b"\0").replace(b"\0", b" "))[: self._longest_command_line]


def read_origin(proc: Path, pid: int, start_ns: int, name: bytes) -> Origin:
    """Return what /proc says of a process.

    Nothing if it has ended, or if the pid is now another's or has another name: then it has executed something else.
    """
    directory = proc / str(pid)
    try:
        with (directory / "cmdline").open("rb") as file:
            arguments = file.read(4 * LONGEST_COMMAND_LINE)
        fields = (directory / "stat").read_bytes().rpartition(b")")[2].split()
        parent_pid, started = int(fields[_PARENT_FIELD]), int(fields[_START_FIELD])
        present_name = (directory / "comm").read_bytes().removesuffix(b"\n")
    except (OSError, IndexError, ValueError):
        return Origin()
    same = started == start_ns // _CLOCK_TICK_NS and present_name == name
    return Origin(arguments, parent_pid) if same else Origin()


def full_name(name: bytes, arguments: bytes) -> bytes:
    """Return a name that the kernel cut (TASK_COMM_LEN) as it is in the arguments, an interpreter's perhaps."""
    if len(name) < LONGEST_NAME:
        return name
    programs = (argument.rpartition(b"/")[2] for argument in arguments.split(b"\0")[:_PROGRAM_ARGUMENTS])
    return next((program for program in programs if program.startswith(name)), name)


def _fingerprints(records: np.ndarray) -> np.ndarray:
    return fingerprints(records["pid"], records["process_start_ns"], records["comm"])
