"""What is built from source with Go, once."""

from __future__ import annotations

import os
import shutil
import subprocess
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Mapping

LEAST_GO = (1, 25)
ENVIRONMENT = {"GOFLAGS": "-mod=mod"}


def require_go(what: str) -> None:
    """Skip the test where there is no Go that *what* can be built with."""
    needed = f"Go {'.'.join(map(str, LEAST_GO))} is needed to build {what}"
    if not shutil.which("go"):
        pytest.skip(f"{needed}, and there is none")
    version = subprocess.run(["go", "env", "GOVERSION"], check=True, capture_output=True, text=True).stdout
    if tuple(map(int, version.strip().removeprefix("go").split(".")[:2])) < LEAST_GO:
        pytest.skip(f"{needed}; this is {version.strip()}")


def build(what: str, command: list[str], directory: os.PathLike[str], env: Mapping[str, str] = {}) -> str:
    """Run a step of the build of *what*, and return what it writes; the test is skipped where it fails."""
    environment = os.environ | ENVIRONMENT | env
    done = subprocess.run(command, cwd=directory, env=environment, check=False, capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"{what} cannot be built: {done.stderr.strip()[-500:]}")
    return done.stdout
