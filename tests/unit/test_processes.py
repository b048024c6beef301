from __future__ import annotations

import os
import subprocess
import time
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from kernel_collector.workloads.processes import MOST_EXECS, Origin, ProcessTable, full_name, read_origin
from tests.tcp_records import exec_dtype, tcp_records

BOOT = 1_700_000_000_000_000_000
TICK = 1_000_000_000 // os.sysconf("SC_CLK_TCK")
SECOND = 1_000_000_000


class FakeProc:
    """A /proc whose processes the test chooses."""

    def __init__(self, root):
        self.root = root

    def put(self, pid, start_ns, name, command_line):
        directory = self.root / str(pid)
        directory.mkdir(exist_ok=True)
        (directory / "cmdline").write_bytes(command_line)
        (directory / "comm").write_bytes(name + b"\n")
        stat = b"%d (%s) S %s %d 0 0" % (pid, name, b" ".join([b"7"] * 18), start_ns // TICK)
        (directory / "stat").write_bytes(stat)


@pytest.fixture
def proc(tmp_path):
    return FakeProc(tmp_path)


@pytest.fixture
def table(proc):
    return ProcessTable(partial(read_origin, proc.root), BOOT)


def identify(table, *processes):
    records = tcp_records(*({"pid": pid, "process_start_ns": start, "comm": name} for pid, start, name in processes))
    return table.identify(records).tolist()


def execute(table, pid, start, name, arguments, *, parent=1):
    record = np.zeros(1, exec_dtype())
    record[0]["pid"], record[0]["process_start_ns"], record[0]["comm"] = pid, start, name
    record[0]["parent_pid"] = parent
    record[0]["arguments"], record[0]["arguments_length"] = arguments, len(arguments)
    table.executed(record)


def test_an_id_a_process(table):
    first, none, second, again = identify(
        table, (10, SECOND, b"nginx"), (0, 0, b""), (11, SECOND, b"nginx"), (10, SECOND, b"nginx")
    )
    assert none == 0
    assert sorted({first, second}) == [1, 2]
    assert again == first
    assert identify(table, (10, SECOND, b"nginx")) == [first]


def test_ids_are_given_in_the_order_of_the_records(table):
    pids = [40, 7, 33, 12, 25, 90, 1, 64, 58, 3]
    assert identify(table, *((pid, SECOND, b"x") for pid in pids)) == list(range(1, 11))


def test_what_is_told_of_a_process(table, proc):
    proc.put(10, 5 * SECOND, b"nginx", b"nginx\0-g\0daemon off;\0")
    identify(table, (10, 5 * SECOND, b"nginx"))
    (process,) = table.take_changes()[0]
    assert (process.id, process.pid, process.name, process.command_line) == (1, 10, "nginx", "nginx -g daemon off;")
    assert process.start_time_unix_ns == BOOT + 5 * SECOND


@pytest.mark.parametrize(
    ("name", "arguments", "expected"),
    [
        (b"nginx", b"nginx-of-another-name\0", b"nginx"),
        (b"kernel-collecto", b"/usr/bin/kernel-collector\0--info\0", b"kernel-collector"),
        (b"kernel-collecto", b"/usr/bin/python3\0/opt/bin/kernel-collector\0", b"kernel-collector"),
        (b"fifteen-letters", b"something-else\0fifteen\0", b"fifteen-letters"),
        (b"fifteen-letters", b"", b"fifteen-letters"),
    ],
)
def test_a_name_that_the_kernel_cut_is_made_whole(table, proc, name, arguments, expected):
    assert full_name(name, arguments) == expected
    proc.put(10, SECOND, name, arguments)
    identify(table, (10, SECOND, name))
    assert table.take_changes()[0][0].name == expected.decode()


@pytest.mark.parametrize(
    ("start", "name"), [(5 * SECOND + TICK, b"nginx"), (5 * SECOND, b"sh")], ids=["pid used again", "other program"]
)
def test_command_line_of_another_process_is_not_taken(table, proc, start, name):
    proc.put(10, start, name, b"not mine\0")
    identify(table, (10, 5 * SECOND, b"nginx"))
    assert table.take_changes()[0][0].command_line == ""


def test_pid_used_again_rename_and_exec_give_new_ids(table, proc):
    proc.put(10, SECOND, b"python", b"python\0a.py\0")
    ids = identify(table, (10, SECOND, b"python"))
    ids += identify(table, (10, SECOND, b"renamed"))
    ids += identify(table, (10, 9 * SECOND, b"python"))
    execute(table, 10, SECOND, b"python", b"python\0b.py\0")
    ids += identify(table, (10, SECOND, b"python"))
    assert ids == [1, 2, 3, 4]
    execute(table, 10, SECOND, b"python", b"python\0b.py\0")
    assert identify(table, (10, SECOND, b"python")) == [4]
    assert [process.command_line for process in table.take_changes()[0]] == [
        "python a.py",
        "",
        "",
        "python b.py",
    ]


def test_the_parent_is_that_of_the_exec_else_what_proc_says(table, proc):
    execute(table, 10, SECOND, b"curl", b"curl\0", parent=77)
    proc.put(11, SECOND, b"sh", b"sh\0")  # whose stat says 7
    identify(table, (10, SECOND, b"curl"), (11, SECOND, b"sh"), (12, SECOND, b"gone"))
    assert {process.pid: process.parent_pid for process in table.take_changes()[0]} == {10: 77, 11: 7, 12: 0}


@pytest.mark.parametrize(("length", "expected"), [(0, ""), (9, "curl http"), (256, "curl http://example?token=secret")])
def test_a_command_line_is_as_long_as_the_operator_wants(proc, length, expected):
    table = ProcessTable(partial(read_origin, proc.root), BOOT, longest_command_line=length)
    arguments = b"curl\0http://example?token=secret\0"
    execute(table, 10, SECOND, b"curl", arguments)
    proc.put(11, SECOND, b"curl", arguments)
    identify(table, (10, SECOND, b"curl"), (11, SECOND, b"curl"))
    assert [process.command_line for process in table.take_changes()[0]] == [expected, expected]
    assert table.messages()[0].name == "curl"


def test_command_line_of_a_process_that_is_gone(table):
    execute(table, 10, SECOND, b"curl", b"curl\0http://example\0")
    identify(table, (10, SECOND, b"curl"), (10, SECOND, b"sh"))
    processes = {process.name: process.command_line for process in table.take_changes()[0]}
    assert processes == {"curl": "curl http://example", "sh": ""}


def test_the_latest_execs_are_kept(table):
    for pid in range(1, MOST_EXECS + 2):
        execute(table, pid, SECOND, b"x", b"x\0%d\0" % pid)
    execute(table, 2, SECOND, b"x", b"x\0again\0")
    execute(table, 90_000, SECOND, b"x", b"x\0")
    identify(table, (1, SECOND, b"x"), (2, SECOND, b"x"), (3, SECOND, b"x"), (4, SECOND, b"x"))
    told = {process.pid: process.command_line for process in table.take_changes()[0]}
    assert told == {1: "", 2: "x again", 3: "", 4: "x 4"}


def test_hostile_names(table, proc):
    proc.put(10, SECOND, b"\xff\x1b[31m", b"a\nb\0\xc3\x28\0" + b"z" * 2000)
    identify(table, (10, SECOND, b"\xff\x1b[31m"))
    (process,) = table.take_changes()[0]
    assert process.name == "\ufffd\ufffd[31m"
    assert process.command_line.startswith("a b \ufffd( zzz")
    assert len(process.command_line) == 256


@pytest.mark.parametrize("content", [b"", b"10 (x", b"10 (x) S 1 2 3", b"10 (x) S " + b"x " * 30])
def test_malformed_stat(proc, content):
    proc.put(10, SECOND, b"x", b"secret\0")
    (proc.root / "10" / "stat").write_bytes(content)
    assert read_origin(proc.root, 10, SECOND, b"x") == Origin()


def test_arguments_of_a_real_process():
    child = subprocess.Popen(["sleep", "60"])
    try:
        deadline = time.monotonic() + 10
        while not Path(f"/proc/{child.pid}/cmdline").read_bytes().startswith(b"sleep"):  # set after comm
            assert time.monotonic() < deadline
        ticks = int(Path(f"/proc/{child.pid}/stat").read_text().split()[21])
        assert read_origin(Path("/proc"), child.pid, ticks * TICK + TICK // 2, b"sleep") == Origin(
            b"sleep\x0060\0", os.getpid()
        )
        assert read_origin(Path("/proc"), child.pid, (ticks + 1) * TICK, b"sleep") == Origin()
    finally:
        child.kill()
        child.wait()


def test_changes_are_told_once_and_all_in_a_snapshot(table):
    identify(table, (10, SECOND, b"a"))
    assert [process.id for process in table.take_changes()[0]] == [1]
    table.submitted([1], 1)
    identify(table, (11, SECOND, b"b"))
    assert [process.id for process in table.take_changes()[0]] == [2]
    table.submitted([2], 2)
    assert [process.id for process in table.messages()] == [1, 2]
    assert table.take_changes()[0] == []


def test_retired_when_neither_sockets_nor_unacknowledged_batches_refer_to_it(table):
    (one,), (two,) = identify(table, (10, SECOND, b"a")), identify(table, (11, SECOND, b"b"))
    table.take_changes()
    table.retire([], acknowledged=99)  # announced in no batch yet
    table.submitted([one, two], 3)
    table.retire([one], acknowledged=2)
    table.retire([one, two], acknowledged=3)
    assert len(table) == 2
    table.submitted([two, 777], 4)
    table.retire([one], acknowledged=3)
    assert len(table) == 2
    table.retire([one], acknowledged=4)
    assert table.take_changes()[1] == [two]
    assert table.take_changes()[1] == []
    assert [process.id for process in table.messages()] == [one]
    assert identify(table, (11, SECOND, b"b"), (10, SECOND, b"a")) == [3, one]


def test_no_more_than_the_bound(proc):
    table = ProcessTable(partial(read_origin, proc.root), BOOT, most=1)
    assert sorted(identify(table, (10, SECOND, b"a"), (11, SECOND, b"b"))) == [0, 1]
    assert table.untracked == 1
    table.take_changes()
    table.submitted([], 1)
    table.retire([], acknowledged=1)
    assert identify(table, (11, SECOND, b"b")) == [2]
