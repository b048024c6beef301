from __future__ import annotations

import pytest

from kernel_collector.workloads.runit import MOST_ANCESTORS, finder, service_of


@pytest.fixture
def proc(tmp_path):
    """runsvdir (2) -> runsv web (3) -> sh (4) -> server (5)."""

    def put(pid, parent, *arguments):
        directory = tmp_path / str(pid)
        directory.mkdir()
        (directory / "stat").write_bytes(b"%d (a) b) S %d 1 1\n" % (pid, parent))
        (directory / "cmdline").write_bytes(b"".join(argument + b"\0" for argument in arguments))

    put(2, 1, b"runsvdir", b"/etc/service")
    put(3, 2, b"/usr/bin/runsv", b"web")
    put(4, 3, b"sh", b"-c", b"runsv other")
    put(5, 4, b"server")
    put(6, 1, b"cron")
    put(7, 2, b"runsv")
    put(8, 7, b"nameless")
    for pid in range(20, 20 + MOST_ANCESTORS + 2):
        put(pid, pid - 1 if pid > 20 else 3, b"deep")
    return tmp_path


@pytest.mark.parametrize(("pid", "service"), [(4, "web"), (5, "web"), (3, ""), (6, ""), (8, ""), (99, ""), (24, "web")])
def test_services(proc, pid, service):
    assert service_of(proc, pid) == service


def test_distant_ancestors_are_not_looked_at(proc):
    assert service_of(proc, 20 + MOST_ANCESTORS + 1) == ""


def test_only_a_machine_with_runit_is_looked_at(proc, tmp_path):
    host = tmp_path / "host"
    host.mkdir()
    assert finder(proc, host)(5) == ""
    (host / "etc" / "service").mkdir(parents=True)
    assert finder(proc, host)(5) == "web"
