"""Processes that exec, fork, rename themselves, die and have their pids used again are told apart."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from tests.otlp_log_sink import LogSink, log_sink

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.lab.daemons import Lab
    from tests.lab.network import Host
    from tests.lab.programs import Program
    from tests.otlp_log_sink import Record

PORT = 7070
# It sends as many bytes as its last argument says, and waits until the other end has closed.
SEND = f"""
import socket, sys
with socket.create_connection((sys.argv[-2], {PORT})) as connection:
    connection.sendall(bytes(int(sys.argv[-1])))
    connection.shutdown(socket.SHUT_WR)
    connection.recv(1)
"""


class Watched:
    """A host whose sockets a collector tells of to a receiver of the tests."""

    def __init__(self, lab: Lab, sink: LogSink, *options: str) -> None:
        self.host: Host = lab.host("node")
        self.sink = sink
        to_it = ("--intake-encoder", "otlp_log", "--intake-host", "127.0.0.1", "--intake-port", f"{sink.port}")
        self.collector: Program = lab.start_collector(
            lab.centre, self.host, connected=False, options=(*to_it, *options)
        )
        self.collector.wait_for("it takes records")
        with self.host.entered():
            self.listener = socket.create_server((self.host.ipv4, PORT))

    def run(self, code: str, *arguments: str, program: str = sys.executable) -> int:
        """Run Python code in a process on the host, take what it sends, and return its pid."""
        with self.host.entered():
            child = subprocess.Popen([program, "-c", code, *arguments])
        self.take()
        assert child.wait(60) == 0
        return child.pid

    def take(self) -> None:
        """Read one connection to its end."""
        self.listener.settimeout(60)
        connection, _ = self.listener.accept()
        with connection:
            while connection.recv(1 << 16):
                pass

    def senders(self) -> dict[int, Record]:
        """End the collector; return the first record of each connecting socket by the bytes that it sent."""
        assert self.collector.stop(signal.SIGTERM) == 0, self.collector.tail()
        rows: dict[int, Record] = {}
        sent: dict[int, int] = {}
        for row in self.sink.of("ebpf_net.tcp", network__peer__port=PORT):
            cookie = row.attributes["ebpf_net.socket.cookie"]
            rows.setdefault(cookie, row)
            sent[cookie] = sent.get(cookie, 0) + row.attributes.get("ebpf_net.tcp.bytes_sent", 0)
        return {sent[cookie]: row for cookie, row in rows.items()}

    def process(self, row: Record) -> dict[str, object]:
        """Return what is told of the process of a row."""
        [told] = self.sink.of("ebpf_net.process", ebpf_net__process__id=row.attributes["ebpf_net.process.id"])
        return told.attributes


@contextmanager
def watched(lab: Lab, *options: str) -> Iterator[Watched]:
    with ExitStack() as stack:
        with lab.centre.entered():
            sink = stack.enter_context(log_sink())
        found = Watched(lab, sink, *options)
        stack.callback(found.listener.close)
        yield found


def test_a_process_is_told_with_its_parent_and_command_line(lab: Lab) -> None:
    with watched(lab) as host:
        pid = host.run(SEND, host.host.ipv4, "1000")
        row = host.senders()[1000]
        told = host.process(row)
        assert (row.attributes["process.pid"], told["process.parent_pid"]) == (pid, os.getpid())
        assert told["process.command_line"].startswith(f"{sys.executable} -c")
        assert row.attributes["process.executable.name"] == told["process.executable.name"]


def test_no_command_line_is_told_where_none_is_wanted(lab: Lab) -> None:
    with watched(lab, "--command-line-length", "0") as host:
        host.run(SEND, host.host.ipv4, "1000")
        told = host.process(host.senders()[1000])
        assert "process.command_line" not in told
        assert told["process.executable.name"].startswith("python")


def test_what_a_process_becomes_by_exec_fork_and_rename(lab: Lab, tmp_path: Path) -> None:
    """Its connections bear the name that it had when it made them, and a child's are the child's."""
    after = tmp_path / "after.py"
    after.write_text(SEND)
    script = f"""
import ctypes, os, sys
def send(size):
    if os.fork() == 0:
        sys.argv[-1] = str(size)
        exec({SEND!r})
        os._exit(0)
    assert os.wait()[1] == 0
    sys.argv[-1] = str(size + 1)
    exec({SEND!r})
send(1000)
ctypes.CDLL(None).prctl(15, b"renamed")
send(2000)
program = os.path.realpath(sys.executable)
os.execv(program, ["other-name", {str(after)!r}, sys.argv[-2], "3000"])
"""
    with watched(lab) as host:
        with host.host.entered():
            child = subprocess.Popen([sys.executable, "-c", script, host.host.ipv4, "0"])
        for _ in range(5):
            host.take()
        assert child.wait(60) == 0
        rows = host.senders()
        assert sorted(rows) == [1000, 1001, 2000, 2001, 3000]
        names = {size: row.attributes["process.executable.name"] for size, row in rows.items()}
        pids = {size: row.attributes["process.pid"] for size, row in rows.items()}
        assert pids[1001] == pids[2001] == pids[3000] == child.pid
        assert child.pid not in {pids[1000], pids[2000]}
        assert names[1000] == names[1001] == Path(sys.executable).name
        assert names[2000] == names[2001] == "renamed"
        assert names[3000].startswith("python")
        told = {size: host.process(row) for size, row in rows.items()}
        assert told[1000]["process.command_line"] == told[1001]["process.command_line"]
        assert told[1000]["process.parent_pid"] == told[2000]["process.parent_pid"] == child.pid
        assert told[3000]["process.command_line"] == f"other-name {after} {host.host.ipv4} 3000"
        assert told[3000]["process.creation.time"] == told[1001]["process.creation.time"]
        assert len({row.attributes["ebpf_net.process.id"] for row in rows.values()}) == 5


# It runs a command in a child with a pid that nobody has, and ends as the child does. It is a program with one thread:
# where there are more, a child of clone() may wait for ever for a lock that another thread had.
SPAWN_AS = """
import ctypes, os, signal, sys
CLONE3 = 435  # of every architecture (include/uapi/asm-generic/unistd.h)
NAMES = "flags pidfd child_tid parent_tid exit_signal stack stack_size tls set_tid set_tid_size"
class Arguments(ctypes.Structure):  # struct clone_args (include/uapi/linux/sched.h)
    _fields_ = [(name, ctypes.c_uint64) for name in NAMES.split()]
wanted = ctypes.c_int(int(sys.argv[1]))
arguments = Arguments(exit_signal=signal.SIGCHLD, set_tid=ctypes.addressof(wanted), set_tid_size=1)
started = ctypes.PyDLL(None, use_errno=True).syscall(CLONE3, ctypes.byref(arguments), ctypes.sizeof(arguments))
if started == 0:
    os.execv(sys.argv[2], sys.argv[2:])
if started < 0:
    sys.exit(os.strerror(ctypes.get_errno()))
assert started == wanted.value
sys.exit(os.waitstatus_to_exitcode(os.waitpid(started, 0)[1]))
"""


def test_a_pid_that_is_used_again_is_another_process(lab: Lab, tmp_path: Path) -> None:
    """Also where both have the same name."""
    with watched(lab) as host:
        pid = host.run(SEND, host.host.ipv4, "1000")
        with host.host.entered():
            again = (f"{pid}", sys.executable, "-c", SEND, host.host.ipv4, "2000")
            spawned = subprocess.Popen([sys.executable, "-c", SPAWN_AS, *again], stderr=subprocess.PIPE, text=True)
        host.take()
        assert spawned.communicate(timeout=60) == (None, "")
        assert spawned.returncode == 0
        rows = host.senders()
        first, second = (host.process(rows[size]) for size in (1000, 2000))
        assert first["process.pid"] == second["process.pid"] == pid
        assert first["process.executable.name"] == second["process.executable.name"]
        assert first["ebpf_net.process.id"] != second["ebpf_net.process.id"]
        assert first["process.creation.time"] < second["process.creation.time"]
