from __future__ import annotations

import socket
import time

import pytest

from daemon.cut_off import cut_off_after


def test_what_ends_in_time_is_left_alone() -> None:
    ours, peer = socket.socketpair()
    with ours, peer:
        with cut_off_after(1, lambda: [ours]):
            pass
        time.sleep(1.2)
        peer.send(b"x")
        assert ours.recv(1) == b"x"


def test_connections_that_are_made_after_the_time_are_cut_off() -> None:
    ours, peer = socket.socketpair()
    made: list[socket.socket | None] = [None]
    answers = []

    def ask() -> None:
        with cut_off_after(0.05, lambda: made):
            time.sleep(0.1)
            made[0] = ours
            answers.append(ours.recv(1))

    with ours, peer:
        ours.settimeout(60)
        with pytest.raises(TimeoutError):
            ask()
    assert answers == [b""]


def test_what_fails_in_time_says_why() -> None:
    with pytest.raises(ValueError, match="its own"), cut_off_after(60, list):
        raise ValueError("its own")
