import click
from click.testing import CliRunner

from daemon.command import options


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
