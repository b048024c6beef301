"""The command `ebpf-net`, for what spans the daemons."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import Any

import click

from console.run import run_and_show
from daemon.errors import exits_on_startup_error
from daemon.logs import configure_logs, log_options
from daemon.version import VERSION
from intake.clock import SECOND_NS
from reducer.options import reducer_options, settings_from


@click.group(context_settings={"help_option_names": ["-h", "--help"], "show_default": True})
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
