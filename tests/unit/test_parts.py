import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from daemon.parts import part

PARTS = {
    "console": ("reducer", "polars"),
    "reducer": ("reducer", "polars"),
    "k8s_collector": ("k8s", "prometheus_client"),
    "cloud_collector": ("cloud", "prometheus_client"),
    "kernel_collector": ("", "numpy"),
}


@pytest.mark.parametrize("package", PARTS)
def test_a_missing_library_is_told_in_one_line(package):
    extra, library = PARTS[package]
    command = f"import sys; sys.modules[{library!r}] = None; import {package}.cli"
    done = subprocess.run([sys.executable, "-c", command], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    what = f"'.[{extra}]'" if extra else "."
    told = f"error: the package {library} is not installed: run ./build.sh setup, or pip install {what}\n"
    assert done.stderr == told


IMPORTS_FOR_LONG = """
import time
from daemon.parts import part

with part("reducer"):
    print("importing", flush=True)
    time.sleep(60)
"""


def test_an_interrupted_import_ends_without_a_word():
    command = ("env", "--default-signal=INT", sys.executable, "-c", IMPORTS_FOR_LONG)
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as importing:
        assert importing.stdout
        assert importing.stdout.readline() == "importing\n"
        importing.send_signal(signal.SIGINT)
        assert importing.communicate(timeout=50) == ("", "")
        assert importing.returncode == 128 + signal.SIGINT


def test_what_comes_after_the_import_is_interrupted_as_ever():
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell has what it runs beside ignore it
    try:
        with part("reducer"):
            assert signal.getsignal(signal.SIGINT) is not signal.default_int_handler
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    finally:
        signal.signal(signal.SIGINT, before)


@pytest.mark.skipif(os.geteuid() != 0, reason="a pid namespace of its own needs root")
def test_the_first_process_of_a_container_ends_while_it_imports():
    command = ("unshare", "--pid", "--fork", "--kill-child", sys.executable, "-c", IMPORTS_FOR_LONG)
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as container:
        assert container.stdout
        assert container.stdout.readline() == "importing\n"
        (first,) = Path(f"/proc/{container.pid}/task/{container.pid}/children").read_text().split()
        os.kill(int(first), signal.SIGTERM)
        try:
            assert container.wait(50) == 128 + signal.SIGTERM
        finally:
            container.kill()
