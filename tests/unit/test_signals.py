import subprocess
import sys

import pytest

PROGRAM = """
import asyncio, os, signal, sys
from daemon.signals import stop_event
async def main():
    stopping = stop_event()
    os.kill(os.getpid(), getattr(signal, sys.argv[1]))
    await asyncio.sleep(0)
    await asyncio.sleep(0.01)
    print("stopping" if stopping.is_set() else "running")
asyncio.run(main())
"""


def run(number, *, within=()):
    command = [*within, sys.executable, "-c", PROGRAM, number]
    return subprocess.run(command, capture_output=True, text=True, check=True, stdin=subprocess.DEVNULL).stdout.strip()


@pytest.mark.parametrize("number", ["SIGTERM", "SIGINT", "SIGHUP"])
def test_a_daemon_ends_in_good_order(number):
    assert run(number) == "stopping"


def test_under_nohup_it_outlives_its_terminal():
    assert run("SIGHUP", within=["nohup"]) == "running"
