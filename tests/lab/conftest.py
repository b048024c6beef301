"""Fixtures of the lab; a failed test shows what its programs wrote."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

# For messages with the values that differ, as in test modules.
for module in ("daemons", "traffic", "transfer"):
    pytest.register_assert_rewrite(f"tests.lab.{module}")

from tests.lab.daemons import Lab  # noqa: E402

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

HERE = Path(__file__).parent
LABS = pytest.StashKey[list[Lab]]()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.lab)
            if os.geteuid() != 0:
                item.add_marker(pytest.mark.skip("needs root, for network namespaces and BPF"))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    report = yield
    if report.failed:
        programs = [program for lab in item.stash.get(LABS, []) for program in lab.programs.started]
        report.sections += [(f"output of {program}", program.tail()) for program in programs]
    return report


@pytest.fixture
def new_lab(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Callable[[], Lab]]:
    """Make labs that know nothing of each other, each with a centre and no hosts."""
    labs = request.node.stash[LABS] = []

    def make() -> Lab:
        directory = tmp_path / f"lab{len(labs)}"
        directory.mkdir()
        labs.append(Lab(directory))
        return labs[-1]

    yield make
    for lab in labs:
        lab.close()


@pytest.fixture
def lab(new_lab: Callable[[], Lab]) -> Lab:
    """One lab."""
    return new_lab()
