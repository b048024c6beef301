from __future__ import annotations

from pathlib import Path

import click
import pytest
import yaml
from click.testing import CliRunner

from daemon.errors import StartupError
from daemon.option_table import FILE, FiniteRange, Option, OptionTable

TABLE = OptionTable(
    "TEST_",
    (
        Option("number", ("-n", "--how-many"), "A number.", click.IntRange(1, 9), 3),
        Option("switch", ("--switch",), "On or off."),
        Option("place", ("--place",), "A file.", FILE, variable="PLACE", default_text="the nearest"),
        Option("old", ("--old",), "Nothing is old.", click.INT, 1, ignored=True),
        Option("size", ("--size",), "Of what is there.", click.INT, 5, needs=("place", "switch")),
    ),
)


@click.command()
@TABLE.options
def command(**arguments):
    """Do it."""
    click.echo(repr((arguments, TABLE.ignored(arguments))))


def run(*arguments, exit_code=0, **variables):
    result = CliRunner().invoke(command, arguments, env=variables)
    assert result.exit_code == exit_code, result.output
    return result.output


def values(*arguments, **variables):
    return eval(run(*arguments, **variables), {"PosixPath": Path})


@pytest.fixture
def file(tmp_path):
    def write(text):
        (tmp_path / "config.yaml").write_text(text)
        return str(tmp_path / "config.yaml")

    return write


def test_defaults():
    assert values() == ({"number": 3, "switch": False, "place": None, "old": 1, "size": 5}, [])


def test_command_line_before_variable_before_file_before_default(file):
    path = file("number: 4\nswitch: true\nplace: /file\n")
    told, _ = values("-c", path)
    assert told == {"number": 4, "switch": True, "place": Path("/file"), "old": 1, "size": 5}
    told, _ = values("-c", path, TEST_NUMBER="5", TEST_SWITCH="false", PLACE="/variable")
    assert told == {"number": 5, "switch": False, "place": Path("/variable"), "old": 1, "size": 5}
    told, _ = values("--how-many", "6", "--place", "/option", "-c", path, TEST_NUMBER="5", TEST_PLACE="/variable")
    assert told == {"number": 6, "switch": True, "place": Path("/option"), "old": 1, "size": 5}
    assert values(TEST_PLACE="/made", PLACE="/own")[0]["place"] == Path("/own")


def test_configuration_that_is_printed_can_be_read_again(file):
    text = run("--print-config", "-n", "7", "--place", "/there", "--old", "2")
    assert yaml.safe_load(text) == {"number": 7, "switch": False, "place": "/there", "size": 5}
    assert run("--print-config", "-c", file(text)) == text


@pytest.mark.parametrize("place", ["7", "2024-01-01", "1.50"])
def test_what_yaml_takes_for_no_text_is_text_to_an_option(file, place):
    assert values("-c", file(f"place: {place}"))[0]["place"] == Path(place if place != "1.50" else "1.5")


def test_null_in_a_file_is_the_default(file):
    assert values("-c", file("number: null\nswitch:\n"))[0]["number"] == 3


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("nubmer: 4", "unknown key 'nubmer'; did you mean 'number'?"),
        ("how-many: 4", "unknown key 'how-many'; did you mean 'number'?"),
        ("how_many: 4", "unknown key 'how_many'; did you mean 'number'?"),
        ("number: many", "number: 'many' is not a valid integer range"),
        ("number: 10", "number: 10 is not in the range 1<=x<=9"),
        ("number: 4.5", "number: '4.5' is not a valid integer range"),
        ("number: true", "number must be a value, not True"),
        ("number: [1]", "number must be one value, not a list"),
        ("switch: 7", "switch must be true or false, not 7"),
        ("- number", "must hold a mapping"),
        ("number: 1\nnumber: 2", "key 'number' is there twice"),
        ("number: [", "is not YAML"),
        ("!!map foo", "is not YAML: expected a mapping node, but found scalar"),
    ],
)
def test_files_that_are_refused(file, text, message):
    output = run("-c", file(text), exit_code=1)
    assert message in output
    assert output.startswith("error: ")
    assert output.count("\n") == 1


def test_file_that_is_not_there():
    output = run("-c", "/nowhere", exit_code=1)
    assert output == "error: cannot read the configuration file /nowhere: No such file or directory\n"


def test_variable_that_is_refused_is_named():
    assert "TEST_NUMBER" in run(exit_code=2, TEST_NUMBER="many")


@pytest.mark.parametrize("text", ["nan", "inf", "-inf", "0.5"])
def test_numbers_that_no_range_has_are_refused(text):
    table = OptionTable("TEST_", (Option("seconds", ("--seconds",), "How long.", FiniteRange(min=1), 2.0),))
    asked = click.command()(table.options(lambda **arguments: click.echo(arguments["seconds"])))
    assert CliRunner().invoke(asked, ["--seconds", "1.5"]).output == "1.5\n"
    refused = CliRunner().invoke(asked, [f"--seconds={text}"])
    assert (refused.exit_code, "Invalid value for '--seconds'" in refused.output) == (2, True)


def test_ignored_options_are_told_where_somebody_gave_them(file):
    assert values("--old", "2")[1] == ["--old"]
    assert values("-c", file("old: 2"))[1] == ["--old"]
    assert values("--old", "1")[1] == []
    assert "--old" not in run("--help")


def test_options_without_what_they_need_are_told_as_well():
    assert values("--size", "6")[1] == ["--size (without --place or --switch)"]
    assert values("--size", "6", "--switch")[1] == []
    assert values("--size", "5")[1] == []


def test_help_and_documentation_say_the_same():
    text = " ".join(run("--help").split())
    assert "A file. [env var: PLACE; default: the nearest]" in text
    assert TABLE.documentation(ignored=False).splitlines() == [
        "| option | key | default | |",
        "|---|---|---|---|",
        "| `-n`, `--how-many` | `number` | 3 | A number. |",
        "| `--switch` | `switch` | off | On or off. |",
        "| `--place` | `place` | the nearest | A file. Also `PLACE`. |",
        "| `--size` | `size` | 5 | Of what is there. |",
    ]
    assert TABLE.documentation(ignored=True).splitlines()[2:] == ["| `--old` | `old` | Nothing is old. |"]


@pytest.mark.parametrize("name", ["TEST_NUMBRE", "TEST_SWITCHH"])
def test_variables_that_are_nearly_an_options_are_refused(name):
    with pytest.raises(StartupError, match=f"{name} is no option's: is TEST_(NUMBER|SWITCH) meant"):
        TABLE.check_variables([name, "TEST_OTHER"])


def test_variables_of_options_of_kubernetes_and_of_others_are_not():
    table = OptionTable("TEST_", (Option("telemetry_port", ("--port",), "A port."), *TABLE))
    services = ("TEST_PORT", "TEST_SERVICE_HOST", "TEST_SERVICE_PORT_GRPC", "TEST_PORT_8000_TCP_ADDR")
    table.check_variables(["TEST_NUMBER", "PLACE", "TEST_ANYTHING_ELSE", "NUMBRE", "TEST_TELEMETRY_PORT", *services])
