"""Prints what pyproject.toml asks for, line by line: `requirements.py build`, or `requirements.py run [EXTRA...]`."""

from __future__ import annotations

import sys
import tomllib
from pathlib import Path

what, *extras = sys.argv[1:]
pyproject = tomllib.loads(Path("pyproject.toml").read_text())
if what == "build":
    wanted = pyproject["build-system"]["requires"]
else:
    optional = pyproject["project"]["optional-dependencies"]
    wanted = [*pyproject["project"]["dependencies"], *(each for extra in extras for each in optional[extra])]
print(*wanted, sep="\n")
