"""Programs of Debian packages, unpacked into the cache where they are not installed: no service is started."""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import shutil
import subprocess
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable

ROOT = Path(__file__).resolve().parents[1]
CACHE = ROOT / ".cache"


def once(made: Path, make: Callable[[], object]) -> None:
    """Have *make* make *made*, a part of the cache, unless it is there: one for all processes that run tests."""
    if made.exists():
        return
    made.parent.mkdir(parents=True, exist_ok=True)
    with made.with_name(f"{made.name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not made.exists():
            make()


def debian_program(path: str, *packages: str, release: str | None = None) -> str:
    """Return the program at *path* of the first of these Debian packages that has it, unless it is installed anyway.

    With *release* it is the package of that release of Debian, also on a machine with another one.
    The test is skipped where the package cannot be had.
    """
    installed = shutil.which(Path(path).name, path=f"{os.environ['PATH']}:/usr/sbin")
    if installed and not release:
        return installed
    for package in packages:
        unpacked = CACHE / "packages" / (f"{package}-{release}" if release else package)
        with contextlib.suppress(subprocess.CalledProcessError, LookupError, PermissionError):
            once(unpacked, partial(_fetch, package, unpacked, release))
        if (unpacked / path).exists():
            return str(unpacked / path)
    pytest.skip(f"{path} cannot be had: no package {' or '.join(packages)} can be fetched that has it")


def debian_command(path: str, package: str) -> tuple[str, ...]:
    """Return what runs the program at *path* of a Debian package with the libraries of the packages that it needs.

    The test is skipped where they cannot be had.
    """
    if installed := shutil.which(Path(path).name, path=f"{os.environ['PATH']}:/usr/sbin"):
        return (installed,)
    unpacked = CACHE / "packages" / f"{package}-with-libraries"
    with contextlib.suppress(subprocess.CalledProcessError):
        once(unpacked, partial(_fetch_all, package, unpacked))
    if not (unpacked / path).exists():
        pytest.skip(f"{path} cannot be had: the package {package} cannot be fetched")
    libraries = ":".join(map(str, (unpacked / "usr/lib").glob("*-linux-gnu*")))
    return ("env", f"LD_LIBRARY_PATH={libraries}", str(unpacked / path))


def _fetch_all(package: str, target: Path) -> None:
    """Unpack a package and those that it needs and that are not installed."""
    work = target.with_name(f"{target.name}.new")
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    plan = _apt(["--simulate", "--no-install-recommends", "install", package], work)
    _apt(["download", *re.findall(r"^Inst (\S+)", plan, re.MULTILINE)], work)
    for archive in work.glob("*.deb"):
        subprocess.run(["dpkg-deb", "-x", archive, work / "root"], check=True)
    shutil.rmtree(target, ignore_errors=True)
    (work / "root").rename(target)
    shutil.rmtree(work)


def _fetch(package: str, target: Path, release: str | None) -> None:
    work = target.with_name(f"{target.name}.new")
    shutil.rmtree(work, ignore_errors=True)
    work.mkdir(parents=True)
    options = []
    if release:
        options = _release_options(release, work)
        _apt([*options, "update"], work)
    _apt([*options, "download", package], work)
    (archive,) = work.glob("*.deb")
    subprocess.run(["dpkg-deb", "-x", archive, work / "root"], check=True)
    shutil.rmtree(target, ignore_errors=True)
    (work / "root").rename(target)
    shutil.rmtree(work)


def _apt(arguments: list[str], directory: Path) -> str:
    command = ["apt-get", "-qq", "-o", "APT::Sandbox::User=root", *arguments]
    return subprocess.run(command, check=True, cwd=directory, capture_output=True, text=True).stdout


def _release_options(release: str, directory: Path) -> list[str]:
    """Return what makes apt see another release, from the same server, without a trace in its own state."""
    targets = subprocess.run(
        ["apt-get", "indextargets", "--format", "$(SITE) $(RELEASE) $(COMPONENT)", "Created-By: Packages"],
        check=True,
        capture_output=True,
        text=True,
    ).stdout
    own = next(line for line in Path("/etc/os-release").read_text().splitlines() if line.startswith("VERSION_CODENAME"))
    sites = re.findall(rf"^(\S+) {own.partition('=')[2]} main$", targets, re.MULTILINE)
    if not sites:
        raise LookupError("apt has no sources")
    for part in ("state/lists/partial", "archives/partial"):
        (directory / part).mkdir(parents=True)
    (directory / "sources.list").write_text(f"deb {sites[0]} {release} main\n")
    return [
        *("-o", f"Dir::State={directory}/state", "-o", "Dir::State::status=/dev/null", "-o", f"Dir::Cache={directory}"),
        *("-o", f"Dir::Etc::sourcelist={directory}/sources.list", "-o", "Dir::Etc::sourceparts=-"),
    ]
