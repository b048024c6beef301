"""The command `ebpf-net`, for what spans the daemons."""

from __future__ import annotations

from daemon.parts import part

with part("reducer"):
    import asyncio
    import logging
    import sys
    from dataclasses import replace
    from pathlib import Path
    from typing import Any

    import click

    from console.query import FORMATS, query
    from console.replay import replay
    from console.run import run_and_show
    from daemon.command import Group
    from daemon.errors import exits_on_startup_error
    from daemon.logs import configure_logs, log_options
    from daemon.version import VERSION
    from intake.clock import SECOND_NS
    from reducer.options import VARIABLE_PREFIX, reducer_options, settings_from


@click.group(cls=Group, context_settings={"help_option_names": ["-h", "--help"], "show_default": True})
@click.version_option(VERSION)
def main() -> None:
    """Who talks to whom, how much, how fast and how badly."""


@main.command()
@reducer_options
@log_options
@exits_on_startup_error
def run(**arguments: Any) -> None:
    """Run a reducer and a kernel collector on this machine, and show what flows there are.

    The options are the reducer's; loopback traffic is always counted, and counters are read each second.
    """
    settings, log_arguments = settings_from(arguments)
    configure_logs(**log_arguments | {"no_log_file": True})
    asyncio.run(run_and_show(replace(settings, keep_loopback=True, poll_interval_ns=SECOND_NS)))


@main.command("query")
@click.argument("sql")
@click.option(
    "--parquet-dir",
    envvar=f"{VARIABLE_PREFIX}PARQUET_DIR",
    show_envvar=True,
    required=True,
    metavar="DIRECTORY",
    help="What the reducer was given as --parquet-dir, a directory or URL.",
)
@click.option("--format", "output", type=click.Choice(FORMATS), default="table", help="What the answer is printed as.")
@exits_on_startup_error
def query_command(sql: str, parquet_dir: str, output: str) -> None:
    r"""Answer SQL about the flows that a reducer wrote, the table `flows`.

    \b
    ebpf-net query "select source_workload_name, dest_workload_name, sum(bytes) as bytes
                    from flows where date = date '2026-01-31' group by 1, 2 order by bytes desc limit 10"
    """
    click.echo(query(sql, parquet_dir, output), nl=False)


@main.command("replay")
@click.argument("recordings", nargs=-1, required=True, type=click.Path(path_type=Path, dir_okay=False))
@reducer_options
@log_options
@exits_on_startup_error
def replay_(recordings: tuple[Path, ...], **arguments: Any) -> None:
    """Play RECORDINGS of kernel-collector --record through a reducer, and print the metrics as OTLP's JSON.

    Nothing is waited for: the time is that of the recordings. The options are the reducer's; those of its
    connections do nothing.
    """
    settings, log_arguments = settings_from(arguments)
    configure_logs(**log_arguments | {"no_log_file": True})
    to_errors = logging.StreamHandler(sys.stderr)  # the lines alone are the output
    to_errors.setLevel(logging.WARNING)
    logging.getLogger().addHandler(to_errors)
    for line in replay(recordings, settings):
        click.echo(line)
