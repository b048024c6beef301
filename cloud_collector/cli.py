"""The command `cloud-collector`."""

from __future__ import annotations

from daemon.parts import part

with part("cloud"):
    import asyncio
    import os
    import sys
    from typing import Any

    import click

    from cloud_collector.collector import collect
    from cloud_collector.once import print_once
    from cloud_collector.options import collector_options, settings_from
    from daemon.command import Command
    from daemon.errors import exits_on_startup_error
    from daemon.logs import configure_logs, log_options
    from daemon.version import VERSION
    from intake.options import check_collector_variables


@click.command(cls=Command, context_settings={"help_option_names": ["-h", "--help"]})
@collector_options
@log_options
@click.version_option(VERSION)
@exits_on_startup_error
def main(**arguments: Any) -> None:
    """Tell the reducer what the addresses of cloud accounts are: instances, load balancers, databases, …."""
    check_collector_variables(main, os.environ, "CLOUD_COLLECTOR_")
    settings, log_arguments = settings_from(arguments, os.environ)
    configure_logs(**log_arguments)
    if settings.once:
        sys.exit(asyncio.run(print_once(settings)))
    asyncio.run(collect(settings))
