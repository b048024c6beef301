"""Answers SQL about the flows that a reducer wrote as Parquet."""

from __future__ import annotations

import difflib
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING

import polars as pl
import polars.selectors as cs

from daemon.errors import StartupError
from reducer.outputs.flow_records import SCHEMA

if TYPE_CHECKING:
    from collections.abc import Callable

# What the engine would do to its own view of the files, and say nothing.
# Each comment is taken in one way alone (possessive), else dashes are split in as many ways as there are.
_CHANGE = re.compile(r"(?:\s++|;|--[^\n]*+|(?>/\*.*?\*/))*+(create|delete|drop|truncate)\b", re.IGNORECASE | re.DOTALL)
_UNSUPPORTED = "statement type is not supported"
_ASK_WITH = "ask with SELECT, WITH, EXPLAIN or SHOW TABLES"
_ALL_COLUMNS = "`select * from flows limit 1` shows all columns"
_MISSING_COLUMN = re.compile(r'unable to find column "([^"]+)"')


def query(sql: str, directory: str, output: str = "table") -> str:
    """Return what *sql* says of the table `flows`, the files below *directory* or URL, as one of `FORMATS`.

    Raises:
        StartupError: there are no flows, or *sql* cannot be answered; the message says why.

    """
    if change := _CHANGE.match(sql):
        raise StartupError(
            f"cannot answer: {change[1].upper()} would change nothing: {_ASK_WITH}; "
            "the files are the reducer's, which keeps them for --parquet-hours"
        )
    # Literals and now() of SQL have no time zone, and are not compared with what has one.
    flows = _flows(directory).with_columns(cs.datetime().dt.replace_time_zone(None))
    os.environ["TZ"] = "UTC"  # in which the engine then tells now()
    try:
        found = pl.SQLContext(flows=flows).execute(sql, eager=True)
        return _WRITERS[output](found.with_columns(cs.datetime(time_zone=None).dt.replace_time_zone("UTC")))
    except (pl.exceptions.PolarsError, OSError, ValueError) as error:
        raise StartupError(_explained(error, directory)) from error


def _flows(directory: str) -> pl.LazyFrame:
    if "://" not in directory:
        if not Path(directory).is_dir():
            raise StartupError(f"there is no directory {directory}: give --parquet-dir what the reducer was given")
        if next(Path(directory).glob("date=*/hour=*/*.parquet"), None) is None:
            raise StartupError(f"there are no flows in {directory} yet: the reducer writes them at each window's end")
    return pl.scan_parquet(
        f"{directory.rstrip('/')}/date=*/hour=*/*.parquet",
        schema=SCHEMA,
        hive_schema={"date": pl.Date(), "hour": pl.Int8()},
        missing_columns="insert",
        extra_columns="ignore",
    )


def _explained(error: Exception, directory: str) -> str:
    reason = str(error).split("\n\n")[0].split("; valid columns:")[0]
    text = f"cannot answer: {' '.join(reason.split())}"
    missing = _MISSING_COLUMN.search(str(error))
    if missing:
        near = difflib.get_close_matches(missing[1], [*SCHEMA, "date", "hour"], n=1)
        hint = f"did you mean {near[0]!r}?" if near else _ALL_COLUMNS
        return f"{text}; {hint}"
    if _UNSUPPORTED in text:
        return f"cannot answer: that is no question: {_ASK_WITH}; {_ALL_COLUMNS}"
    if "nested data" in text:
        return f"{text}; --format json does"
    if isinstance(error, OSError):
        return f"{text}; are there flows in {directory}?"
    return text


def _table(found: pl.DataFrame) -> str:
    """Return *found* as text for people, all of it."""
    columns = [[series.name, *map(_cell, series.to_list())] for series in found]
    widths = [max(map(len, column)) for column in columns]
    to_the_right = [dtype.is_numeric() for dtype in found.dtypes]
    rows = (
        "  ".join(
            cell.rjust(width) if right else cell.ljust(width)
            for cell, width, right in zip(row, widths, to_the_right, strict=True)
        ).rstrip()
        for row in zip(*columns, strict=True)
    )
    return "".join(f"{row}\n" for row in rows)


def _json(found: pl.DataFrame) -> str:
    """Return a line for each row; JSON has no number for decimals."""
    return found.with_columns(cs.decimal().cast(pl.Float64)).write_ndjson()


def _cell(value: object) -> str:
    """Return a value as text that a terminal can be shown: names come from the network."""
    return "" if value is None else "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in str(value))


_WRITERS: dict[str, Callable[[pl.DataFrame], str]] = {"table": _table, "csv": pl.DataFrame.write_csv, "json": _json}
FORMATS = tuple(_WRITERS)
"""What an answer may be printed as."""
