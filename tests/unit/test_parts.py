import subprocess
import sys

import pytest

from daemon.parts import part

PARTS = {
    "console": ("reducer", "polars"),
    "reducer": ("reducer", "polars"),
    "k8s_collector": ("k8s", "prometheus_client"),
    "cloud_collector": ("cloud", "prometheus_client"),
}


@pytest.mark.parametrize("package", PARTS)
def test_a_missing_library_is_told_in_one_line(package):
    extra, library = PARTS[package]
    command = f"import sys; sys.modules[{library!r}] = None; import {package}.cli"
    done = subprocess.run([sys.executable, "-c", command], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    told = f"error: the package {library} is not installed: run ./build.sh setup, or pip install '.[{extra}]'\n"
    assert done.stderr == told


def test_an_interrupted_import_ends_without_a_word(capsys):
    with pytest.raises(SystemExit) as ended, part("reducer"):
        raise KeyboardInterrupt
    assert ended.value.code == 130
    assert capsys.readouterr().err == ""
