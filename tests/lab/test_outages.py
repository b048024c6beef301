"""Whatever is killed, stopped, down or cut off for a while: the totals at the receiver are exact."""

from __future__ import annotations

import signal
import time
from typing import TYPE_CHECKING

from tests.lab.daemons import INTAKE_PORT
from tests.lab.transfer import Transfer
from tests.otlp_sink import ACCEPT, Answer

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.lab.daemons import Lab

OUTAGE_S = 60
SIZE = 1000 << 20
BITRATE = "105M"  # so that it lasts 80 s
NO_ANSWER = {"input_rules": f"tcp sport {INTAKE_PORT} drop"}
OF_FLOWS = b"tcp.bytes"  # requests of the reducer's own metrics are sent once
CUT_OFF = NO_ANSWER | {"output_rules": f"tcp dport {INTAKE_PORT} drop"}


def begin(lab: Lab, *options: str, size: int = SIZE) -> Transfer:
    """Start a transfer under the eyes of two collectors and let the first windows go by."""
    transfer = Transfer(lab)
    transfer.reducer = lab.start_reducer_with_sink(*options)
    transfer.watch()
    transfer.begin(size, BITRATE)
    return transfer


def test_a_reducer_that_is_killed_three_times(lab: Lab, tmp_path: Path) -> None:
    data = ("--data-dir", str(tmp_path / "data"))
    transfer = begin(lab, *data, size=560 << 20)
    sink = lab.sink
    for _ in range(3):
        # Windows are stored whose acknowledgement the collector does not see: it will send their batches again.
        transfer.client.firewall("no-answer", **NO_ANSWER)
        time.sleep(5)
        # A request has been taken, but the reducer does not know it yet: it will send it again.
        sink.default = Answer(delay_s=3)
        taken = len(sink.requests)
        sink.wait(lambda sink, taken=taken: any(OF_FLOWS in each for each in sink.requests[taken:]))
        assert transfer.reducer.stop(signal.SIGKILL) == -signal.SIGKILL
        sink.default = ACCEPT
        transfer.client.firewall("no-answer")
        transfer.reducer = lab.start_reducer_with_sink(*data)
        time.sleep(2)
    transfer.check(transfer.finish(), named=False)
    assert len(sink.requests) - len(set(sink.requests)) >= 3


def test_outages_of_a_minute(new_lab: Callable[[], Lab]) -> None:
    """All at the same time, each in a lab of its own, to take a minute together."""
    stopped, receiver_down, cut_off = transfers = [begin(new_lab()) for _ in range(3)]
    time.sleep(5)
    stopped.reducer.pause()
    receiver_down.lab.stop_sink()
    cut_off.client.firewall("cut-off", **CUT_OFF)
    time.sleep(OUTAGE_S)
    stopped.reducer.resume()
    receiver_down.lab.start_sink()
    cut_off.client.firewall("cut-off")
    for transfer in transfers:
        transfer.check(transfer.finish(), named=False)


def test_a_collector_that_is_stopped_for_a_while(lab: Lab) -> None:
    size = 160 << 20
    transfer = begin(lab, size=size)
    time.sleep(3)
    for collector in transfer.collectors:
        collector.pause()
    time.sleep(6)
    for collector in transfer.collectors:
        collector.resume()
    transfer.check(transfer.finish(), named=False)
