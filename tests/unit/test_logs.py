import logging
import os
import subprocess
import sys
from logging.handlers import RotatingFileHandler

import pytest

from daemon.logs import LOG_FILE_VARIABLE, PROVOKED, Seldom, configure_logs


def record(text, *values):
    return logging.LogRecord("x", logging.ERROR, __file__, 1, text, values, None)


def test_what_strangers_provoke_is_written_seldom_and_says_how_often_it_happened():
    now = 100.0
    seldom = Seldom(10.0, clock=lambda: now)
    assert seldom.filter(record("first"))
    assert not any(seldom.filter(record("again")) for _ in range(5))
    now = 111.0
    late = record("no %s, 100%%", "room")
    assert seldom.filter(late)
    assert late.getMessage() == "no room, 100% (5 like it left out)"
    now = 122.0
    last = record("last")
    assert seldom.filter(last)
    assert last.getMessage() == "last"


@pytest.fixture
def _root_as_before():
    root = logging.getLogger()
    before = root.handlers, root.level
    filters = {name: logging.getLogger(name).filters for name in PROVOKED}
    yield
    root.handlers, root.level = before
    for name in PROVOKED:
        logging.getLogger(name).filters = filters[name]


@pytest.mark.usefixtures("_root_as_before")
def test_the_log_of_a_daemon_cannot_be_flooded_from_a_port(capsys):
    configure_logs(log_console=True, no_log_file=True)
    for name in PROVOKED:
        for _ in range(100):
            logging.getLogger(name).error("bad request")
    assert capsys.readouterr().out.count("bad request") == len(PROVOKED)


def test_a_log_file_on_a_full_disk_is_told_once_and_the_console_goes_on():
    program = (
        "import logging; from daemon.logs import configure_logs; configure_logs(log_console=True, no_log_file=False)\n"
        "for _ in range(3): logging.getLogger('x').warning('look')"
    )
    said = subprocess.run(
        [sys.executable, "-c", program],
        env=os.environ | {"EBPF_NET_LOG_FILE_PATH": "/dev/full"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert said.stdout.count("look") == 3
    assert said.stderr == (
        "error: cannot write the log file /dev/full: [Errno 28] No space left on device; its lines are lost meanwhile\n"
    )


@pytest.mark.usefixtures("_root_as_before")
@pytest.mark.parametrize("file", ["", "a.log"])
def test_an_empty_variable_names_no_file(file, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(LOG_FILE_VARIABLE, file)
    configure_logs(log_console=True, no_log_file=False)
    files = [each for each in logging.getLogger().handlers if isinstance(each, RotatingFileHandler)]
    for each in files:
        each.close()
    assert [each.name for each in tmp_path.iterdir()] == ([file] if file else [])
    assert len(files) == bool(file)
