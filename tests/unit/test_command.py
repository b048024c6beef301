import errno
import os
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

from daemon.command import Command, options


def test_options_are_added_in_their_order_also_several_at_once():
    pair = options(click.option("--first"), click.option("--second"))

    @click.command
    @options(pair, click.option("--third"))
    def main(**arguments):
        click.echo(arguments)

    shown = CliRunner().invoke(main, ["--help"]).output
    assert shown.index("--first") < shown.index("--second") < shown.index("--third")
    said = CliRunner().invoke(main, ["--second", "2"]).output
    assert said == "{'second': '2', 'first': None, 'third': None}\n"


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_output_that_cannot_be_written_ends_a_command_with_one_line(unbuffered):
    main = "import click; from daemon.command import Command; click.command(cls=Command)(lambda: click.echo('a'))()"
    with Path("/dev/full").open("wb") as full:
        ended = subprocess.run(
            [sys.executable, "-c", main],
            env=os.environ | {"PYTHONUNBUFFERED": unbuffered},
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
    said = "error: cannot write the output: No space left on device; make room, or write it elsewhere\n"
    assert (ended.stderr, ended.returncode) == (said, 1)


def test_what_else_fails_in_a_command_is_not_its_output():
    @click.command(cls=Command)
    def main():
        Path("/dev/full").write_bytes(b"a")

    assert CliRunner().invoke(main).exception.errno == errno.ENOSPC


@pytest.mark.parametrize("daemon", ["kernel_collector", "k8s_collector", "cloud_collector", "reducer", "console"])
def test_every_command_is_one_that_can_say_so(daemon):
    assert isinstance(import_module(f"{daemon}.cli").main, Command)
