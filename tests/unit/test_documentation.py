"""The pages in docs, and the README, have what the commands and the checks have."""

from __future__ import annotations

import re
from importlib import import_module
from typing import TYPE_CHECKING

import pytest

from daemon.documentation import options
from intake.labels import LABEL_VARIABLES, LONGEST_VALUE
from kernel_collector.concerns import KINDS
from kernel_collector.preflight import HOOKS
from reducer.options import OPTIONS
from tests.packages import ROOT

if TYPE_CHECKING:
    import click

WRITTEN = (ROOT / "docs/kernel-collector.md").read_text()


def command(package: str) -> click.Command:
    return import_module(f"{package}.cli").main


@pytest.mark.parametrize("package", ["kernel_collector", "k8s_collector", "cloud_collector"])
def test_options_are_up_to_date(package: str) -> None:
    written = (ROOT / f"docs/{package.replace('_', '-')}.md").read_text()
    assert options(command(package)) in written, f"take the table that python -m daemon.documentation {package} prints"


def test_the_table_has_names_variables_and_defaults() -> None:
    table = options(command("kernel_collector"))
    assert "| `--intake-port`, `EBPF_NET_INTAKE_PORT` | 8000 | Port of the reducer. |" in table
    assert "| `--record-limit` | 1024 |" in table
    assert "| `--disable-nat`, `EBPF_NET_DISABLE_NAT` | off |" in table


def test_labels_of_the_operator_are_there() -> None:
    assert [name for name in LABEL_VARIABLES.values() if f"`{name}`" not in WRITTEN] == []
    assert f"at most {LONGEST_VALUE} characters" in WRITTEN


def test_each_line_of_preflight_about_a_hook_is_there() -> None:
    names = [name for _, _, name in HOOKS] + [kind.name for kind in KINDS]
    assert [name for name in names if f"\n| {name} | " not in WRITTEN] == []


def rows(table: str) -> list[list[str]]:
    """Return the cells of each row of a table, without the marks of code."""
    return [[cell.replace("`", "").strip() for cell in line.strip("|").split(" |")] for line in table.splitlines()[2:]]


@pytest.mark.parametrize(
    ("daemon", "table"),
    [("collector", options(command("kernel_collector"))), ("reducer", OPTIONS.documentation(ignored=False))],
)
def test_settings_in_the_readme_are_those_of_the_commands(daemon: str, table: str) -> None:
    [told] = re.findall(rf"^\| {daemon} \| \| \|\n(?:\|.*\n)+", (ROOT / "README.md").read_text(), re.MULTILINE)
    name = re.compile(r"--[a-z][a-z-]+|\b[A-Z]+(?:_[A-Z]+)+\b(?!_\*)")
    pages = "".join((ROOT / f"docs/{page}.md").read_text() for page in ("kernel-collector", "reducer"))
    defaults = {
        each: cells[-2].partition(", or ")[0] or "none" for cells in rows(table) for each in name.findall(cells[0])
    }
    for names, default, _ in rows(told):
        assert [each for each in name.findall(names) if f"`{each}`" not in pages] == []
        known = [defaults.get(each, "none") for each in name.findall(names)]
        for value in [] if default in ("", *known) else default.replace("all", "none").split(", "):
            assert value in known or f"(`{value}`)" in pages, (names, known)
