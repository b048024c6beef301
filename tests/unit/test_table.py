import fcntl
import io
import os
import pty
import struct
import termios

import pytest

from console.table import LiveTable, byte_rate, plain_line, printable, table_lines
from reducer.live import Pair

PAIRS = [Pair("wget", "nginx", 1234567.0, 250.0, 3, 12), Pair("a" * 100, "b" * 100, 5.0, None, 0, 0)]


class Terminal(io.StringIO):
    """Says that it is a terminal of a size."""

    def __init__(self, columns, lines):
        super().__init__()
        self._master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))
        self._slave = slave

    def isatty(self):
        return True

    def fileno(self):
        return self._slave

    def close(self):
        os.close(self._master)
        os.close(self._slave)
        super().close()


@pytest.fixture
def terminal():
    made = Terminal(80, 10)
    yield made
    made.close()


@pytest.mark.parametrize("width", [60, 80, 200])
def test_lines_fit_the_width(width):
    lines = table_lines(PAIRS, width)
    assert len(lines) == 3
    assert {len(line) for line in lines} <= {width, width - 1} or width < 68
    assert "1.2 MB" in lines[1]
    assert "0.25 ms" in lines[1]
    assert lines[1].split()[-2:] == ["3", "12"]
    assert "…" in lines[2]


def test_redraws_in_place_and_gives_the_terminal_back(terminal):
    with LiveTable(terminal, ["metrics at :7010"]) as table:
        assert terminal.getvalue() == "\x1b[?1049h\x1b[?25l"
        table.show(PAIRS)
        table.show(PAIRS[:1])
    screens = terminal.getvalue().split("\x1b[H")
    assert len(screens) == 3
    assert "metrics at :7010" in screens[2]
    assert "wget" in screens[2]
    assert terminal.getvalue().endswith("\x1b[J\x1b[?25h\x1b[?1049l")


def test_gives_the_terminal_back_after_an_error(terminal):
    with pytest.raises(RuntimeError), LiveTable(terminal):
        raise RuntimeError
    assert terminal.getvalue().endswith("\x1b[?1049l")


def test_a_screen_is_never_higher_or_wider_than_the_terminal(terminal):
    with LiveTable(terminal, ["x" * 300]) as table:
        assert table.rows == 6
        table.show(PAIRS * 50)
    screen = terminal.getvalue().split("\x1b[H")[1].split("\x1b[J")[0]
    lines = screen.split("\r\n")
    assert len(lines) == 10
    assert all(len(line.removesuffix("\x1b[K")) <= 80 for line in lines)


def test_says_when_there_is_nothing(terminal):
    with LiveTable(terminal) as table:
        table.show([])
    assert "no traffic yet" in terminal.getvalue()


def test_plain_lines_where_it_is_no_terminal():
    stream = io.StringIO()
    with LiveTable(stream, ["metrics at :7010"]) as table:
        table.show(PAIRS)
        table.show([])
    lines = stream.getvalue().splitlines()
    assert lines[0] == "metrics at :7010"
    assert lines[1].endswith("wget → nginx: bytes/s 1.2 MB, rtt 0.25 ms, retransmits 3, connections 12")
    assert lines[2].endswith(": bytes/s 5 B, retransmits 0, connections 0")
    assert len(lines) == 3
    assert "\x1b" not in stream.getvalue()


def test_names_cannot_command_the_terminal():
    evil = Pair("\x1b]0;owned\x07\n", "b\u202e", 0.0, None, 0, 0)
    assert printable(evil.source) == "?]0;owned??"
    for text in (plain_line(evil), table_lines([evil], 100)[1]):
        assert text.isprintable()


@pytest.mark.parametrize(
    ("rate", "text"),
    [
        (0, "0 B"),
        (999.4, "999 B"),
        (999.6, "1.0 kB"),
        (1500, "1.5 kB"),
        (2.5e9, "2.5 GB"),
        (7e12, "7.0 TB"),
    ],
)
def test_rates(rate, text):
    assert byte_rate(rate) == text
