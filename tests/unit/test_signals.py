import signal
import subprocess
import sys

import pytest

PROGRAM = """
import asyncio, os, signal, sys
from daemon.signals import stop_event
async def main():
    stopping = stop_event()
    for number in sys.argv[1:]:
        os.kill(os.getpid(), getattr(signal, number))
        await asyncio.sleep(0.01)
    print("stopping" if stopping.is_set() else "running")
asyncio.run(main())
"""


def run(*numbers, within=()):
    command = ["env", "--default-signal=HUP", *within, sys.executable, "-c", PROGRAM, *numbers]
    return subprocess.run(command, capture_output=True, text=True, check=True, stdin=subprocess.DEVNULL).stdout.strip()


@pytest.mark.parametrize("number", ["SIGTERM", "SIGINT", "SIGHUP"])
def test_a_daemon_ends_in_good_order(number):
    assert run(number) == "stopping"


@pytest.mark.parametrize("first", ["SIGTERM", "SIGHUP"])
def test_a_terminal_that_is_closed_ends_it_in_good_order_however_often_it_says_so(first):
    assert run(first, "SIGHUP") == "stopping"


def test_a_second_signal_ends_it_at_once():
    with pytest.raises(subprocess.CalledProcessError) as ended:
        run("SIGTERM", "SIGTERM")
    # By itself: of the first process of a container the kernel takes no signal that it has no handler for.
    assert ended.value.returncode == 128 + signal.SIGTERM


def test_under_nohup_it_outlives_its_terminal():
    assert run("SIGHUP", within=["nohup"]) == "running"
