"""Programs of Debian packages, unpacked into the cache where they are not installed: no service is started."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
CACHE = ROOT / ".cache"


def debian_program(package: str, path: str, *, release: str | None = None) -> str:
    """Return the program at *path* of a Debian package: the machine's own, else an unpacked one.

    With *release* it is the package of that release of Debian, also on a machine with another one.
    The test is skipped where the package cannot be had.
    """
    installed = shutil.which(Path(path).name, path=f"{os.environ['PATH']}:/usr/sbin")
    if installed and not release:
        return installed
    unpacked = CACHE / "packages" / (f"{package}-{release}" if release else package)
    if not (unpacked / path).exists():
        try:
            _fetch(package, unpacked, release)
        except (subprocess.CalledProcessError, LookupError):
            pytest.skip(f"the Debian package {package} cannot be fetched")
    return str(unpacked / path)


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


def _apt(arguments: list[str], directory: Path) -> None:
    command = ["apt-get", "-qq", "-o", "APT::Sandbox::User=root", *arguments]
    subprocess.run(command, check=True, cwd=directory, capture_output=True)


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
