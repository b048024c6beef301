"""The order of the reducer's packages: none knows of those that come after it."""

import ast
from pathlib import Path

import pytest

REDUCER = Path(__file__).parents[2] / "reducer"
LAYERS = ("columns", "knowledge", "windows", "matching", "naming", "rolling_up", "outputs")


def imported(module: Path) -> set[str]:
    names = []
    for each in ast.walk(ast.parse(module.read_text())):
        if isinstance(each, ast.ImportFrom):
            names += [f"{each.module}.{alias.name}" for alias in each.names]
        elif isinstance(each, ast.Import):
            names += [alias.name for alias in each.names]
    return {name.split(".")[1] for name in names if name.startswith("reducer.")}


@pytest.mark.parametrize("layer", LAYERS)
def test_a_package_imports_those_before_it_alone(layer):
    modules = sorted((REDUCER / layer).glob("*.py"))
    assert len(modules) > 2
    allowed = set(LAYERS[: LAYERS.index(layer) + 1])
    assert {module.name: imported(module) - allowed for module in modules if imported(module) - allowed} == {}


def test_all_packages_have_their_place():
    assert {each.parent.name for each in REDUCER.glob("*/__init__.py")} == set(LAYERS)
