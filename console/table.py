"""The live table of flows: redrawn in place on a terminal, plain lines elsewhere."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING, Self, TextIO

if TYPE_CHECKING:
    from collections.abc import Sequence

    from reducer.live import Pair

_ENTER = "\x1b[?1049h\x1b[?25l"  # the alternate screen, no cursor
_LEAVE = "\x1b[?25h\x1b[?1049l"
_HOME, _CLEAR_LINE, _CLEAR_BELOW = "\x1b[H", "\x1b[K", "\x1b[J"
_COLUMNS = (("bytes/s", 10), ("rtt", 9), ("retransmits", 11), ("connections", 11))
_NUMBERS_WIDTH = sum(width + 2 for _, width in _COLUMNS)
_NARROWEST_NAME = 8
_MINIMUM_ROWS = 5
_DEFAULT_SIZE = os.terminal_size((100, 30))


class LiveTable:
    """Shows pairs of workloads; a context manager that gives the terminal back as it was."""

    def __init__(self, stream: TextIO, headlines: Sequence[str] = ()) -> None:
        self._stream = stream
        self._headlines = list(headlines)
        self._on_terminal = stream.isatty()
        self._open = False

    def __enter__(self) -> Self:
        self._open = True
        self._write(_ENTER if self._on_terminal else "".join(f"{line}\n" for line in self._headlines))
        return self

    def __exit__(self, *_: object) -> None:
        if self._open and self._on_terminal:
            self._write(_LEAVE)
        self._open = False

    @property
    def rows(self) -> int:
        """How many pairs it can show."""
        return max(_MINIMUM_ROWS, self._size().lines - len(self._headlines) - 3)

    def show(self, pairs: Sequence[Pair]) -> None:
        """Show *pairs* in place of those before; as lines, where it is no terminal."""
        if self._on_terminal:
            self._write(self._screen(pairs))
        else:
            now = time.strftime("%H:%M:%S")
            self._write("".join(f"{now} {plain_line(pair)}\n" for pair in pairs))

    def _screen(self, pairs: Sequence[Pair]) -> str:
        size = self._size()
        lines = [*self._headlines, "", *table_lines(pairs, size.columns)]
        if not pairs:
            lines.append("no traffic yet")
        shown = "\r\n".join(line[: size.columns] + _CLEAR_LINE for line in lines[: size.lines])
        return _HOME + shown + _CLEAR_BELOW

    def _size(self) -> os.terminal_size:
        try:
            size = os.get_terminal_size(self._stream.fileno())
        except OSError:
            return _DEFAULT_SIZE
        return size if size.columns and size.lines else _DEFAULT_SIZE  # a serial line may tell 0 by 0

    def _write(self, text: str) -> None:
        self._stream.write(text)
        self._stream.flush()


def table_lines(pairs: Sequence[Pair], width: int) -> list[str]:
    """Return a heading and a line a pair, *width* columns wide where the names can be cut that short."""
    name_width = max(_NARROWEST_NAME, (width - _NUMBERS_WIDTH - 3) // 2)
    heading = f"{'source':{name_width}} → {'destination':{name_width}}"
    lines = [heading + "".join(f"  {title:>{column}}" for title, column in _COLUMNS)]
    for pair in pairs:
        names = f"{_cut(pair.source, name_width):{name_width}} → {_cut(pair.dest, name_width):{name_width}}"
        cells = zip(_cells(pair), _COLUMNS, strict=True)
        lines.append(names + "".join(f"  {cell:>{column}}" for cell, (_, column) in cells))
    return lines


def plain_line(pair: Pair) -> str:
    """Return a pair as one line of text."""
    cells = ", ".join(f"{title} {cell}" for cell, (title, _) in zip(_cells(pair), _COLUMNS, strict=True) if cell)
    return f"{printable(pair.source)} → {printable(pair.dest)}: {cells}"


def printable(name: str) -> str:
    """Return *name* without what a terminal would obey: names come from the network."""
    return "".join(character if character.isprintable() else "?" for character in name)


def byte_rate(bytes_per_second: float) -> str:
    """Return a rate with a unit by thousands."""
    for unit in ("B", "kB", "MB", "GB"):
        if bytes_per_second < 999.5:  # noqa: PLR2004 - rounds to 1000
            return f"{bytes_per_second:.0f} {unit}" if unit == "B" else f"{bytes_per_second:.1f} {unit}"
        bytes_per_second /= 1000
    return f"{bytes_per_second:.1f} TB"


def _cells(pair: Pair) -> tuple[str, str, str, str]:
    rtt = "" if pair.rtt_us is None else f"{pair.rtt_us / 1000:.2f} ms"
    return byte_rate(pair.bytes_per_second), rtt, str(pair.retransmits), str(pair.connections)


def _cut(name: str, width: int) -> str:
    name = printable(name)
    return name if len(name) <= width else name[: width - 1] + "…"
